"""Changes of a file by its structure: a value of JSON, a field of a protobuf message, a header, a link, or bytes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator
_HOSTILE_OPS = ("WriteFile", "ReadFile", "PyFunc", "PrintV2", "Fill", "Tile", "Where", "Softmax", "MatMul", "Greater")
_TEXTS = (
    "",
    "a" * 9000,
    "\x1b[31m\u202e\0",
    "../../../etc/passwd",
    "/dev/zero",
    "os:system",
    "\ud800",
    "float99",
    "-1",
)
_NUMBERS = (0, -1, 1, 3, 255, 1 << 20, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
_LOOSE = (None, True, False, 1 << 80, -(1 << 70), 1e308, -0.5, [], {}, [[]], [None], {"a": {}}, *_TEXTS, *_NUMBERS)


def pick(random: Random, options: Any) -> Any:
    return options[int(random.integers(len(options)))]


def bytes_changed(random: Random, data: bytes) -> bytes:
    """Bits turned, a part cut off, overwritten or put in."""
    raw = bytearray(data)
    place = int(random.integers(len(raw)))
    match int(random.integers(4)):
        case 0:
            for other in random.integers(0, len(raw), 8):
                raw[other] ^= 1 << int(random.integers(8))
        case 1:
            del raw[place:]
        case 2:
            raw[place : place + 8] = int(pick(random, _NUMBERS) & (2**64 - 1)).to_bytes(8, "little")
        case _:
            raw[place:place] = random.bytes(int(random.integers(1, 64)))
    return bytes(raw)


def json_changed(random: Random, text: str) -> str:
    """One value replaced, taken out, nested without end, or its key written twice."""
    tree = json.loads(text)
    places = list(_places(tree))
    branch, key = pick(random, places)
    match int(random.integers(6)):
        case 0:
            del branch[key]
        case 1:
            branch[key] = "MARK"
            return json.dumps(tree).replace('"MARK"', "[" * 3000 + "]" * 3000)
        case 2 if isinstance(key, str):
            written = json.dumps({key: branch[key]})[1:-1]
            return json.dumps(tree).replace(
                written, f"{written}, {json.dumps(key)}: {json.dumps(pick(random, _LOOSE))}", 1
            )
        case _:
            branch[key] = pick(random, _LOOSE)
    return json.dumps(tree)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def message_changed(random: Random, message: Any) -> bytes:
    """One field of a protobuf message, wherever it lies, changed as its type allows."""
    fields = list(_fields(message))
    by_name: dict[str, list[Any]] = {}
    for one in fields:  # else the most frequent field, a node's input, would be almost all
        by_name.setdefault(f"{one[0].DESCRIPTOR.name}.{one[1].name}", []).append(one)
    owner, field = pick(random, by_name[pick(random, sorted(by_name))])
    repeated = field.is_repeated
    values = getattr(owner, field.name)
    if field.type == field.TYPE_MESSAGE:
        if repeated and hasattr(values, "add") and len(values):
            if random.integers(2):
                del values[int(random.integers(len(values)))]
            else:
                values.append(values[int(random.integers(len(values)))])
        else:
            owner.ClearField(field.name)
    elif repeated:
        place = int(random.integers(len(values)))
        values[place] = _scalar(random, field, values[place])
    else:
        setattr(owner, field.name, _scalar(random, field, values))
    return bytes(message.SerializeToString())


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    for field, value in message.ListFields():
        yield message, field
        if field.type == field.TYPE_MESSAGE:
            of_map = field.message_type.GetOptions().map_entry
            inner = list(value.values()) if of_map else value if field.is_repeated else [value]
            for one in inner:
                if hasattr(one, "ListFields"):
                    yield from _fields(one)


def _scalar(random: Random, field: Any, value: Any) -> Any:
    if field.name in ("op", "op_type"):
        return pick(random, _HOSTILE_OPS)
    if field.type == field.TYPE_STRING:
        return pick(random, [text for text in _TEXTS if text != "\ud800"])
    if field.type == field.TYPE_BYTES:
        return bytes_changed(random, value) if value else b"\xff"
    if field.type == field.TYPE_BOOL:
        return not value
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return pick(random, (0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.type == field.TYPE_ENUM:
        return pick(random, [one.number for one in field.enum_type.values])
    wide = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
    low = 0 if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else -(1 << (63 if wide else 31))
    return max(low, min((1 << (63 if wide else 31)) - 1, pick(random, _NUMBERS)))


def size_changed(random: Random, message: Any) -> bytes:
    """One whole number of a constant tensor changed: a size, an axis, a place."""
    tensors = [(owner, field.name) for owner, field in _fields(message) if field.name in ("tensor_content", "raw_data")]
    whole = [pair for pair in tensors if _dtype(pair[0]) in _WHOLE]
    if not whole:
        return message_changed(random, message)
    owner, name = pick(random, whole)
    width = 4 if _dtype(owner) == 3 else 8
    raw = bytearray(getattr(owner, name))
    place = width * int(random.integers(max(1, len(raw) // width)))
    raw[place : place + width] = (pick(random, _NUMBERS) & (2 ** (8 * width) - 1)).to_bytes(width, "little")
    setattr(owner, name, bytes(raw))
    return bytes(message.SerializeToString())


def litert_changed(random: Random, data: bytes) -> bytes:
    """One field of a table of a LiteRT file changed: a size, a shape, a place of a buffer or tensor, an operator's
    code, a name, or a whole table left out or doubled."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    by_name: dict[str, list[tuple[Any, str]]] = {}
    for table, name in _table_fields(model):  # else buffers' bytes would be almost all
        by_name.setdefault(f"{type(table).__name__}.{name}", []).append((table, name))
    if random.integers(10):
        table, name = pick(random, by_name[pick(random, sorted(by_name))])
        setattr(table, name, _table_value(random, name, getattr(table, name)))
    else:
        table, name = pick(random, model.operatorCodes), "builtinCode"
        table.builtinCode = table.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        table.customCode = pick(random, ("FlexWriteFile", "TFLite_Detection_PostProcess", ""))
    builder = flatbuffers.Builder(len(data))
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    except TypeError:  # a number that is too wide for its field, whose width the tables do not tell
        setattr(table, name, getattr(table, name) & 127)
        builder = flatbuffers.Builder(len(data))
        builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _table_fields(table: Any) -> Iterator[tuple[Any, str]]:
    for name, value in vars(table).items():
        if value is None:
            continue
        yield table, name
        for inner in value if isinstance(value, list) else [value]:
            if type(inner).__name__.endswith("T") and hasattr(inner, "Pack"):
                yield from _table_fields(inner)


