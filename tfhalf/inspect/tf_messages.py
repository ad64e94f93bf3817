"""TensorFlow's protobuf messages as far as they are read here, without TensorFlow, whose import takes seconds.

Field numbers are those of tensorflow/core/protobuf/{saved_model,meta_graph,tensor_bundle}.proto and
tensorflow/core/framework/{graph,node_def,attr_value,function,op_def,tensor,tensor_shape,types}.proto; protobuf's rules
keep them for ever. Fields that are not named here are skipped by the parser.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfhalf.inspect.facts import words

# message: field=number:type; "*" repeats, "@" a map from string, else an embedded message or a scalar of protobuf.
_MESSAGES = """
SavedModel: meta_graphs=2:*MetaGraph
MetaGraph: info=1:Info graph=2:Graph signatures=5:@Signature asset_files=6:*Empty objects=7:ObjectGraph
ObjectGraph: nodes=1:*Object concrete_functions=2:@Empty
Object: asset=5:Empty
Info: tags=4:*string tensorflow_version=5:string
Signature: inputs=1:@TensorInfo outputs=2:@TensorInfo method=3:string
TensorInfo: name=1:string dtype=2:int32 shape=3:Shape
Shape: dims=2:*Dim unknown_rank=3:bool
Dim: size=1:int64 name=2:string
Graph: nodes=1:*Node library=2:Library
Library: functions=1:*Function
Function: signature=1:OpDef nodes=3:*Node returns=4:@string
OpDef: name=1:string inputs=2:*Argument outputs=3:*Argument
Argument: name=1:string type=3:int32
Node: name=1:string op=2:string inputs=3:*string attributes=5:@Value
Value: list=1:List text=2:bytes integer=3:int64 type=6:int32 shape=7:Shape tensor=8:Tensor function=10:Named
List: types=6:*int32 tensors=8:*Tensor functions=9:*Named
Named: name=1:string attributes=2:@Value
Tensor: dtype=1:int32 shape=2:Shape content=4:bytes floats=5:*float doubles=6:*double ints=7:*int32 longs=10:*int64\
 halves=13:*int32
Header: shards=1:int32 endianness=2:int32
Entry: dtype=1:int32 shape=2:Shape shard=3:int32 offset=4:int64 size=5:int64 crc=6:fixed32 slices=7:*Empty
Empty:
"""
_DTYPES = words(
    "- float32 float64 int32 uint8 int16 int8 string complex64 int64 bool qint8 quint8 qint32 bfloat16 qint16 quint16 "
    "uint16 complex128 float16 resource variant uint32 uint64 float8e5m2 float8e4m3fn - - - int4 uint4 int2 uint2"
)


def dtype_name(number: int) -> str:
    """``float16`` for 19, and for the reference to one, 119; empty for what is not known here."""
    number -= 100 if number > 100 else 0
    name = _DTYPES[number] if 0 < number < len(_DTYPES) else ""
    return name.strip("-")


@lru_cache(maxsize=1)
def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tfhalf/inspect.proto", package="tfhalf", syntax="proto3")
    for line in _MESSAGES.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for field in fields.split():
            label, _, rest = field.partition("=")
            number, _, kind = rest.partition(":")
            if kind.startswith("@"):
                entry = "".join(part.capitalize() for part in label.split("_")) + "Entry"
                inner = message.nested_type.add(name=entry)
                inner.options.map_entry = True
                _field(inner, "key", 1, "string")
                _field(inner, "value", 2, kind[1:])
                kind = f"*{name}.{entry}"
            _field(message, label, int(number), kind)
    pool = descriptor_pool.DescriptorPool()  # its own: TensorFlow's files are not touched
    pool.Add(file)
    return pool


def _field(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=3 if kind.startswith("*") else 1)
    kind = kind.removeprefix("*")
    scalar = f"TYPE_{kind.upper()}"
    if scalar in descriptor_pb2.FieldDescriptorProto.Type.keys():  # noqa: SIM118  # no dict
        field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(scalar)
    else:
        field.type, field.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, f".tfhalf.{kind}"


def parse(message: str, data: bytes) -> Any:
    """``data`` as a ``message`` of the list above.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"tfhalf.{message}")).FromString(data)
