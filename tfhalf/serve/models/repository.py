"""The models of the exports folders: an index made from their listing, kept up to date, and what is loaded of it.

A new version is loaded, checked and warmed up beside the old one, which answers until the new one can; then it drains.
One that does not load changes nothing but `Model.failures`.
"""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path
from typing import Any

from tfhalf.errors import InputError, RequestError, ShortfallError, TfhalfError
from tfhalf.serve.log import Log
from tfhalf.serve.metrics import Metrics
from tfhalf.serve.models import scan
from tfhalf.serve.models.model import Failure, Model
from tfhalf.serve.models.open import OpenVersion, open_version
from tfhalf.serve.models.version import Loaded, load, read
from tfhalf.serve.settings import Settings
from tfhalf.serve.threads import StillBusyError, Threads
from tfhalf.text import one_line

_AT_A_TIME = 4  # models that are read
_LIST_SECONDS = 10.0  # to list a folder
_READ_SECONDS = 20.0  # to read and check a version, and more for a large one
_SLOWEST = 10e6  # bytes a second
_OPEN_SECONDS = 600.0  # to open and warm up one; compiling for each batch size takes its time


class Repository:
    """Lives on one event loop; files are read in threads, a few models at a time, and models opened one at a time. What
    hangs or fails while one model is read keeps no other from being served, or updated."""

    def __init__(self, settings: Settings, metrics: Metrics, log: Log, opener: OpenVersion = open_version) -> None:
        self._settings, self._metrics, self._log, self._opener = settings, metrics, log, opener
        self.models: dict[str, Model] = {}
        self.started = False
        self._busy = asyncio.Lock()
        self._threads = Threads()
        self._listed: dict[Path, scan.Models] = {}
        self._reading = asyncio.Semaphore(_AT_A_TIME)
        self._opening = asyncio.Lock()
        self._poller: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether every model that was not unloaded answers."""
        if not self.started or self._closing:
            return False
        return all(model.ready or model.unloaded for model in self.models.values())

    async def start(self) -> None:
        """Index and load everything, then go on looking for new versions.

        Raises:
            ArtifactError: a path holds nothing to serve.
            InputError: a pin or a label names what is not there.
            ShortfallError: no model at all loads.
        """
        await self._threads.run("exports", _LIST_SECONDS, scan.check, self._settings.exports)
        await self._refresh()
        for path in self._settings.exports:
            scan.check_not_empty(path, self._listed.get(path, ()))
        self._check_names()
        if not any(model.ready for model in self.models.values()):
            messages = [f.message for model in self.models.values() for f in model.failures.values()]
            raise ShortfallError(f"no model can be served: {'; '.join(messages)[:1000]}")
        self.started = True
        if self._settings.poll_seconds > 0:
            self._poller = asyncio.create_task(self._poll())

    async def refresh(self) -> None:
        """Look at the folders now, and load and retire what has changed."""
        await self._refresh()

    def stop_accepting(self) -> None:
        """From now on not ready, and no new version is looked for."""
        self._closing = True
        if self._poller is not None:
            self._poller.cancel()

    async def close(self, seconds: float) -> bool:
        """Answer what is queued within ``seconds``, the rest with 503; whether nothing was left over."""
        self.stop_accepting()
        versions = [loaded for model in self.models.values() for loaded in model.loaded.values()]
        drains = [asyncio.ensure_future(loaded.batcher.drain()) for loaded in versions] + list(self._retiring)
        late: set[Any] = set()
        if drains:
            _, late = await asyncio.wait(drains, timeout=max(0.0, seconds))
        for loaded in versions:
            loaded.batcher.abandon()
        for task in late:
            task.cancel()
        await asyncio.sleep(0)  # futures that were failed just now wake their requests
        return not late

    def model(self, name: str) -> Model:
        """The model of that name in the index.

        Raises:
            RequestError: 404.
        """
        model = self.models.get(name)
        if model is None:
            raise RequestError(404, f"there is no model {name[:100]!r}; GET /v2/repository/index lists what there is")
        return model

    def choose(self, name: str, version: str | None = None) -> Loaded:
        """The version that answers a request for ``name``; ``version`` is a number, a label or None.

        Raises:
            RequestError: 404, 503.
        """
        return self.model(name).choose(version)

    async def set_loaded(self, name: str, loaded: bool) -> None:
        """Load or unload a model on request.

        Raises:
            RequestError: 404, no such model; 400, it does not load.
        """
        if name not in self.models:
            await self._refresh()  # it may be new
        model = self.model(name)
        model.unloaded = not loaded
        if loaded:
            model.failures.clear()
        await self._refresh()
        if loaded and not model.ready:
            message = next((f.message for f in model.failures.values()), "it holds no version")
            raise RequestError(400, f"model {name!r} does not load: {message}")

    def index(self) -> list[dict[str, str]]:
        """Rows of the repository index: name, version, state, reason."""
        rows = []
        for model in self.models.values():
            for number in sorted({*model.available, *model.loaded}):
                row = {"name": model.name, "version": str(number)}
                if number in model.loaded:
                    row |= {"state": "READY", "reason": ""}
                elif number in model.failures:
                    row |= {"state": "UNAVAILABLE", "reason": model.failures[number].message}
                else:
                    row |= {
                        "state": "UNAVAILABLE",
                        "reason": "unloaded" if model.unloaded else "not chosen to be served",
                    }
                rows.append(row)
        return rows

    # --- keeping up with the folders ----------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            try:
                await self._refresh()
            except (OSError, TfhalfError) as error:  # a folder that cannot be read now may be read the next time
                self._log.event("poll_failed", error=str(error))
            except Exception as error:  # noqa: BLE001  # a fault of this program's: it is logged, and looked for again
                self._log.event("fault", error=repr(error), trace=traceback.format_exc(limit=20))

    async def _refresh(self) -> None:
        async with self._busy:
            listings = await asyncio.gather(*(self._list(path) for path in self._settings.exports))
            models = scan.merge(listings)
            for name in sorted(models):
                if name not in self.models:
                    self.models[name] = self._new(name)
            await asyncio.gather(*(self._keep_up(model, models.get(name)) for name, model in self.models.items()))

    async def _list(self, path: Path) -> tuple[Path, scan.Models]:
        """Models and versions below ``path``; of what cannot be listed, those that were there before."""
        try:
            bases = await self._threads.run(path, _LIST_SECONDS, scan.bases, path)
        except StillBusyError:
            return path, self._listed.get(path, {})
        except (OSError, TfhalfError) as error:
            self._log.event("folder_not_listed", path=str(path), error=str(error))
            return path, self._listed.get(path, {})
        below = await asyncio.gather(*(self._below(name, base) for name, base in bases.items()))
        models = self._listed[path] = {name: there for name, there in zip(bases, below, strict=True) if there}
        return path, models

    async def _below(self, name: str, base: Path) -> dict[int, Path]:
        try:
            return await self._threads.run(base, _LIST_SECONDS, scan.below, base)
        except StillBusyError:
            pass
        except (OSError, TfhalfError) as error:
            self._log.event("model_not_listed", model=name, error=str(error))
        return self.models[name].available if name in self.models else {}

    async def _keep_up(self, model: Model, available: dict[int, Path] | None) -> None:
        model.available = available or {}
        try:
            await self._forget_repaired(model)
            await self._reconcile(model)
        except (OSError, TfhalfError) as error:
            self._log.event("model_not_read", model=model.name, error=str(error))

    def _new(self, name: str) -> Model:
        settings = self._settings
        pins = [version for model, version in settings.pins if model == name]
        return Model(name, pins, [label for label in settings.labels if label.model == name], settings.latest)

    async def _forget_repaired(self, model: Model) -> None:
        """A version that did not load is tried again once its files are others: it may just have been copied."""
        for number, failure in list(model.failures.items()):
            directory = model.available.get(number)
            if directory is None:
                del model.failures[number]
                continue
            try:
                now = await self._threads.run(directory, _LIST_SECONDS, scan.fingerprint, directory)
            except StillBusyError:
                continue
            if now != failure.fingerprint:
                del model.failures[number]

    async def _reconcile(self, model: Model) -> None:
        while missing := sorted(model.due() - set(model.loaded), reverse=True):
            await self._load(model, missing[0])
            if self._closing:
                return
        due = model.due()
        if not due and not model.unloaded:
            return  # its folder is gone or broken: what answers goes on answering
        for number in sorted(set(model.loaded) - due):
            self._retire(model.loaded.pop(number))

    async def _load(self, model: Model, number: int) -> None:
        directory = model.available[number]
        before = None  # of one that hangs: it is tried again as soon as it does not
        try:
            before = await self._threads.run(directory, _LIST_SECONDS, scan.fingerprint, directory)
            patience = _READ_SECONDS + sum(size for _, size, _ in before) / _SLOWEST
            async with self._reading:
                manifest = await self._threads.run(directory, patience, read, directory)
            arguments = (model.name, number, directory, manifest, self._settings, self._metrics, self._opener)
            async with self._opening:
                loaded = await self._threads.run(
                    directory, _OPEN_SECONDS + patience, load, *arguments, dispose=lambda late: late.batcher.abandon()
                )
        except TfhalfError as error:
            late = self._threads.late(directory)
            self._failed(model, number, Failure(str(error), None if late else before))
        except Exception as error:  # noqa: BLE001  # damaged files raise what they like; the server stays
            self._failed(model, number, Failure(f"{type(error).__name__}: {one_line(error)}", before))
        else:
            self._loaded(model, loaded)

    def _loaded(self, model: Model, loaded: Loaded) -> None:
        model.failures.pop(loaded.version, None)
        model.loaded[loaded.version] = loaded
        self._metrics.loads.labels(model.name, "success").inc()
        named = {"model": model.name, "version": loaded.version}
        for engine, reason in loaded.opened.refused.items():
            self._log.event("engine_refused", **named, engine=engine, reason=reason)
        facts = {"runtime": loaded.runtime.about, "verified": loaded.opened.verified, "seconds": loaded.seconds}
        self._log.event("version_loaded", **named, **facts)

    def _failed(self, model: Model, number: int, failure: Failure) -> None:
        model.failures[number] = failure
        self._metrics.loads.labels(model.name, "failure").inc()
        self._log.event("version_failed", model=model.name, version=number, error=failure.message)

    def _retire(self, loaded: Loaded) -> None:
        async def drain() -> None:
            await loaded.batcher.drain()
            self._log.event("version_retired", model=loaded.model, version=loaded.version)

        task = asyncio.create_task(drain())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _check_names(self) -> None:
        for kind, rows in (
            ("--pin", [(model, version) for model, version in self._settings.pins]),
            ("--label", [(label.model, label.version) for label in self._settings.labels]),
        ):
            for name, version in rows:
                model = self.models.get(name)
                if model is None:
                    raise InputError(f"{kind} {name}: there is no such model; there are {', '.join(self.models)}")
                if version is not None and version not in model.available:
                    there = ", ".join(map(str, sorted(model.available)))
                    raise InputError(f"{kind}: {name} has no version {version}; it has {there}")
