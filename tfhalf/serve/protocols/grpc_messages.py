"""The messages of the Open Inference Protocol's gRPC form, made when this is imported: no generated code, no protoc.

The tables state name, type and field number as the protocol fixes them, with Triton's statistics, configuration and
repository calls as far as they say something here. The messages live in a descriptor pool of their own, so that another
library's copy of the same protocol (tritonclient's) can be imported beside them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
FILE = "tfhalf/open_inference.proto"

# A field: (name, type, number); `*` before a type is repeated, `map` a map from text, `?` a member of the one oneof.
_PARAMETERS = ("parameters", "map InferParameter")
_TENSOR = (("name", "string", 1), ("datatype", "string", 2), ("shape", "*int64", 3))
_REF = (("name", "string", 1), ("version", "string", 2))
_REPOSITORY = (("repository_name", "string", 1), ("model_name", "string", 2))
_DURATION = "StatisticDuration"

_MESSAGES: dict[str, tuple[tuple[str, str, int], ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": (("live", "bool", 1),),
    "ServerReadyRequest": (),
    "ServerReadyResponse": (("ready", "bool", 1),),
    "ModelReadyRequest": _REF,
    "ModelReadyResponse": (("ready", "bool", 1),),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (("name", "string", 1), ("version", "string", 2), ("extensions", "*string", 3)),
    "ModelMetadataRequest": _REF,
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelMetadataResponse": (
        ("name", "string", 1),
        ("versions", "*string", 2),
        ("platform", "string", 3),
        ("inputs", "*ModelMetadataResponse.TensorMetadata", 4),
        ("outputs", "*ModelMetadataResponse.TensorMetadata", 5),
    ),
    "InferParameter": (
        ("bool_param", "?bool", 1),
        ("int64_param", "?int64", 2),
        ("string_param", "?string", 3),
        ("double_param", "?double", 4),
        ("uint64_param", "?uint64", 5),
    ),
    "InferTensorContents": (
        ("bool_contents", "*bool", 1),
        ("int_contents", "*int32", 2),
        ("int64_contents", "*int64", 3),
        ("uint_contents", "*uint32", 4),
        ("uint64_contents", "*uint64", 5),
        ("fp32_contents", "*float", 6),
        ("fp64_contents", "*double", 7),
        ("bytes_contents", "*bytes", 8),
    ),
    "ModelInferRequest.InferInputTensor": (*_TENSOR, (*_PARAMETERS, 4), ("contents", "InferTensorContents", 5)),
    "ModelInferRequest.InferRequestedOutputTensor": (("name", "string", 1), (*_PARAMETERS, 2)),
    "ModelInferRequest": (
        ("model_name", "string", 1),
        ("model_version", "string", 2),
        ("id", "string", 3),
        (*_PARAMETERS, 4),
        ("inputs", "*ModelInferRequest.InferInputTensor", 5),
        ("outputs", "*ModelInferRequest.InferRequestedOutputTensor", 6),
        ("raw_input_contents", "*bytes", 7),
    ),
    "ModelInferResponse.InferOutputTensor": (*_TENSOR, (*_PARAMETERS, 4), ("contents", "InferTensorContents", 5)),
    "ModelInferResponse": (
        ("model_name", "string", 1),
        ("model_version", "string", 2),
        ("id", "string", 3),
        (*_PARAMETERS, 4),
        ("outputs", "*ModelInferResponse.InferOutputTensor", 5),
        ("raw_output_contents", "*bytes", 6),
    ),
    "ModelStreamInferResponse": (("error_message", "string", 1), ("infer_response", "ModelInferResponse", 2)),
    "ModelDynamicBatching": (("preferred_batch_size", "*int32", 1), ("max_queue_delay_microseconds", "uint64", 2)),
    "ModelInput": (("name", "string", 1), ("data_type", "DataType", 2), ("dims", "*int64", 4)),
    "ModelOutput": (("name", "string", 1), ("data_type", "DataType", 2), ("dims", "*int64", 3)),
    "ModelConfig": (
        ("name", "string", 1),
        ("platform", "string", 2),
        ("max_batch_size", "int32", 4),
        ("input", "*ModelInput", 5),
        ("output", "*ModelOutput", 6),
        ("default_model_filename", "string", 8),
        ("dynamic_batching", "ModelDynamicBatching", 11),
        ("backend", "string", 17),
    ),
    "ModelConfigRequest": _REF,
    "ModelConfigResponse": (("config", "ModelConfig", 1),),
    _DURATION: (("count", "uint64", 1), ("ns", "uint64", 2)),
    "InferStatistics": tuple(
        (name, _DURATION, number)
        for number, name in enumerate(
            ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"),
            1,
        )
    ),
    "InferBatchStatistics": (
        ("batch_size", "uint64", 1),
        ("compute_input", _DURATION, 2),
        ("compute_infer", _DURATION, 3),
        ("compute_output", _DURATION, 4),
    ),
    "ModelStatistics": (
        ("name", "string", 1),
        ("version", "string", 2),
        ("last_inference", "uint64", 3),
        ("inference_count", "uint64", 4),
        ("execution_count", "uint64", 5),
        ("inference_stats", "InferStatistics", 6),
        ("batch_stats", "*InferBatchStatistics", 7),
    ),
    "ModelStatisticsRequest": _REF,
    "ModelStatisticsResponse": (("model_stats", "*ModelStatistics", 1),),
    "ModelRepositoryParameter": (
        ("bool_param", "?bool", 1),
        ("int64_param", "?int64", 2),
        ("string_param", "?string", 3),
        ("bytes_param", "?bytes", 4),
    ),
    "RepositoryIndexRequest": (("repository_name", "string", 1), ("ready", "bool", 2)),
    "RepositoryIndexResponse.ModelIndex": (
        ("name", "string", 1),
        ("version", "string", 2),
        ("state", "string", 3),
        ("reason", "string", 4),
    ),
    "RepositoryIndexResponse": (("models", "*RepositoryIndexResponse.ModelIndex", 1),),
    "RepositoryModelLoadRequest": (*_REPOSITORY, ("parameters", "map ModelRepositoryParameter", 3)),
    "RepositoryModelLoadResponse": (),
    "RepositoryModelUnloadRequest": (*_REPOSITORY, ("parameters", "map ModelRepositoryParameter", 3)),
    "RepositoryModelUnloadResponse": (),
}
_DATA_TYPES = tuple(
    f"TYPE_{name}"
    for name in (
        *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "STRING", "BF16"),
    )
)
METHODS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig"),
    *("ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)
STREAM = "ModelStreamInfer"

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def _add_field(message: Any, name: str, kind: str, number: int) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL, json_name=name)
    if kind.startswith("map "):
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", "string", 1)
        _add_field(entry, "value", kind.removeprefix("map "), 2)
        field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        field.type_name = entry.name  # relative: found within the message
        return
    if kind[0] == "*":
        field.label = _Field.LABEL_REPEATED
    elif kind[0] == "?":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    kind = kind.lstrip("*?")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind == "DataType" else _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES):
        enum.value.add(name=name, number=number)
    types: dict[str, Any] = {}
    for name in sorted(_MESSAGES, key=lambda name: name.count(".")):
        outer, _, inner = name.partition(".")
        types[name] = types[outer].nested_type.add(name=inner) if inner else file.message_type.add(name=name)
        for field in _MESSAGES[name]:
            _add_field(types[name], *field)
    service = file.service.add(name=SERVICE.rpartition(".")[2])
    for method in METHODS:
        service.method.add(
            name=method, input_type=f".{PACKAGE}.{method}Request", output_type=f".{PACKAGE}.{method}Response"
        )
    service.method.add(
        name=STREAM,
        input_type=f".{PACKAGE}.ModelInferRequest",
        output_type=f".{PACKAGE}.ModelStreamInferResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


POOL = descriptor_pool.DescriptorPool()
POOL.Add(_file())


def message(name: str) -> Any:
    """The class of a message of the protocol."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
