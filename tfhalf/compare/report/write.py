"""The files of a comparison's report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfhalf.compare.offers import Offers
from tfhalf.compare.records import Comparison
from tfhalf.compare.report import offers
from tfhalf.compare.report.html import html
from tfhalf.compare.report.markdown import markdown
from tfhalf.files import replacing

HTML, MARKDOWN, TABLE = "report.html", "report.md", "table.json"


def write_reports(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `HTML`, `MARKDOWN` and `TABLE` into ``folder``, each replaced whole.

    Raises:
        OSError: a file cannot be written.
    """
    return _write(html(comparison), markdown(comparison), comparison.to_dict(), folder)


def write_offers(table: Offers, folder: Path) -> list[Path]:
    """`write_reports` of a comparison of formats.

    Raises:
        OSError: a file cannot be written.
    """
    return _write(offers.html(table), offers.markdown(table), table.to_dict(), folder)


def _write(page: str, text: str, table: dict[str, Any], folder: Path) -> list[Path]:
    content = json.dumps(_plain(table), indent=1, allow_nan=False) + "\n"
    texts = {HTML: page, MARKDOWN: text, TABLE: content}
    for name, text in texts.items():
        with replacing(folder / name) as beside:
            beside.write_bytes(text.encode())
    return [folder / name for name in texts]


def _plain(content: Any) -> Any:
    """What every reader of JSON takes: numbers that are not finite become null."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content
