"""Which layers stay in float32: the rules one by one, and a net that float16 alone cannot train."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from keras import layers, ops
from numerics_helpers import make_job, splits

from tfhalf import config
from tfhalf.errors import ConfigError, TrainingError
from tfhalf.numerics import tables
from tfhalf.numerics.auto_islands import auto, auto_lines, find, lines, settle, settled
from tfhalf.numerics.histogram import Histogram
from tfhalf.numerics.islands import LIMIT, LONG, choose
from tfhalf.numerics.measure import Measured, Tensor, Timing
from tfhalf.numerics.report import Report
from tfhalf.precision.islands import Island
from tfhalf.precision.policy import matching
from tfhalf.progress import Progress
from tfhalf.system.device import cpu
from tfhalf.train.job import Places, new_run
from tfhalf.train.loop import run_training
from tfhalf.train.trainer import Trainer

pytestmark = pytest.mark.slow  # it trains

QUIET = Progress(quiet=True)
DEEP = {"build": "net.py:build_deep"}


def told(taken: dict[str, float] | None = None, scores: dict[str, float] | None = None, **tensors: float) -> Measured:
    """What a measurement says: the largest magnitude of ``kind__layer``."""
    made = []
    for key, top in tensors.items():
        kind, _, layer = key.partition("__")
        name = f"{layer}/kernel" if kind == "weights" else layer
        made.append(Tensor(kind.replace("_", " "), name, Histogram.of(np.float32([top, 1e-3]))))
    return Measured(tuple(made), taken or {}, scores or {}, 0, 1, 1, 1, np.zeros(1), Timing(1, 1, 0))


def functional(*inner: Any, shape: tuple[int, ...] = (8,)) -> keras.Model:
    keras.utils.clear_session()
    image = keras.Input(shape, name="image")
    x = image
    for layer in inner:
        x = layer(x)
    return keras.Model(image, x)


def names(found: tuple[Island, ...]) -> list[str]:
    return [island.path for island in found]


def test_what_is_too_large() -> None:
    model = functional(
        layers.Dense(8, name="a"), layers.ReLU(name="b"), layers.Dense(8, name="c"), layers.ReLU(name="d")
    )
    assert choose(model, told(activations__a=LIMIT, weights__c=1.0)) == ()
    found = choose(model, told({"b": 2 * LIMIT, "c": 10.0}, activations__a=2 * LIMIT, activations__b=10.0))
    assert found == (Island("a", ("gives up to 16,376",)), Island("b", ("takes up to 16,376",)))
    assert [island.pattern for island in found] == ["^a$", "^b$"]
    assert names(choose(model, told(weights__c=1e5))) == ["c"]
    gradient = told(activation_gradients__c=0.5)
    assert choose(model, gradient) == ()
    assert choose(model, gradient, floor=2.0**15)[0].reasons == (
        "gradients up to 16,384 at the lowest loss scale, 32768",
    )


@pytest.mark.parametrize(
    ("layer", "shape", "word"),
    [
        (layers.Softmax(name="x"), (4, LONG), "softmax over 2,048 numbers"),
        (layers.Activation("softmax", name="x"), (4, LONG), "softmax over 2,048 numbers"),
        (layers.GlobalAveragePooling2D(name="x"), (64, 32, 2), "mean over 2,048 numbers"),
        (layers.AveragePooling1D(LONG, name="x"), (LONG, 2), "mean over 2,048 numbers"),
    ],
)
def test_long_sums(layer: keras.Layer, shape: tuple[int, ...], word: str) -> None:
    assert choose(functional(layer, shape=shape), told()) == (Island("x", (word,)),)


def test_sums_that_are_short_or_of_a_matrix_product() -> None:
    model = functional(layers.GlobalAveragePooling2D(name="x"), layers.Dense(4000), layers.Dense(4), shape=(32, 32, 2))
    assert choose(model, told()) == ()


def test_attention() -> None:
    def model(length: int) -> keras.Model:
        keras.utils.clear_session()
        image = keras.Input((length, 4))
        return keras.Model(image, layers.MultiHeadAttention(1, 2, name="attention")(image, image))

    assert choose(model(LONG), told())[0].reasons == ("softmax over 2,048 numbers",)
    assert choose(model(16), told(scores={"attention": 1e5}))[0].reasons == ("attention scores up to 100,000",)
    inner = choose(model(16), told(activations__attention=1.0, **{"activations__attention/query": 9e3}))
    assert inner == (Island("attention", ("attention/query: gives up to 9,000",)),)


def test_what_squares_in_its_own_dtype() -> None:
    unit = functional(layers.Dense(8, name="a"), layers.UnitNormalization(name="unit"))
    assert choose(unit, told({"unit": 10.0})) == ()  # 8 x 10^2
    assert choose(unit, told({"unit": 100.0}))[0].reasons == ("squares numbers up to 100",)
    norm = functional(layers.Dense(8, name="a"), layers.LayerNormalization(name="norm"))
    assert choose(norm, told({"norm": 1000.0})) == ()  # Keras computes it in float32 by itself


def test_an_operation_is_kept_by_the_layers_before_it() -> None:
    """keras.ops have no dtype of their own: they compute in that of what they take."""
    model = functional(
        layers.Dense(8, name="a"), lambda x: ops.var(x, axis=-1, keepdims=True), layers.Dense(2, name="z")
    )
    name = next(o.name for o in model.operations if type(o).__name__ == "Var")
    found = choose(model, told({name: 500.0}))
    assert found == (Island("a", (f"{name}: squares numbers up to 500",)),)
    logarithm = functional(layers.Dense(8, name="a"), ops.exp, ops.log, layers.Dense(2, name="z"))
    assert names(choose(logarithm, told())) == ["a"]
    image = keras.Input((4,), name="image")
    assert choose(keras.Model(image, ops.log(image)), told()) == ()  # nothing before it


def test_patterns_match_their_layer_alone() -> None:
    model = functional(layers.Dense(8, name="a.b"), layers.Dense(8, name="a.b2"), layers.Dense(8, name="axb"))
    assert [layer.name for layer in matching(model, [Island("a.b", ()).pattern])] == ["a.b"]


def reported(measured: Measured, islands: tuple[Island, ...] = (), scale_exponent: int = 0) -> Report:
    words = {"pipeline": "p", "model": "m", "source": "s", "device": "d", "policy": "mixed_float16", "state": ""}
    return Report(
        **words,
        parameters=1,
        scale_exponent=scale_exponent,
        every=1,
        measured=measured,
        order=(),
        islands=islands,
        versions={},
    )


def test_a_scale_below_one_is_told_as_what_it_is() -> None:
    gradient = 2.0**-22  # float16 holds it, and a sixteenth of it is zero
    report = reported(told(activation_gradients__a=gradient, weight_gradients__a=gradient), scale_exponent=-4)
    assert (report.loss_at(0).flushed, report.loss_at(-4).flushed) == (0.0, 0.5)
    (line,) = [line for line in tables.proposal(report) if "(in force)" in line]
    assert line.startswith("scale      2^-4 (in force): of the gradients that are not zero 50.00 % become 0")


def test_a_batch_holds_what_the_data_is_of() -> None:
    report = reported(told(activation_gradients__a=1.0, weight_gradients__a=1.0))
    assert any(" 1 of 1 rows, every" in line for line in tables.heading(replace(report, noun="rows")))
    said = "\n".join(tables.proposal(report))
    assert f"; with 2^{report.proposal.lowest} hardly more become 0" in said


def test_whether_the_programs_came_from_the_cache_is_said() -> None:
    measured = told(activation_gradients__a=1.0, weight_gradients__a=1.0)
    for cached, words in ((None, ""), (True, ", from the cache"), (False, ", kept for the next time")):
        report = reported(replace(measured, timing=Timing(1, 1, 2, cached)))
        assert tables.heading(report)[-1].endswith(f"; compiled in 2.0 s{words}")
        assert report.to_dict()["overhead"]["from_cache"] is cached


def test_what_is_pasted_is_yaml_whatever_a_layer_is_called() -> None:
    found = (Island("it's", ("gives up to 9,000",)), Island("a: b # c", ("weights",)))
    pasted = yaml.safe_load("\n".join(tables.paste(reported(told(), found))))
    assert pasted["precision"]["keep_float32"] == [island.pattern for island in found]


# --- auto -------------------------------------------------------------------------------------------------------------


def test_the_word_in_a_pipeline_file(tmp_path: Path) -> None:
    assert config.Precision(keep_float32="auto").islands == ()
    assert config.Precision(keep_float32=("a", "b")).islands == ("a", "b")
    path = tmp_path / "p.yaml"
    base = "name: x\nmodel: {build: 'a.py:b'}\ndata: {source: 'npz:a'}\n"
    path.write_text(base + "precision: {keep_float32: auto}\n")
    loaded = config.load_pipeline(path)
    assert loaded.precision.keep_float32 == "auto"
    assert config.Pipeline.model_validate_json(json.dumps(loaded.dump())) == loaded
    path.write_text(base + "precision: {keep_float32: automatic}\n")
    with pytest.raises(ConfigError, match=r"p.yaml:4: precision.keep_float32: received 'automatic', accepted: 'auto'"):
        config.load_pipeline(path)


@pytest.mark.slow
def test_auto_becomes_the_same_list_each_time_and_everywhere(tmp_path: Path) -> None:
    job = make_job(tmp_path, "build_large", precision={"keep_float32": "auto"})
    stream = io.StringIO()
    first = settle(job, cpu(), Progress(stream))
    patterns = first.pipeline.precision.keep_float32
    assert patterns == ("^blow$", "^norm$")
    assert job.pipeline.precision.keep_float32 == "auto"  # the job that was given is as it was
    assert stream.getvalue().startswith(
        "islands    2 layers stay in float32 (keep_float32: auto)\n           blow: gives up"
    )
    assert settle(job, cpu(), QUIET).pipeline == first.pipeline
    assert settle(first, cpu(), QUIET) is first
    run = new_run(first, Places(tmp_path / "p.yaml", tmp_path / "runs", tmp_path / "exports"), smoke=False)
    assert config.load_pipeline(run / "pipeline.yaml").precision.keep_float32 == patterns
    computes = {layer.name: layer.compute_dtype for layer in first.model("mixed_float16").layers}
    assert (computes["stem"], computes["norm"], computes["head"]) == ("float16", "float32", "float16")


def test_nothing_needs_it(tmp_path: Path) -> None:
    stream = io.StringIO()
    job = settle(make_job(tmp_path, precision={"keep_float32": "auto"}), cpu(), Progress(stream))
    assert job.pipeline.precision.keep_float32 == ()
    assert stream.getvalue() == (
        "islands    none: 8 steps in float32 show no number beyond 65504 / 8, and no long sum (keep_float32: auto)\n"
    )


def test_what_is_said_of_many() -> None:
    said = lines(tuple(Island(f"l{i}", ("gives up to 9,000",)) for i in range(6)))
    assert said[0] == "islands    6 layers stay in float32 (keep_float32: auto)"
    assert said[-1] == "           and 2 more; the run's pipeline.yaml and the manifest list them all"
    assert lines((Island("l", ("weights",)),))[0].startswith("islands    1 layer stays")


@pytest.mark.slow
def test_check_says_what_auto_would_keep(tmp_path: Path) -> None:
    job = make_job(tmp_path, "build_large", precision={"keep_float32": "auto"})
    assert auto(job, QUIET, measure=False) == (job, None)
    made, found = auto(job, QUIET, measure=True)
    assert made.pipeline == settle(job, cpu(), QUIET).pipeline  # training finds the same
    assert found is not None
    said = auto_lines(job.pipeline, found)
    assert said[0] == "keep_float32: auto keeps 2 layers in float32, by 8 steps of the net as its seed makes it:"
    assert said[1].startswith("  blow: gives up to ")
    assert said[-1] == 'as a list: ["^blow$", "^norm$"]'
    kept, asked = auto(made, QUIET, measure=True)
    assert kept is made  # its own list stays
    assert asked == found


def test_what_check_says_of_auto() -> None:
    asked = config.Pipeline.model_validate(
        {
            "name": "p",
            "model": {"build": "a.py:b"},
            "data": {"source": "npz:a.npz"},
            "precision": {"keep_float32": "auto"},
        }
    )
    plain = asked.model_copy(update={"precision": config.Precision()})
    assert auto_lines(plain, None) == []
    (told,) = auto_lines(asked, None)
    assert told.endswith("by 8 steps in float32; --measure does so now")
    (told,) = auto_lines(plain, ())
    assert told.startswith("keep_float32: auto keeps no layer: 8 steps in float32 show no number beyond 65504 / 8")
    assert Island("a.b", ("x",)).to_dict() == {"path": "a.b", "reasons": ["x"], "pattern": r"^a\.b$"}


def test_layers_without_a_name_are_found_again(tmp_path: Path) -> None:
    """Keras numbers names through a process; a builder's models have the same ones each time."""
    job = make_job(tmp_path, "build_deep")
    one, other = job.model("float32"), job.model("mixed_float16")
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    keras.utils.clear_session()
    layers.Dense(1)
    assert layers.Dense(1).name == "dense_1"
    job.model("float32")
    assert layers.Dense(1).name == "dense_2"  # and the count outside goes on


