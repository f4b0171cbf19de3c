"""Sections of a recipe: data, augmentation, student and evaluation; and the ranges of their numbers."""

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args

ABOVE_0, BELOW_1 = math.ulp(0.0), math.nextafter(1.0, 0.0)
MOST = 1e9  # where no smaller maximum is natural
# smallest and largest value of each number of a recipe, by field name
LIMITS: dict[str, tuple[float, float]] = {
    "max_steps": (1, MOST), "batch_size": (1, 1e6), "accumulate_steps": (1, 1e6), "chunk_size": (0, 1e6),
    "learning_rate": (0, 1e3), "weight_decay": (0, 1e3), "warmup_steps": (0, MOST), "max_grad_norm": (ABOVE_0, MOST),
    "ema_decay": (0, BELOW_1), "log_every": (1, MOST), "save_every": (0, MOST), "keep_checkpoints": (1, MOST),
    "eval_every": (0, MOST), "teacher_views": (1, 1000), "seed": (0, 2**32 - 1), "image_size": (1, 4096),
    "max_text_length": (2, 8192), "projection_dim": (1, 65536), "weight": (ABOVE_0, MOST), "workers": (0, 1024),
    "shuffle_buffer": (1, 1e7), "max_skip_share": (0, 1), "background": (0, 255), "zoom": (0, 4), "stretch": (0, 4),
    "contrast": (0, 4), "saturation": (0, 4), "rotate": (0, 180), "dropout": (0, BELOW_1),
    **dict.fromkeys(("shift", "flip", "brightness", "tint", "blur", "downscale", "phrasing"), (0, 1)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Base class that checks every number of a dataclass against `LIMITS`, and that no field lacks its value.

    The weight of a loss is at least 0.

    It is a dataclass itself, because jsonargparse expands `--data.train` only if all base classes are.
    """

    path: ClassVar[str] = (
        ""  # where the dataclass is in a recipe, such as `data.`, for error messages
    )

    def __post_init__(self):
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            if value is None and type(None) not in get_args(option.type):
                raise ValueError(f"{self.path}{name}: has no value. Give one, or remove the line.")
            limits = LIMITS.get(name, (0, MOST) if name.endswith("_weight") else None)
            if limits is None or not isinstance(value, (int, float)):
                continue
            low, high = limits
            if not low <= value <= high:
                if value > high:
                    allowed = "less than 1" if high == BELOW_1 else f"at most {high:,.0f}"
                else:
                    allowed = "above 0" if low == ABOVE_0 else f"at least {low}"
                raise ValueError(f"{self.path}{name}: must be {allowed}, got {value}.")


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Checked):
    """One source of a mixture. A column without a value is the one of `data`.

    Args:
        train: Hub id, folder, files or `module:function` of this source, as in `data.train`.
        subset: Configuration of a Hub data set that has several.
        split: Split to train on, if the source has several.
        image_column: Column of the images.
        caption_columns: Column of the captions for each language. Sources may differ in their languages.
        weight: Weight of this source, above 0. Its share of the samples is its weight divided by the sum of all
            weights.
    """

    path: ClassVar[str] = "data.sources."

    train: list[str] | str
    subset: str | None = None
    split: str = "train"
    image_column: str | None = None
    caption_columns: dict[str, str] | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Training images and captions.

    Args:
        train: Training data. One of: a Hub id; a folder that `datasets` can load, such as an image folder with
            metadata; parquet files or tar shards (webdataset layout), each a path, a glob pattern or a URL such as
            `hf://datasets/ID/FILE`, or a list of these; `module:function` that returns a `datasets.Dataset` or
            `IterableDataset`.
        image_column: Column of the images. In tar shards it is the file extension, such as `jpg`.
        caption_columns: Column of the captions for each language (ISO 639-1 code). A cell is a string or a list of
            strings. Write a field of a nested column as `translation.en`. In tar shards the column is a file
            extension, such as `txt` or `zh.txt`, or a field of a JSON file, such as `json.caption`.
        sources: One source or a mixture, instead of `train`. Each can have its own split, columns and weight.
        streaming: Whether to read the data in the order of their shards, without a copy on disk and at any size.
            Otherwise the data are stored on disk and fully shuffled.
        shuffle_buffer: Number of samples in the shuffle buffer of a stream, at least 1. Every source in every decoding
            process has its own buffer.
        phrasing: Share of the captions, 0..1, that the student reads in other words, as people type searches:
            requests, typing errors, spaces between Chinese characters. The teacher's target is unchanged.
        skip_wrong_script: Whether to skip captions that have no letter of their language's script.
        max_skip_share: Largest share of samples, 0..1, that may be skipped before the run stops with an error.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise they are skipped, and such `eval.data` is refused.
        in_memory: Whether to keep every decoded and resized image in memory after its first use. Not available for
            streams.
        workers: Number of processes that decode images. With 0 the training process decodes them. The order of a
            stream depends on this number.
    """

    path: ClassVar[str] = "data."

    train: list[str] | str | None = None
    image_column: str = "image"
    caption_columns: dict[str, str] = field(default_factory=lambda: {"en": "en", "zh": "zh"})
    sources: list[SourceConfig] = field(default_factory=list)
    streaming: bool = False
    shuffle_buffer: int = 1024
    phrasing: float = 0.0
    skip_wrong_script: bool = True
    max_skip_share: float = 0.01
    allow_paths: bool = False
    in_memory: bool = False
    workers: int = 0

    def __post_init__(self):
        super().__post_init__()
        if (self.train is None) == (not self.sources):
            raise ValueError("data: set either train, for one source, or sources, for a mixture.")
        columns = [self.caption_columns, *(source.caption_columns for source in self.sources)]
        if {} in columns:
            raise ValueError(
                "data.caption_columns: is empty; name a column for at least one language, such as {en: caption}."
            )
        for language in (language for each in columns for language in each or {}):
            if not (
                isinstance(language, str) and re.fullmatch("[a-z]{2,3}", language)
            ):  # YAML reads no as false
                raise ValueError(
                    f"data.caption_columns: {language!r} is not a language code of ISO 639-1, such as en or zh. Write "
                    'one; in YAML, write "no" with quotation marks.'
                )
        if self.streaming and self.in_memory:
            raise ValueError(
                "data.in_memory: a stream has too many images to keep. Turn off in_memory or streaming."
            )

    @property
    def mixture(self) -> list[SourceConfig]:
        """All sources with every field filled in; a single source if `train` is set."""
        return [
            replace(
                source,
                image_column=source.image_column or self.image_column,
                caption_columns=source.caption_columns or self.caption_columns,
            )
            for source in (self.sources if self.train is None else [SourceConfig(train=self.train)])
        ]

    @property
    def languages(self) -> list[str]:
        """Caption languages of all sources, in the order of the recipe."""
        return list(
            dict.fromkeys(
                language for source in self.mixture for language in source.caption_columns or {}
            )
        )

    @property
    def name(self) -> str:
        """Short name of all sources, for messages."""
        return ", ".join(
            source.train if isinstance(source.train, str) else source.train[0]
            for source in self.mixture
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """Image augmentation: one random affine warp and one random colour change. Ranges are centred on "no change".

    Args:
        zoom: Largest zoom in or out, as a log2 factor; 0.25 is up to 19 % larger or smaller.
        rotate: Largest rotation in degrees, in either direction.
        stretch: Largest change of the aspect ratio, as a log2 factor.
        shift: Largest shift in either direction, as a share of the image's edge.
        flip: Probability of a horizontal flip, 0..1.
        brightness: Largest change of brightness in either direction, as a share of the full range.
        contrast: Largest change of contrast, as a log2 factor.
        saturation: Largest change of saturation, as a log2 factor.
        tint: Standard deviation of a random mix of the colour channels.
        blur: Probability of a slight blur, 0..1.
        downscale: Probability of a lower resolution, 0..1: the image is reduced by a factor of 2 to 8 and enlarged
            again, as small images are enlarged to the model's input.
        background: Pixel value, 0..255, of areas that the warp uncovers.
    """

    path: ClassVar[str] = "augment."

    zoom: float = 0.15
    rotate: float = 0.0
    stretch: float = 0.1
    shift: float = 0.05
    flip: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.2
    saturation: float = 0.3
    tint: float = 0.0
    blur: float = 0.0
    downscale: float = 0.0
    background: int = 255


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Checked):
    """A new student.

    Args:
        vision_config: Transformers config of the image tower, including its `model_type`. If `vision_init` names a
            checkpoint, only the fields that differ from the checkpoint's config; None takes that config unchanged.
        text_config: Transformers config of the text tower, by the same rules with `text_init`. Vocabulary size and
            special tokens come from the tokenizer.
        vision_init: Initial weights of the image tower: `random`, `teacher`, `pip:efficientnet-lite0` or
            `pip:efficientnet-lite2` (ImageNet weights of a pip package), or the Hub id or folder of a pretrained
            tower. A deeper or wider tower is cut to evenly spaced layers, heads and channels.
        text_init: Initial weights of the text tower: `random`, `teacher`, or the Hub id or folder of a pretrained
            tower, which is cut like an image tower. Token embeddings are matched by the token's text.
        tokenizer: Hub id or folder of the tokenizer, such as a vocabulary from
            `python -m training.prepare.vocabulary`. None takes the teacher's tokenizer.
        image_size: Height and width of the input image in pixels. None takes the teacher's size.
        image_mean: Mean of each colour channel, in 0..1, for normalization. None takes the value of a `pip:`
            tower, or else of the teacher.
        image_std: Standard deviation of each colour channel, in 0..1. None takes the teacher's value.
        max_text_length: Longest text in tokens; longer texts are truncated. Captions are also truncated to the longest
            text of the teacher; a run warns if the student's is longer.
        vision_pooling: Pooling of the image feature map: `mean`, the `cls` token, or the `tower`'s own pooling.
        projection_dim: Width of the shared embedding space. None takes the teacher's width.
    """

    path: ClassVar[str] = "student."

    vision_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    vision_init: str = "random"
    text_init: str = "random"
    tokenizer: str | None = None
    image_size: int | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    max_text_length: int = 64
    vision_pooling: Literal["mean", "cls", "tower"] = "mean"
    projection_dim: int | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (
                len(values) != 3 or not all(0 <= value <= 1 for value in values)
            ):
                raise ValueError(f"student.{name}: must be three numbers in 0..1, got {values}.")
        if self.image_std is not None and not all(self.image_std):
            raise ValueError(
                f"student.image_std: must be above 0, got {self.image_std}; pixels are divided by it."
            )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Labelled validation set for zero-shot classification during training, in each language of `data`.

    Args:
        data: Parquet file, folder, Hub id (its split `test`) or `module:function` of the images and labels, which are
            class names. None runs no evaluation.
        class_names: JSON file with a list of {language: name}, one entry per class, or the id of an ELEVATER set.
    """

    data: str | None = None
    class_names: str | None = None
