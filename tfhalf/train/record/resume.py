"""Whether a checkpoint belongs to the run that is to be taken up."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tfhalf import config
from tfhalf.config.messages import dotted, one_line, shown
from tfhalf.data import Splits
from tfhalf.data.preprocess import AnyPreprocess
from tfhalf.errors import ConfigError, ResumeError

# What is made of a trained model may change, and how images are held and fed, when the run is saved, and what becomes
# of one that blows up: no number of a training that goes well depends on it.
# What is worked out again is so to the last bits.
_FREE = {
    ("export",),
    ("verify",),
    ("data", "decode"),
    ("data", "decoder"),
    *(("train", key) for key in ("feed", "remat", "remat_gib", "checkpoint_seconds", "keep_checkpoints", "blowup")),
}
_NAMED = 8
_EPOCHS = ("train", "epochs")


def check_pipeline(record: dict[str, Any], pipeline: config.Pipeline, run: Path) -> None:
    """Compare the pipeline that ``run`` was trained with, a dump of it in ``record``.

    Raises:
        ConfigError: names the keys that differ, with what they were and are. ``train.epochs`` may, where the schedule
            says the same of the epochs that are done.
    """
    differing = list(_differing(_filled(record["pipeline"]), pipeline.dump()))
    if [at for at, _, _ in differing] == [_EPOCHS]:
        _check_epochs(record, differing[0][1], pipeline, run)
    elif differing:
        named = ", ".join(f"{dotted(at)} {shown(old)} -> {shown(new)}" for at, old, new in differing[:_NAMED])
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise ConfigError(
            one_line(
                f"{run}: was trained with other settings: {named}{more}; bring them back, or begin a new run from its "
                f"weights: --from {shlex.quote(str(run))}"
            )
        )


def _check_epochs(record: dict[str, Any], before: int, pipeline: config.Pipeline, run: Path) -> None:
    """A run may be lengthened or shortened where what it has done would have been the same.

    Raises:
        ConfigError: it would not; or more than the new number is done.
    """
    train, done, within = pipeline.train, record.get("epochs_done", 0), record.get("done", 0)
    optimizer = train.optimizer
    why = None
    if train.schedule.name in ("cosine", "triangular"):
        why = f"schedule {train.schedule.name!r} spans all epochs"
    elif optimizer.lookahead and optimizer.lookahead.power:
        why = "train.optimizer.lookahead.power goes by the share of training that is done"
    elif train.sizes:
        why = "train.sizes divides the epochs"
    elif record.get("ended") and (optimizer.ema_momentum or optimizer.lookahead):
        why = "its training has ended, and averaged weights have taken the place of those that it would go on with"
    changed = f"{run}: train.epochs {before} -> {train.epochs}"
    if why:
        raise ConfigError(
            f"{changed}: {why}; bring it back, or begin a new run from its weights: --from {shlex.quote(str(run))}"
        )
    if train.epochs < done + bool(within):
        more = f" and {within:,} steps" if within else ""
        raise ConfigError(f"{changed}: {done} epochs{more} are done; {done + bool(within)} or more are accepted")


def has_ended(record: dict[str, Any], pipeline: config.Pipeline) -> bool:
    """Whether training had ended at the checkpoint, and ``pipeline`` asks for no more epochs than it was to have."""
    return bool(record["ended"]) and pipeline.train.epochs <= record["pipeline"]["train"]["epochs"]


def check_inputs(record: dict[str, Any], preprocess: AnyPreprocess, splits: Splits, run: Path) -> None:
    """Compare how inputs became numbers.

    Raises:
        ResumeError: as `check_preprocess` and `check_vocabularies` do.
    """
    check_preprocess(record, preprocess, run)
    check_vocabularies(record, splits, run)


def check_preprocess(record: dict[str, Any], preprocess: AnyPreprocess, run: Path) -> None:
    """Compare what images were normalised by.

    A sample is measured where images stay encoded, which ``data.decode: auto`` decides by the memory.

    Raises:
        ResumeError: it is not what ``preprocess`` has.
    """
    before = record.get("preprocess")
    if before is None:
        return
    now, then = (_vectors(values) for values in (preprocess.to_dict(), before))
    for name, values in now.items():
        # Another CPU may add in another order.
        old: Any = then.get(name)
        if old is None or np.shape(values) != np.shape(old) or not np.allclose(values, old, rtol=1e-6, atol=1e-9):
            raise ResumeError(
                f"{run}: its inputs had {name} {old}, and now have {values}; bring the data back as it was, "
                f"or set data.decode in {run / 'pipeline.yaml'} to what it was, eager or lazy"
            )


def vocabulary_digests(splits: Splits) -> dict[str, str]:
    """Of each input that has a vocabulary a hash of its words, their order, how many of a text count, and how texts are
    cut into them where that is not the default."""
    digests = {}
    for name, words in splits.vocabularies.items():
        facts = [splits.shapes[name], *words]
        if (text := splits.texts.get(name)) is not None:
            ways, usual = ([how.standardize, how.split, how.ngrams] for how in (text.settings, config.Text()))
            facts += [ways] if ways != usual else []
        digests[name] = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return digests


def check_vocabularies(record: dict[str, Any], splits: Splits, run: Path) -> None:
    """Compare the words and categories that ``run`` was trained with: other numbers would mean other words.

    Raises:
        ResumeError: names the input whose vocabulary is another one now.
    """
    now = vocabulary_digests(splits)
    for name, digest in record.get("vocabularies", now).items():
        if now.get(name) != digest:
            raise ResumeError(
                f"{run}: the vocabulary of its input {name!r} is another one now; bring the data (and the file of "
                "data.text.vocabulary, if there is one) back as it was, or start the run anew"
            )


def _vectors(values: Any, above: str = "") -> dict[str, Any]:
    """Every vector of a normalisation, by its way in the dict; None, of inputs that are not changed, is none."""
    if not isinstance(values, dict):
        return {} if values is None else {above: values}
    return {
        key: one for name, inner in values.items() for key, one in _vectors(inner, f"{above}.{name}".strip(".")).items()
    }


def _filled(pipeline: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of keys that did not exist when it was written."""
    try:
        return config.Pipeline.model_validate_json(json.dumps(pipeline)).dump()
    except ValidationError:
        return pipeline


def _differing(old: Any, new: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if at in _FREE:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differing(old.get(key), new.get(key), (*at, key))
    elif old != new:
        yield at, old, new
