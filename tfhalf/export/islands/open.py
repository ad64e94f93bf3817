"""Which kind of `Simulator` fits a model."""

from __future__ import annotations

import keras

from tfhalf.artifacts.comparison import Limits
from tfhalf.errors import ArtifactError, ExportError
from tfhalf.export.interface import Interface
from tfhalf.export.islands.graph_simulator import GraphSimulator
from tfhalf.export.islands.inplace_simulator import InplaceSimulator
from tfhalf.export.islands.simulator import Arrays, Simulator, answers
from tfhalf.precision.keras_graph import graph_of, reason
from tfhalf.verify.compare import compare_outputs

# Rebuilt in float32, a model answers as it does; one that is in half precision itself, nearly.
_SAME = Limits(max_difference=0.1, mean_difference=0.05)


def simulator_of(model: keras.Model, interface: Interface, inputs: Arrays, *, fold: bool = True) -> Simulator:
    """The simulator that fits ``model``.

    Raises:
        ExportError: it cannot be run on ``inputs`` at all.
    """
    if graph_of(model) is not None:
        graph = _graph_simulator(model, interface, inputs, fold=fold)
        if graph is not None:
            return graph
    try:
        return InplaceSimulator(model, interface, inputs)
    except Exception as error:  # whatever a layer's code raises
        raise ExportError(f"the model cannot be called on {_described(inputs)}: {reason(error)}") from error


def _graph_simulator(model: keras.Model, interface: Interface, inputs: Arrays, *, fold: bool) -> GraphSimulator | None:
    """``model`` rebuilt from its graph; None where that cannot be, or answers otherwise than the model itself: a
    subclass may call its graph in its own way, and a layer's configuration may leave something out."""
    try:
        simulator = GraphSimulator(model, interface, fold=fold)
    except Exception:  # noqa: BLE001  # whatever a layer's code raises when it is rebuilt, or called again
        return None
    few = interface.few(inputs, 2)
    try:
        own = answers(interface, lambda x: model(x, training=False), few)
        again = (simulator.reference(few), simulator.simulate(simulator.names, few))
        same = [output for got in again for output in compare_outputs(own, got, (), _SAME)]
    except (ArtifactError, ExportError):
        raise
    except Exception as error:  # whatever a layer's code raises
        raise ExportError(f"the model cannot be called on {_described(inputs)}: {reason(error)}") from error
    return simulator if all(not output.problems for output in same) else None


def _described(inputs: Arrays) -> str:
    return ", ".join(f"{name} {x.dtype} {list(x.shape)}" for name, x in inputs.items())
