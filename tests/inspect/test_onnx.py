"""ONNX files of all kinds: what is told of their dtypes, Casts, weights, and whether they are float16."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from inspect_models import (
    HALF,
    INT64,
    SINGLE,
    call,
    cast,
    facts,
    flat,
    matmul,
    one,
    refused,
    said,
    save,
    tensor,
    whys,
)
from onnx import TensorProto, helper, numpy_helper

from tfhalf.inspect import facts as facts_of_all
from tfhalf.inspect import show
from tfhalf.inspect.onnx_types import dtype_name, output_dtypes

# --- the verdict ------------------------------------------------------------------------------------------------------


def test_all_float16(tmp_path: Path) -> None:
    nodes = [matmul("x", "w", "h"), helper.make_node("Relu", ["h"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 4)])
    found = one(path)
    assert found.verdict.answer == "float16"
    assert found.verdict.line == (
        "float16: 100 % of the parameters, all 2 arithmetic operations compute in float16; inputs and outputs too"
    )
    assert found.verdict.reasons == []
    text = flat(said(path))
    assert "made by hand 1.2 opset ai.onnx 18; IR version 9" in text
    assert "inputs x float16 [batch, 8]" in text
    assert "parameters tensors values MB float16 1 32 0.000" in text


def test_float16_with_casts_at_the_border(tmp_path: Path) -> None:
    nodes = [cast("a", "x", HALF), matmul("a", "w", "h"), cast("y", "h", SINGLE)]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 4)], given=SINGLE, outputs={"y": SINGLE})
    found = one(path)
    assert found.verdict.answer == "float16"
    assert found.verdict.line.endswith("; inputs and outputs are float32 (2 Casts at the border)")
    assert [(c.source, c.to, c.role) for c in found.looked.casts] == [
        ("float32", "float16", "input"),
        ("float16", "float32", "output"),
    ]
    assert "Cast a: float32 -> float16: 1: at the border, before all float16" in whys(found)


def test_float32(tmp_path: Path) -> None:
    nodes = [matmul("x", "w", "y")]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 4, dtype=np.float32)], given=SINGLE, outputs={"y": SINGLE})
    found = one(path)
    assert found.verdict.answer == "not float16"
    assert found.verdict.line == "not float16: weights and arithmetic are float32, twice the bytes of float16"
    assert "w: float32: 32: stored in float32, read by MatMul in float32" in whys(found)


def test_weights_cast_at_run_time(tmp_path: Path) -> None:
    nodes = [cast("w16", "w", HALF), cast("v16", "v", HALF), matmul("x", "w16", "h"), matmul("h", "v16", "y")]
    weights = [tensor("w", 8, 4, dtype=np.float32), tensor("v", 4, 2, dtype=np.float32)]
    found = one(save(tmp_path / "m.onnx", nodes, weights))
    assert found.verdict.answer == "not float16"
    assert found.verdict.line.startswith(
        "not float16: the weights are stored in float32 and cast at run time (2 Casts), twice the bytes of float16; "
        "all 2 arithmetic operations compute in float16"
    )
    assert "w and 1 more: float32: 40: stored in float32, cast to float16 at run time" in whys(found)


def test_float16_stored_and_float32_computed(tmp_path: Path) -> None:
    nodes = [cast("w32", "w", SINGLE), matmul("x", "w32", "y")]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 4)], given=SINGLE, outputs={"y": SINGLE})
    found = one(path)
    assert found.verdict.answer == "mixed"
    assert "stored in float16 and cast to float32 at run time (1 Cast); no arithmetic is float16" in found.verdict.line


def test_a_part_in_float32(tmp_path: Path) -> None:
    nodes = [matmul("x", "w", "h"), cast("h32", "h", SINGLE), matmul("h32", "v", "i"), cast("y", "i", HALF)]
    found = one(save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 8), tensor("v", 8, 8, dtype=np.float32)]))
    assert found.verdict.answer == "mixed"
    assert "50.0 % of the parameters are float16, 1 of 2 arithmetic operations" in found.verdict.line
    assert "among them 1 of 2 matrix products" in found.verdict.line
    assert "v: float32: 64: read by the float32 island MatMul" in whys(found)


def test_bfloat16_is_not_float16(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, [8, 4], bytes(64), raw=True)
    nodes = [matmul("x", "w", "y")]
    path = save(tmp_path / "m.onnx", nodes, [weight], given=TensorProto.BFLOAT16, outputs={"y": TensorProto.BFLOAT16})
    assert one(path).verdict.line.startswith("not float16: weights and arithmetic are bfloat16, once the bytes")


def test_no_weights_and_no_arithmetic(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Shape", ["x"], ["y"])], [], outputs={"y": INT64})
    assert one(path).verdict.answer == "unknown"
    assert "parameters none" in flat(said(path))


# --- what is not float16, and why -------------------------------------------------------------------------------------


def test_islands(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"], name="pre/sub"),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"], name="pre/mul"),
        cast("a", "scaled", HALF),
        matmul("a", "w", "h"),
        cast("h32", "h", SINGLE),
        helper.make_node("Sqrt", ["h32"], ["root"], name="norm/sqrt"),
        cast("r", "root", HALF),
        matmul("r", "v", "logits"),
        cast("l32", "logits", SINGLE),
        helper.make_node("Softmax", ["l32"], ["y"], name="head/softmax"),
    ]
    constants = [tensor("mean", 8, dtype=np.float32), tensor("scale", 1, dtype=np.float32)]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [tensor("w", 8, 64), tensor("v", 64, 64), *constants],
        given=SINGLE,
        outputs={"y": SINGLE},
    )
    found = one(path)
    assert found.verdict.answer == "float16"
    islands = found.looked.islands
    assert [(i.position, [n.name for n in i.nodes]) for i in islands] == [
        ("first", ["pre/sub", "pre/mul"]),
        ("", ["norm/sqrt"]),
        ("last", ["head/softmax"]),
    ]
    told = whys(found)
    assert "Sub, Mul in pre: float32: 2: a float32 island, before the first float16 operation" in told
    assert "Sqrt in norm/sqrt: float32: 1: a float32 island (statistics of a normalisation)" in told
    assert "Softmax in head/softmax: float32: 1: a float32 island, after the last float16 operation (a softmax)" in told
    assert "mean and 1 more: float32: 9: read by the float32 island Sub, Mul" in told
    assert [c.role for c in found.looked.casts] == ["input", "inside", "inside", "output"]
    assert "3 of 5" not in said(path)


def test_statistics_scales_and_shapes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"], name="bn"),
        helper.make_node("Resize", ["n", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["y"]),
    ]
    tensors = [
        *(tensor(name, 2, dtype=np.float32) for name in "gbmv"),
        tensor("scales", 4, dtype=np.float32),
        tensor("w", 64, 2, 3, 3),
        numpy_helper.from_array(np.array([1, -1]), "shape"),
    ]
    found = one(save(tmp_path / "m.onnx", nodes, tensors, shape=("n", 2, 4, 4)))
    assert found.verdict.answer == "float16"
    told = whys(found)
    assert "g and 3 more: float32: 8: BatchNormalization's scale, shift and statistics" in told
    assert "scales: float32: 4: Resize takes its scales in float32" in told
    assert "shape: int64: 2: shapes, axes and indices" in told


def test_cast_pairs(tmp_path: Path) -> None:
    transpose = helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0])
    nodes = [cast("a", "x", SINGLE), transpose, cast("c", "b", HALF), matmul("c", "w", "y")]
    found = one(save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 4)]))
    assert [(c.undone, c.exact) for c in found.looked.casts] == [(False, False), (True, True)]
    assert "of these 1 only to turn back the one before: those pairs can go" in flat(said(tmp_path / "m.onnx"))
    nodes = [cast("a", "x", HALF), transpose, cast("c", "b", SINGLE), matmul("c", "w", "y")]
    path = tmp_path / "lossy.onnx"
    save(path, nodes, [tensor("w", 8, 4, dtype=np.float32)], given=SINGLE, outputs={"y": SINGLE})
    assert "only to turn back the one before, which rounded to the narrower type" in flat(said(path))


# --- dtypes -----------------------------------------------------------------------------------------------------------


def test_types_agree_with_onnx_own_inference(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Greater", ["x", "w0"], ["g"]),
        helper.make_node("Where", ["g", "x", "w0"], ["v"]),
        helper.make_node("TopK", ["v", "k"], ["t", "i"]),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("CastLike", ["z", "x"], ["z16"]),
        helper.make_node("Split", ["t"], ["p", "q"], axis=1, num_outputs=2),
        helper.make_node("QuantizeLinear", ["x", "w0", "zero"], ["u8"]),
        helper.make_node("DequantizeLinear", ["u8", "w0", "zero"], ["back"]),
        helper.make_node("Dropout", ["q"], ["d", "mask"]),
        helper.make_node("LayerNormalization", ["p", "ln"], ["l", "mean"]),
        helper.make_node("ArgMax", ["l"], ["best"], axis=1),
        helper.make_node("RandomUniformLike", ["x"], ["noise"], dtype=SINGLE),
    ]
    tensors = [tensor("w0", dtype=np.float16), tensor("ln", 2), numpy_helper.from_array(np.array([4]), "k")]
    tensors.append(numpy_helper.from_array(np.uint8(0), "zero"))
    path = save(tmp_path / "m.onnx", nodes, tensors, outputs={"best": INT64}, opset=19)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path))
    wanted = {v.name: dtype_name(v.type.tensor_type.elem_type) for v in inferred.graph.value_info}
    wanted |= {t.name: dtype_name(t.data_type) for t in tensors} | {"x": "float16", "best": "int64"}
    for node in nodes:
        inputs = [wanted[name] for name in node.input if name]
        assert output_dtypes(node, inputs, {"": 19}) == [wanted[name] for name in node.output], node.op_type


def test_branches_loops_and_functions_are_looked_into(tmp_path: Path) -> None:
    then = helper.make_graph(
        [matmul("x", "w", "a")], "then", [], [helper.make_tensor_value_info("a", HALF, None)], [tensor("w", 8, 8)]
    )
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "other", [], [helper.make_tensor_value_info("b", HALF, None)]
    )
    function = helper.make_function(
        "mine", "Twice", ["p"], ["q"], [helper.make_node("Add", ["p", "p"], ["q"])], [helper.make_opsetid("", 18)]
    )
    nodes = [
        helper.make_node("If", ["yes"], ["h"], then_branch=then, else_branch=other),
        helper.make_node("Twice", ["h"], ["t"], domain="mine"),
        helper.make_node("Twice", ["t"], ["y"], domain="mine"),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [numpy_helper.from_array(np.array(True), "yes")],
        domains=("mine",),
        functions=(function,),
    )
    found = one(path)
    assert found.looked.operations["Add", "float16"] == 2
    assert found.looked.operations["MatMul", "float16"] == 1
    assert found.verdict.line.startswith("float16: 100 % of the parameters, all 4 arithmetic operations")


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    nodes = [matmul("x", "w", "h"), helper.make_node("Strange", ["h"], ["y"], domain="nobody")]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 4)], domains=("nobody",))
    text = flat(said(path))
    assert "all 1" not in text
    assert facts(path)["operations"]["Strange"] == {"float16": 1}  # the file says what its output is
    nodes[1].output[0] = "s"
    nodes += [helper.make_node("Relu", ["s"], ["r"]), helper.make_node("Relu", ["r"], ["z"])]
    save(path, nodes, [tensor("w", 8, 4)], domains=("nobody",), outputs={"z": HALF})
    assert facts(path)["arithmetic"]["unknown"] == 1
    assert "(1 more of unknown type)" in one(path).verdict.line


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21])
def test_opsets(tmp_path: Path, opset: int) -> None:
    nodes = [matmul("x", "w", "h"), helper.make_node("Softmax", ["h"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 4)], opset=opset)
    assert one(path).verdict.answer == "float16"
    assert facts(path)["opsets"] == {"ai.onnx": opset}


# --- weights ----------------------------------------------------------------------------------------------------------


def test_values_of_float16(tmp_path: Path) -> None:
    values = np.array([0, -0.0, 1, 6e-8, -5e-5, np.inf, -np.inf, np.nan], np.float16)
    as_numbers = helper.make_tensor("v", HALF, [8], values)
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "v"], ["y"])],
        [numpy_helper.from_array(values, "w"), as_numbers],
    )
    assert facts(path)["float16_values"] == {"total": 16, "checked": 16, "subnormal": 4, "infinite": 4, "nan": 2}
    assert "of the stored values: 4 subnormal, 4 INFINITE, 2 NaN" in said(path)


def test_duplicates(tmp_path: Path) -> None:
    first = tensor("first", 8, 8)
    second = onnx.TensorProto()
    second.CopyFrom(first)
    second.name = "second"
    zeros = [numpy_helper.from_array(np.zeros(8, np.float16), name) for name in ("b", "c")]
    nodes = [matmul("x", "first", "h"), matmul("h", "second", "y")]
    path = save(tmp_path / "m.onnx", nodes, [first, second, *zeros])
    told = facts(path)
    assert told["duplicate_initializers"] == ["second"]
    assert told["beside"]["copy"] == {"float16": {"tensors": 1, "count": 64, "bytes": 128}}
    assert told["parameters"]["float16"]["count"] == 64 + 16
    assert "1 initializers hold the values of another one (0.000 MB): second" in flat(said(path))


def external(path: Path, where: str = "weights.bin") -> Path:
    values = DRAW_EXTERNAL.astype(np.float16)
    model = onnx.load(save(path, [matmul("x", "w", "y")], [numpy_helper.from_array(values, "w")]))
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if where != "weights.bin":
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = where
        path.write_bytes(model.SerializeToString())
    return path


DRAW_EXTERNAL = np.linspace(1e-6, 1, 8 * 400).reshape(8, 400)


def test_external_data(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    told = facts(path)
    assert told["bytes"] == path.stat().st_size + 6400
    assert told["parameters"]["float16"] == {"tensors": 1, "count": 3200, "bytes": 6400}
    assert told["float16_values"]["subnormal"] == 1
    assert told["verdict"]["answer"] == "float16"
    (tmp_path / "weights.bin").write_bytes(bytes(6399))
    refused(path, "tensor 'w' is not whole in 'weights.bin'; it is damaged")
    (tmp_path / "weights.bin").unlink()
    assert "external data file 'weights.bin' is missing: the file cannot be run" in flat(said(path))


@pytest.mark.parametrize("where", ["../secret", "/etc/passwd", "a/../../secret", "link/secret"])
def test_external_data_outside_of_the_folder_is_not_opened(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(6400))
    (folder / "link").symlink_to(tmp_path)
    path = external(folder / "m.onnx", where)
    told = facts(path)
    assert told["notes"] == [f"external data at {where!r} lies outside of its folder: not opened"]
    assert told["float16_values"]["checked"] == 0


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save(tmp_path / "m.onnx", [matmul("x", "w", "y")], [tensor("w", 8, 64)])


def test_cut_short(good: Path) -> None:
    whole = good.read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        good.write_bytes(whole[:length])
        assert call(good).exit_code == 2
    refused(good, "cannot be read as ONNX")


@pytest.mark.parametrize(
    ("dims", "told"),
    [
        ([8, 1 << 58], "claims the shape 8x288230376151711744"),
        ([-8, -64], "claims the shape -8x-64"),
        ([1] * 70, "claims the shape 1x1x1x1x1x1x..."),
        ([8, 1 << 40], "has 1,024 bytes, not 17,592,186,044,416"),
        ([4], "has 1,024 bytes, not 8"),
    ],
)
def test_claimed_shapes(good: Path, dims: list[int], told: str) -> None:
    model = onnx.load(good)
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    good.write_bytes(model.SerializeToString())
    refused(good, told)


def test_functions_that_call_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_of_all, "MAX_NODES", 5_000)

    def calls(name: str, inner: str, times: int) -> onnx.FunctionProto:
        nodes = [helper.make_node(inner, ["p"], [f"q{i}"], domain="mine") for i in range(times)]
        return helper.make_function("mine", name, ["p"], ["q0"], nodes, [helper.make_opsetid("mine", 1)])

    last = helper.make_function(
        "mine", "f0", ["p"], ["q"], [helper.make_node("Relu", ["p"], ["q"])], [helper.make_opsetid("", 18)]
    )
    hollow = (calls("f0", "f0", 0), *(calls(f"f{i}", f"f{i - 1}", 50) for i in range(1, 12)))
    many = (last, *(calls(f"f{i}", f"f{i - 1}", 50) for i in range(1, 12)))
    node = helper.make_node("f11", ["x"], ["y"], domain="mine")
    path = save(tmp_path / "m.onnx", [node], [], domains=("mine",), functions=many)
    refused(path, "it unfolds into more than 5,000 operations")
    path = save(tmp_path / "h.onnx", [node], [], domains=("mine",), functions=hollow)
    refused(path, "it unfolds into more than 5,000 operations")
    node = helper.make_node("loop", ["x"], ["y"], domain="mine")
    path = save(tmp_path / "n.onnx", [node], [], domains=("mine",), functions=(calls("loop", "loop", 1),))
    refused(path, "its functions and branches lie more than 60 deep")


def test_cycles_and_odd_names_end(tmp_path: Path) -> None:
    nodes = [cast("a", "b", HALF), helper.make_node("Identity", ["a"], ["b"]), cast("y", "\x1b[31m" + "n" * 5000, HALF)]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w\n\x1b[2J" + "w" * 3000, 8, 8)])
    text = show.text([one(path)])  # as it goes to a terminal: where the output is none, escapes are taken out
    assert "\x1b" not in text
    good = path.read_bytes()
    path.write_bytes(good.replace(b"Identity", b"Ident\xff\xfey"))
    refused(path, "a name in it is not text")


def test_operators_with_odd_names(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Si\x1b[31mn", ["x"], ["a"], name="\x1b]0;title\x07"),
        cast("b", "a", SINGLE),
        helper.make_node("Ad\x1b[2Jd", ["b", "w"], ["c"], name="\x1b[5mblink"),
        cast("y", "c", HALF),
    ]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", 8, 8, dtype=np.float32)])
    text = show.text([one(path)])
    assert "Ad?[2Jd" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_values_where_the_shape_has_none(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], [tensor("w", 8, 8)])
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=HALF, dims=[0], raw_data=b"odd"))
    path.write_bytes(model.SerializeToString())
    refused(path, "tensor 'w' has 3 bytes, not 0")


def test_names_that_grow_with_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_of_all, "MAX_CHARACTERS", 1_000)
    nodes = [helper.make_node("Identity", ["x"], ["y"], name="n" * 500)]
    path = save(tmp_path / "m.onnx", nodes, [])
    refused(path, "it unfolds into more than 1,000 characters of names")


def test_what_is_no_onnx(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"nothing of the kind")
    refused(path, "cannot be read as ONNX")
    path.write_bytes(b"\x08\x09")
    refused(path, "it has no graph or no opset")
    path.write_bytes(b"\x08" + struct.pack("<Q", 1 << 60) * 1000)
    refused(path, "cannot be read as ONNX")
