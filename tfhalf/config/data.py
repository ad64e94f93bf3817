"""What a pipeline file says of its data: the source, its parts, how inputs are normalised and images changed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tfhalf.config.augment import Colour, RandAugment
from tfhalf.config.section import Positive, Section, Share

# A field's description stands in for the words that error messages otherwise make from types and bounds.
VALIDATION = "a share in [0, 1) or a whole number >= 0"
TEST = (
    "a share in (0, 1), the name of the source's validation part (val, validation, dev or valid), or "
    "{items: [...]} of file names, numbers and ranges such as 24-29"
)


class ResizedCrop(Section):
    """A box of each training image, resized to ``data.image_size``: ``scale`` are the least and the most of its share
    of the image's area, ``ratio`` of its width to its height."""

    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    ratio: tuple[
        Annotated[float, Field(ge=1 / 16, le=16)],
        Annotated[float, Field(ge=1 / 16, le=16)],
    ] = (0.75, 1.3333)

    @model_validator(mode="after")
    def _ordered(self) -> ResizedCrop:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} needs the least first, received {[low, high]}; write {[high, low]}")
        return self


class Augment(Section):
    """Random changes to training images, drawn anew each epoch. ``crop`` and ``cutout`` are in pixels.

    ``mixup`` and ``cutmix`` are the alpha of a Beta(alpha, alpha) that is drawn for each image, 0 for none: how much of
    it, or which part of its area, it keeps beside its neighbour in the batch, whose target then counts for the rest. Of
    both each image gets one, by a coin. ``mix_probability`` is the share of images that are mixed.

    ``resized_crop`` is for images of files (``folder:``, ``tfds:``), which stay encoded: each is decoded at its own
    size, and cut and resized on the device. Validation and test images come to ``data.image_size`` as
    ``data.center_crop`` says.
    """

    flip: Literal["none", "random", "alternating"] = "none"
    resized_crop: ResizedCrop | None = None
    crop: Annotated[int, Field(ge=0, le=64)] = 0
    crop_padding: Literal["reflect", "zeros"] = "reflect"
    cutout: Annotated[int, Field(ge=0, le=512)] = 0
    colour: Colour | None = None
    rand_augment: RandAugment | None = None
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    mix_probability: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others, and so have two targets."""
        return bool(self.mixup or self.cutmix)

    @model_validator(mode="after")
    def _one_crop(self) -> Augment:
        if self.crop and self.resized_crop is not None:
            raise ValueError("crop shifts images, and resized_crop cuts boxes out of them; keep one of the two")
        return self


class Normalize(Section):
    """Fixed statistics per channel, in the source's own units: ``(x - mean) / std``."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[Positive, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_channels(self) -> Normalize:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std need one number per channel each, received {len(self.mean)} and {len(self.std)}"
            )
        return self


Standardize = Literal["lower_and_strip_punctuation", "lower", "strip_punctuation", "none"]
Split = Literal["whitespace", "character"]


class Text(Section):
    """How texts become numbers. ``tokens``: so many numbers at most, that of padding and that of unknown words among
    them, for the words that the training part holds most often. ``length``: how many words of a text count; ``auto``
    holds 99 % of the training texts whole, and is 512 at most. ``vocabulary``: a file of the words, one a line, in
    place of those that the training part holds, relative to the pipeline file. ``standardize``, ``split`` and
    ``ngrams`` are those of `keras.layers.TextVectorization`: what is changed before a text is cut, where it is cut, and
    up to how many words in a row are a word, too.
    """

    tokens: Annotated[int, Field(ge=3, le=10_000_000)] = 20_000
    length: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    vocabulary: Annotated[str, Field(min_length=1)] | None = None
    standardize: Standardize = "lower_and_strip_punctuation"
    split: Split = "whitespace"
    ngrams: Annotated[int, Field(ge=1, le=16)] = 1

    @model_validator(mode="after")
    def _one_of_both(self) -> Text:
        if self.vocabulary is not None and "tokens" in self.model_fields_set and self.tokens != 20_000:
            raise ValueError("tokens counts words of the training part, and vocabulary names a file of words; keep one")
        return self


class HeldOut(Section):
    """Items of the training part that are the test part. ``items``: the names of their files without the ending, or
    their numbers, from 0 on; ``24-29`` is a range of numbers, both ends among it.
    """

    items: Annotated[
        tuple[Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1, max_length=255)], ...],
        Field(min_length=1),
    ]