@pytest.mark.slow
def test_a_net_that_float16_alone_cannot_train(tmp_path: Path) -> None:
    """Its activations pass 65504 in a residual net without norms: every step is skipped, at every scale. With auto the
    same net, weights and batches train as in float32."""
    settings = {"batch_size": 16, "epochs": 20, "optimizer": {"name": "adam", "learning_rate": 0.002}}
    lists: dict[str, Any] = {"plain": [], "auto": "auto"}
    jobs = {
        name: make_job(
            tmp_path, model=DEEP, train=settings, precision={"keep_float32": value, "loss_scale": {"max_skipped": 20}}
        )
        for name, value in lists.items()
    }
    plain = Trainer(replace(jobs["plain"], splits=splits()), cpu())
    with pytest.raises(TrainingError, match="20 steps in a row had a non-finite gradient"):
        run_training(plain, new_run(jobs["plain"], Places(tmp_path / "p", tmp_path / "a", tmp_path), False), QUIET)
    assert plain.state.loss_scale() == 1
    islands, found = find(jobs["auto"], cpu(), QUIET)
    assert found.of("activations").largest > 65504
    assert {"layer_normalization", "add_4"} <= set(names(islands))
    assert {"dense", "flatten"}.isdisjoint(names(islands))
    job = settled(jobs["auto"], tuple(island.pattern for island in islands))
    trainer = Trainer(replace(job, splits=splits()), cpu())
    run = new_run(job, Places(tmp_path / "p", tmp_path / "b", tmp_path), False)
    result = run_training(trainer, run, QUIET)
    assert result.skipped <= 1
    assert result.loss_scale >= 2.0**14
    assert result.epochs[-1].loss < 0.5 * result.epochs[0].loss
    assert trainer.evaluator.metrics(splits().x_test, splits().y_test)["accuracy"] > 0.8
