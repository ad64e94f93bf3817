"""``tf.train.Example``, what a record of images usually is: its features by key.

The message is declared here as TensorFlow's own ``example.proto`` has it, since protobuf alone reads it then: neither
TensorFlow nor its memory are needed in a process that reads records.
"""

from __future__ import annotations

from functools import cache
from typing import Any

IMAGE_KEYS = ("image/encoded", "image")
"""ImageNet's usual key, and that of TFDS's sets."""
LABEL_KEYS = ("image/class/label", "label")
_LISTED = 8


def features(record: bytes) -> Any:
    """The features of a record: a mapping from keys to messages of ``bytes_list``, ``int64_list`` or ``float_list``.

    Raises:
        ValueError: it is not an Example.
    """
    from google.protobuf.message import DecodeError

    try:
        return _example().FromString(record).features.feature
    except DecodeError:
        raise ValueError("is not a tf.train.Example") from None


def image(record: bytes, key: str) -> bytes:
    """The bytes of an encoded image under ``key``.

    Raises:
        ValueError: there are none, or several.
    """
    return _image(features(record), key)


def label(record: bytes, image_key: str, label_key: str) -> int:
    """The label under ``label_key`` of a record that holds an image, too.

    Raises:
        ValueError: one of the two is missing, or the label is not one whole number.
    """
    known = features(record)
    _image(known, image_key)
    if label_key not in known:
        raise ValueError(_lacks(known, label_key))
    feature = known[label_key]
    values = feature.int64_list.value
    if len(values) != 1:
        held = {"bytes_list": "text", "float_list": "floats"}.get(feature.WhichOneof("kind"), f"{len(values)} numbers")
        raise ValueError(f"holds {held} under {label_key!r}, where one whole number is needed")
    return int(values[0])


def keys(record: bytes, image_key: str | None, label_key: str | None) -> tuple[str, str]:
    """The keys of image and label: those that are set, else the usual ones that the record has.

    Raises:
        ValueError: it has none of the usual ones.
    """
    known = features(record)
    chosen = []
    for key, usual in ((image_key, IMAGE_KEYS), (label_key, LABEL_KEYS)):
        key = key or next((name for name in usual if name in known), None)
        if key is None:
            raise ValueError(_lacks(known, " or ".join(usual)))
        chosen.append(key)
    return chosen[0], chosen[1]


def _image(known: Any, key: str) -> bytes:
    if key not in known:
        raise ValueError(_lacks(known, key))
    values = known[key].bytes_list.value
    if len(values) != 1:
        raise ValueError(f"holds {len(values)} texts of bytes under {key!r}, where one encoded image is needed")
    return bytes(values[0])


def _lacks(known: Any, key: str) -> str:
    there = sorted(known)
    listed = ", ".join(map(repr, there[:_LISTED])) + (", ..." if len(there) > _LISTED else "")
    return f"lacks the key {key!r} (it has {listed or 'none'})"


@cache
def _example() -> Any:
    """The class of the message, in a pool of its own: TensorFlow's may be loaded beside it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tfhalf/example.proto", package="tfhalf", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, str], within: Any = None) -> Any:
        added = (file.message_type if within is None else within.nested_type).add(name=name)
        for title, number, kind, inner in fields:
            repeated = title in ("value", "feature") and name != "FeatureEntry"
            optional_or_not = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            declared = added.field.add(name=title, number=number, type=kind, label=optional_or_not)
            if inner:
                declared.type_name = inner
        return added

    message("BytesList", ("value", 1, field.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, field.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, field.TYPE_INT64, ""))
    one_of = message(
        "Feature",
        ("bytes_list", 1, field.TYPE_MESSAGE, ".tfhalf.BytesList"),
        ("float_list", 2, field.TYPE_MESSAGE, ".tfhalf.FloatList"),
        ("int64_list", 3, field.TYPE_MESSAGE, ".tfhalf.Int64List"),
    )
    one_of.oneof_decl.add(name="kind")
    for each in one_of.field:
        each.oneof_index = 0
    features_message = message("Features", ("feature", 1, field.TYPE_MESSAGE, ".tfhalf.Features.FeatureEntry"))
    entry = message(
        "FeatureEntry",
        ("key", 1, field.TYPE_STRING, ""),
        ("value", 2, field.TYPE_MESSAGE, ".tfhalf.Feature"),
        within=features_message,
    )
    entry.options.map_entry = True
    message("Example", ("features", 1, field.TYPE_MESSAGE, ".tfhalf.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfhalf.Example"))