def _table_value(random: Random, name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray | list) and len(value) and random.integers(4):
        changed = list(value)
        place = int(random.integers(len(changed)))
        match int(random.integers(3)):
            case 0:
                del changed[place]
            case 1:
                changed.append(changed[place])
            case _ if isinstance(changed[place], int | np.integer):
                most = 8 * value.itemsize - 1 if isinstance(value, np.ndarray) else 31
                changed[place] = _within(pick(random, _NUMBERS), most, signed=not str(name).startswith("data"))
        return np.array(changed, value.dtype) if isinstance(value, np.ndarray) else changed
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        small = "builtinCode" in name or name in ("type", "builtinOptionsType", "deprecatedBuiltinCode")
        return int(random.integers(0, 127)) if small else _within(pick(random, _NUMBERS), 31, signed=value < 0)
    if isinstance(value, float):
        return pick(random, (0.0, -1.0, 1e30, float("nan"), float("inf")))
    if isinstance(value, str | bytes):
        return pick(random, [text for text in _TEXTS if text != "\ud800"])
    return None


def _within(number: int, bits: int, *, signed: bool) -> int:
    return int(max(-(1 << bits) if signed else 0, min((1 << bits) - 1, number)))


def _dtype(tensor: Any) -> int:
    return int(getattr(tensor, "dtype", getattr(tensor, "data_type", 0)))


_WHOLE = (3, 7, 9)  # int32 and int64: TensorFlow's numbers are 3 and 9, ONNX's 7


def archive_changed(random: Random, path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """One member of a zip archive changed, named anew, doubled, or grown."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = pick(random, sorted(members))
    match int(random.integers(10)):
        case 0:
            members[pick(random, ("../out", "/tmp/out", "a\\b", "more.txt"))] = b"x"
        case 1:
            members[name] = bytes(300 << 20)
        case 2:
            del members[name]
        case _:
            members[name] = change(name, members[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def header_changed(random: Random, data: bytes) -> bytes:
    """An array with another header."""
    text = pick(random, ("'<f4'", "'|O'", "'<U9'", "'<f8'", "'|V3'", "'<c16'", "'x'"))
    shape = pick(random, ("()", "(0,)", "(1000000000000,)", "(1000000000,)", "(-1,)", "(2, 3)", "('a',)", "(" * 900))
    header = f"{{'descr': {text}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data[128:]


def h5_changed(random: Random, path: Path) -> None:
    """An attribute, a data set or a link of an HDF5 file changed, or its bytes."""
    import h5py

    kind = int(random.integers(4))
    if kind == 3:
        path.write_bytes(bytes_changed(random, path.read_bytes()))
        return
    with h5py.File(path, "r+") as file:
        if kind == 0 and "model_config" in file.attrs:
            file.attrs["model_config"] = json_changed(random, file.attrs["model_config"]).replace("\x00", "")
            return
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = pick(random, names)
        del file[name]
        match int(random.integers(4)):
            case 0:
                file[name] = h5py.ExternalLink("/etc/passwd", "/x")
            case 1:
                file[name] = h5py.SoftLink(f"/{name}")
            case 2:
                file.create_dataset(name, (1 << 20, 1 << 20), "f4", chunks=(1024, 1024), compression="gzip")
            case _:
                file[name] = np.zeros(int(random.integers(0, 9)), pick(random, ("f4", "i1", "S3")))
