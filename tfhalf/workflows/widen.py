"""More layers in float32, where an artifact of a trained net falls short of it: found as `tfhalf export MODEL` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from tfhalf import config
from tfhalf.artifacts.comparison import Comparison, Limits
from tfhalf.artifacts.reference import Reference, joined
from tfhalf.artifacts.share import float32_share
from tfhalf.data.columns import Columns, by_name
from tfhalf.data.preprocess import ColumnsPreprocess
from tfhalf.errors import ArtifactError, ExportError, ParityError
from tfhalf.export.interface import interface_of
from tfhalf.export.islands.find import SearchResult, unfit
from tfhalf.export.islands.graph_simulator import LayerSimulator
from tfhalf.export.islands.search import ROUNDS, Basis, Effort, island_lines, say_shortfalls, search, widened
from tfhalf.export.load.model import Source
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.export.write import parameters
from tfhalf.precision.islands import Island
from tfhalf.precision.keras_graph import graph_of
from tfhalf.progress import Progress
from tfhalf.system.device import float32_exactly
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.job import Job
from tfhalf.verify.compare import badness

SECONDS = 240.0
"""How long layers are searched for in all."""
_LOOKED = 1000  # test images among which those are looked for that float16 answers worst
_WORST = 64  # of them, that the search is on
_EXACT = 4  # of these, that true float16 arithmetic runs

Kept = tuple[Island, ...]


def pipeline_with(pipeline: config.Pipeline, kept: Kept) -> config.Pipeline:
    """``pipeline`` with more layers in ``precision.keep_float32``; itself where there are none."""
    if not kept:
        return pipeline
    patterns = (*pipeline.precision.islands, *(island.pattern for island in kept))
    precision = pipeline.precision.model_copy(update={"keep_float32": patterns})
    return pipeline.model_copy(update={"precision": precision})


@dataclass
class Widening:
    """The layers that a trained net's artifacts need in float32 beside those of its pipeline, as far as they are known.

    ``result`` is the last search's.
    """

    job: Job
    model: keras.Model
    kept: Kept = ()
    result: SearchResult | None = None
    _rounds: int = 0
    _basis: Basis | None = None

    def more(
        self, float16: keras.Model, reference: Reference, failing: Sequence[Comparison], progress: Progress
    ) -> bool:
        """Look for layers without which ``failing`` artifacts fall short; whether there are some, which ``kept`` then
        has too. They are told, with what has to be in the pipeline file.

        Args:
            float16: the net that was written.
            reference: the float32 net's answers to the test set.
        """
        failing = [one for one in failing if one.format.float32_layers_help]
        if not failing or self._rounds >= ROUNDS:
            return False
        say_shortfalls(failing, progress)
        if graph_of(self.model) is None:
            progress.line(
                "           no layers to keep in float32 are looked for: of a subclass of keras.Model none can be; "
                "build the net with keras.Model(inputs, outputs)"
            )
            return False
        try:
            with float32_exactly():
                if self._basis is None:
                    self._basis = _basis(self.job, self.model, float16, reference)
                new = self._searched(self._basis, failing, progress)
        except (ParityError, ExportError, ArtifactError) as error:
            progress.line(f"           the search for layers to keep in float32 ended: {error}")
            return False
        progress.clear()
        if not new or self.result is None:
            return False
        if not self._leaves_float16((*self.kept, *new)):
            names = ", ".join(island.path for island in new[:4])
            progress.line(f"           only with {names} in float32 does it hold, and no parameter is float16 then")
            return False
        self.kept = (*self.kept, *new)
        for line in island_lines(self.kept, self.result, "the time for it was up"):
            progress.line(line)
        patterns = json.dumps(list(pipeline_with(self.job.pipeline, self.kept).precision.islands))
        progress.line(f"           to train and export with them at once, in the pipeline: keep_float32: {patterns}")
        return True

    def _leaves_float16(self, kept: Kept) -> bool:
        pipeline = pipeline_with(self.job.pipeline, kept)
        islands, fold = pipeline.precision.islands, pipeline.export.fold_batchnorm
        rebuilt = rebuild(self.model, keep_float32=islands, fold_batchnorm=fold)
        return float32_share(parameters(rebuilt.model.weights)) < 1

    def _searched(self, basis: Basis, failing: Sequence[Comparison], progress: Progress) -> Kept:
        """What the rounds that are left find first: with the usual limits; then with stricter ones, and by the answers
        of the runtimes that fall short."""
        simulator = basis.simulator
        assert isinstance(simulator, LayerSimulator)
        heavy = [island for island in unfit(simulator) if island.path in simulator.names]
        fixed = {name: Island(name) for name in simulator.kept_by(self.job.pipeline.precision.islands)}
        fixed |= {name: Island(name) for name in simulator.own_islands() if name in simulator.names}
        fixed |= {island.path: island for island in self.kept if island.path in simulator.names}
        new = [island for island in heavy if island.path not in fixed]
        start = (*fixed.values(), *new)
        limits, left = Limits(true_float16_samples=_EXACT), SECONDS
        while self._rounds < ROUNDS and left > 0:
            effort = Effort(limits, min(left, SECONDS / 2), self.job.pipeline.export.opset)
            first = self._rounds == 0
            result = (
                search(basis, start, effort, progress) if first else widened(basis, start, failing, effort, progress)
            )
            limits = limits if first else effort.stricter().limits
            self._rounds += 1
            if result is None:
                continue
            left -= result.seconds
            if result.islands or new:
                self.result = result
                new = [*new, *result.islands]
                break
        order, reasons = basis.order, {island.path: island.reason for island in new}
        return tuple(
            Island(path, (reasons.get(path, f"its norm goes with {name}"),))
            for name in sorted(reasons, key=order.__getitem__)
            for path in simulator.paths([name])
        )


def _basis(job: Job, model: keras.Model, float16: keras.Model, reference: Reference) -> Basis:
    """The test images that ``float16`` answers worst, the worst first, and every edge row."""
    interface = interface_of(Source(model, job.pipeline.name, {}), None)
    simulator = LayerSimulator(
        model, replace(interface, classes=interface.outputs), fold=job.pipeline.export.fold_batchnorm
    )
    x = job.splits.x_test[:_LOOKED]
    output, size = job.task.output, min(len(x), 250)
    answers = Evaluator(float16, job.preprocess, job.objective, batch_size=size).predictions(x)[output]
    worst = badness({"": reference.usual.outputs[output][: len(x)]}, {"": answers})
    rows = np.argsort(-worst, kind="stable")[:_WORST]
    kinds = (*["given"] * len(rows), *reference.edge_kinds)
    chosen = joined(by_name(x[rows], next(iter(job.splits.shapes))), reference.edges.inputs)
    if isinstance(job.preprocess, ColumnsPreprocess):
        inputs = job.preprocess.apply(Columns(chosen))
    else:
        (port,), (only,) = interface.inputs, chosen.values()
        whole = np.issubdtype(np.dtype(port.dtype), np.integer)
        inputs = {port.name: only.astype(port.dtype) if whole else job.preprocess.apply(only)}
    return Basis(simulator, inputs, simulator.reference(inputs), kinds, simulator)
