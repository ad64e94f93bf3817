"""The ten nets of `ten_nets.py`: what both sides train, on what, and the pipeline of tfhalf's side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

_HERE = Path(__file__).resolve().parent
_KERAS = _HERE / "ten_nets_keras.py"
_MODELS = _HERE.parent / "models"
_BATCHES = 20  # in the training set, which lies in the GPU's memory on both sides
_TEST = 16  # items; nothing is evaluated

Task = Literal["classification", "sequence", "segmentation"]


@dataclass(frozen=True)
class Optimizer:
    """Of both sides, with one learning rate throughout. SGD has a momentum of 0.9, and its decay is part of the
    gradient; AdamW's is not. Every weight decays."""

    name: Literal["sgd", "adamw"]
    rate: float
    decay: float
    momentum: float = 0.9

    def settings(self) -> dict[str, Any]:
        """As a pipeline says it."""
        common = {"name": self.name, "learning_rate": self.rate, "weight_decay": self.decay}
        if self.name == "adamw":
            return common
        return {**common, "momentum": self.momentum, "nesterov": False, "coupled_decay": True}


SGD, ADAMW = Optimizer("sgd", 0.02, 0.0001), Optimizer("adamw", 0.0003, 0.05)


@dataclass(frozen=True)
class Net:
    """``build`` is its builder for Keras, ``args`` what that takes; ``item`` the shape of an image or (words,), of
    ``words`` different ones; ``classes`` of an item, a pixel or a word.

    ``parameters`` are trained, the same number on both sides, 0 where it is not known (`small`); ``fixed`` are those
    that Keras counts beside them: statistics of norms, which PyTorch has as buffers. ``tiny``: arguments of `small`.
    """

    name: str
    title: str
    build: str
    item: tuple[int, ...]
    classes: int
    batch: int
    optimizer: Optimizer
    parameters: int
    fixed: int = 0
    task: Task = "classification"
    words: int = 0
    args: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What its speed counts."""
        return "tokens" if self.words else "images"

    @property
    def each(self) -> int:
        """So many of these are in an item."""
        return self.item[0] if self.words else 1

    def small(self) -> Net:
        """The same on tiny items, as shallow as ``tiny`` makes it: for a CPU."""
        classes = self.classes if self.task == "segmentation" else min(self.classes, 10)
        item = (32,) if self.words else (32, 32, 3)
        words = 10 * bool(self.words)
        if self.task == "sequence":
            words = classes
        return replace(
            self, item=item, classes=classes, words=words, batch=4, parameters=0, args={**self.args, **self.tiny}
        )

    def with_batch(self, batch: int | None) -> Net:
        """The same with another batch, unless that is None."""
        return self if batch is None else replace(self, batch=batch)

    def pipeline(self, policy: str = "mixed_float16") -> dict[str, Any]:
        """What `tfhalf bench` runs."""
        args = dict(self.args)
        if self.words and self.task == "classification":
            args["words"] = self.words
        task = {} if self.task == "classification" else {"task": self.task}
        return {
            "name": self.name,
            "model": {"build": self.build, "args": args},
            "data": {**self._data(), "validation": 0},
            **task,
            "train": {"epochs": 1, "batch_size": self.batch, "optimizer": self.optimizer.settings()},
            "precision": {"policy": policy},
        }

    @property
    def count(self) -> int:
        """Items of the training set."""
        return _BATCHES * self.batch

    def _data(self) -> dict[str, Any]:
        counts = {"train": self.count, "test": _TEST}
        if self.words:
            more = {"next_word": self.task == "sequence", "classes": self.classes}
            args = {"length": self.item[0], "words": self.words, **more, **counts}
            return {"source": f"{_KERAS}:tokens", "args": args}
        if self.task == "segmentation":
            return {"source": f"{_KERAS}:masks", "args": {"size": self.item[0], **counts}}
        shape = "x".join(map(str, self.item))
        return {"source": f"synthetic:{shape}", "args": {"classes": self.classes, **counts}}


def _image(name: str, title: str, batch: int, parameters: int, **more: Any) -> Net:
    """A classifier of images of 224x224 in a thousand classes."""
    settings = {"build": f"{_KERAS}:{name}", "optimizer": SGD, **more}
    return Net(name, title, item=(224, 224, 3), classes=1000, batch=batch, parameters=parameters, **settings)


_RESNET50 = f"{_MODELS / 'resnet50.py'}:build"
_UNET = f"{_MODELS / 'unet.py'}:build"
# fixed: two for each channel of a norm; EfficientNet-B0's seven more are of the normalisation within Keras' net.
NETS: dict[str, Net] = {
    net.name: net
    for net in (
        _image("resnet50", "ResNet-50", 256, 25_557_032, fixed=53_120, build=_RESNET50),
        _image("efficientnet_b0", "EfficientNet-B0", 256, 5_288_548, fixed=42_023),
        _image("efficientnet_v2_s", "EfficientNetV2-S", 128, 21_458_488, fixed=153_872),
        _image("mobilenet_v2", "MobileNetV2", 256, 3_504_872, fixed=34_112),
        _image("convnext_tiny", "ConvNeXt-Tiny", 128, 28_589_128, optimizer=ADAMW),
        _image("densenet121", "DenseNet-121", 128, 7_978_856, fixed=83_648),
        _image("vit_s16", "ViT-S/16", 256, 22_050_664, optimizer=ADAMW, tiny={"depth": 2}),
        Net(
            "gpt",
            "GPT, 12 layers of 768",
            f"{_KERAS}:gpt",
            (1024,),
            50_304,  # GPT-2's 50,257, rounded up to a multiple of 64 as nanoGPT does
            16,
            ADAMW,
            124_475_904,
            task="sequence",
            words=50_304,
            tiny={"width": 64, "depth": 2, "heads": 2},
        ),
        Net(
            "bert",
            "BERT base",
            f"{_KERAS}:bert",
            (512,),
            2,
            32,
            ADAMW,
            109_483_778,
            words=30_522,
            tiny={"width": 64, "depth": 2, "heads": 2},
        ),
        Net(
            "unet",
            "U-Net",
            _UNET,
            (256, 256, 3),
            2,
            32,
            SGD,
            31_037_698,
            fixed=11_776,
            task="segmentation",
            args={"width": 64, "depth": 4},
        ),
    )
}
