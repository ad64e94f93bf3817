"""Image files as the body of a request: one, or several as the files of a form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from tfhalf.data.image_formats import FORMATS, WORDS
from tfhalf.errors import RequestError

FORM = "multipart/form-data"
MOST_IMAGES = 256

_IMAGES = tuple(f"image/{kind.lower()}" for kind in FORMATS)
_RAW = (*_IMAGES, "image/x-ms-bmp", "application/octet-stream", "application/x-www-form-urlencoded", "")


@dataclass(frozen=True)
class Files:
    """Image files of a request, with the names that they came under."""

    names: tuple[str | None, ...]
    contents: tuple[bytes, ...]


def of_body(body: bytes, content_type: str) -> Files:
    """The one file that ``body`` is.

    Raises:
        RequestError: 400, it is empty; 415, another ``content_type`` than those of images.
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind not in _RAW:
        raise RequestError(415, f"Content-Type {kind[:60]!r}; accepted: {', '.join(_IMAGES)}, {FORM}")
    if not body:
        raise RequestError(400, f"the body is empty; send an image file: {WORDS} are read")
    return Files((None,), (body,))


def of_form(body: bytes, content_type: str) -> Files:
    """The files of the form that ``body`` is. It takes its time over one that is full of line ends.

    Raises:
        RequestError: 400, there are none.
    """
    return asyncio.run(_form(body, Headers({"content-type": content_type})))


async def _form(body: bytes, headers: Headers) -> Files:
    async def stream() -> AsyncIterator[bytes]:
        yield bytes(body)

    try:
        parser = MultiPartParser(headers, stream(), max_files=MOST_IMAGES, max_fields=16, max_part_size=1 << 16)  # type: ignore[arg-type]
        parser.spool_max_size = len(body)  # in memory, as the body is: no disk is asked for room
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, f"the form cannot be read: {error.message[:150]}") from None
    except (KeyError, ValueError, UnicodeDecodeError) as error:  # a boundary that is missing or unreadable
        raise RequestError(400, f"the form cannot be read: {str(error)[:150]}") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise RequestError(400, "the form holds no file; send each image as one")
        return Files(tuple(file.filename for file in files), tuple([await file.read() for file in files]))
    finally:
        await form.close()