class Records(Section):
    """How ``records:PATH`` is read. ``image`` and ``label``: the keys of a record's encoded image and of its label;
    else ``image/encoded`` or ``image``, and ``image/class/label`` or ``label``. ``train``, ``val`` and ``test``: globs
    of their shards below PATH; without any of them shards go by their names. ``classes``: a file of the names of
    classes, one a line, relative to the pipeline file. ``first_label``: the number of the first class in the records.
    """

    image: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    label: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    train: Annotated[str, Field(min_length=1)] | None = None
    val: Annotated[str, Field(min_length=1)] | None = None
    test: Annotated[str, Field(min_length=1)] | None = None
    classes: Annotated[str, Field(min_length=1)] | None = None
    first_label: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


Role = Literal["number", "category", "text", "target", "weight", "ignore"]


class Data(Section):
    """``source``: ``tfds:NAME``, ``folder:PATH``, ``records:PATH``, ``npz:PATH``, ``sklearn:digits``, ``csv:PATH``,
    ``masks:PATH``, ``synthetic:HxWxC``, ``file.py:load`` or ``package.module:load``. The PATH of folders and records
    may be a URL.

    ``args`` are the function's keyword arguments. ``synthetic:224x224x3`` makes random images of that height, width and
    number of channels, to measure speed on; its ``args`` are ``classes`` (10), ``train`` (5120) and ``test`` (512).
    ``image_size`` is (height, width), to which images are stretched. With ``center_crop`` they keep their proportions:
    of the largest box in the middle that has those of ``image_size``, this share of each side is kept; 0.875 is what
    ImageNet is commonly tested by (resized to 256, 224 in the middle). That holds for what is predicted and served,
    too, and not for training images that ``augment.resized_crop`` cuts.
    ``validation`` (share below 1, or a number of items) is taken from the training part, never from the test set;
    ``test`` is the share split off where the source has no test set of its own, or what is held out for it: ``dev``
    (``val``, ``validation``, ``valid``), the source's own validation part, or `HeldOut` items.
    ``normalize``: ``standardize`` uses each channel's mean and standard deviation over the training part, ``unit``
    divides integers by 255 and floats by their largest absolute value. ``decode``: ``eager`` decodes every image before
    training; ``lazy`` (``folder:``, ``records:`` and ``tfds:``) keeps training images encoded, where they lie, and
    reads and decodes them again each epoch; ``auto`` is eager where that fits into the memory. ``records`` says what of
    ``records:`` is which.
    ``decoder``: what decodes the JPEGs of ``augment.resized_crop``; ``gpu`` is nvImageCodec (extra ``gpu``), whose
    pixels differ by a level or two; ``auto`` is that where it runs and a process has fewer than 12 cores.

    ``columns`` are roles of the columns of ``csv:``, by their names: number, category, text, target, weight or ignore;
    a column that it does not name is a number where every cell is one, else a category. ``empty`` says what an empty
    number cell means: ``refuse`` that the file is wrong, ``mean`` the mean of its column over the training part,
    ``drop`` that its row is left out. ``text`` says how texts become numbers.
    """

    source: Annotated[str, Field(min_length=3)]
    args: dict[str, Any] = Field(default_factory=dict)
    image_size: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]] | None = None
    center_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    validation: Annotated[int, Field(ge=0)] | Share = Field(0.1, description=VALIDATION)
    test: Annotated[float, Field(gt=0, lt=1)] | Literal["val", "validation", "dev", "valid"] | HeldOut = Field(
        0.2, description=TEST
    )
    normalize: Literal["standardize", "unit", "none"] | Normalize = "standardize"
    augment: Augment = Augment()
    decode: Literal["auto", "eager", "lazy"] = "auto"
    decoder: Literal["auto", "cpu", "gpu"] = "auto"
    columns: dict[str, Role] = Field(default_factory=dict)
    empty: Literal["refuse", "mean", "drop"] = "refuse"
    text: Text = Text()
    records: Records = Records()

    @model_validator(mode="after")
    def _crops_of_files(self) -> Data:
        if self.center_crop is not None and self.image_size is None:
            raise ValueError("center_crop needs image_size, for example image_size: [224, 224]")
        if self.augment.resized_crop is None:
            return self
        if self.image_size is None:
            raise ValueError("augment.resized_crop needs image_size, for example image_size: [224, 224]")
        if self.decode == "eager":
            raise ValueError("augment.resized_crop needs images that stay encoded, and decode is eager; leave it out")
        return self
