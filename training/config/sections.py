"""Sections of a recipe: data, augmentation, student and evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from training.utils.keys import no_key
from training.utils.ranges import EmbeddingWidth, Language, Pixels, Positive, Share, TextLength

Captions = Annotated[dict[Language, str], Field(min_length=1)]
# pixels are divided by it
ChannelStd = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]
Octave = Annotated[float, Field(ge=0, le=4)]  # log2 of a factor


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Base class of recipes and their sections. The types of the fields have their ranges."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def problems(self) -> Iterator[str]:
        """Yield what contradicts itself in the fields: `field: problem. Next step.`"""
        yield from ()

    def __post_init__(self):
        for problem in self.problems():
            raise ValueError(problem)


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

    train: list[str] | str
    subset: str | None = None
    split: str = "train"
    image_column: str | None = None
    caption_columns: Captions | None = None
    weight: Positive = 1.0


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
            process has its own buffer, of at most 256 MiB of encoded images.
        phrasing: Share of the captions, 0..1, that the student reads in other words, as people type searches:
            requests, typing errors, spaces between Chinese characters. The teacher's target is unchanged.
        skip_wrong_script: Whether to skip captions that have no letter of their language's script.
        max_skip_share: Largest share of samples, 0..1, that may be skipped before the run stops with an error.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise they are skipped, and such `eval.data` is refused.
        in_memory: Whether to keep every decoded and resized image in memory after its first use. Not available for
            streams.
        workers: Number of processes that decode images. With 0 the training process decodes them. Default: with a GPU
            one for each core, at most 16, without one 0. The order of a stream depends on this number.
    """

    train: list[str] | str | None = None
    image_column: str = "image"
    caption_columns: Captions = field(default_factory=lambda: {"en": "en", "zh": "zh"})
    sources: list[SourceConfig] = field(default_factory=list)
    streaming: bool = False
    shuffle_buffer: Annotated[int, Field(ge=1, le=10**7)] = 1024
    phrasing: Share = 0.0
    skip_wrong_script: bool = True
    max_skip_share: Share = no_key(default=0.01)
    allow_paths: bool = False
    in_memory: bool = no_key(default=False)
    workers: Annotated[int, Field(ge=0, le=1024)] | None = no_key(default=None)

    def problems(self) -> Iterator[str]:
        """Yield contradictions between the fields."""
        if (self.train is None) == (not self.sources):
            yield "data: set either train, for one source, or sources, for a mixture."
        if self.streaming and self.in_memory:
            yield (
                "data.in_memory: a stream has too many images to keep. Turn off in_memory or "
                "streaming."
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
    """Image augmentation: one random affine warp and one random color change. Ranges are centered on "no change".

    Args:
        zoom: Largest zoom in or out, as a log2 factor; 0.25 is up to 19 % larger or smaller.
        rotate: Largest rotation in degrees, in either direction.
        stretch: Largest change of the aspect ratio, as a log2 factor.
        shift: Largest shift in either direction, as a share of the image's edge.
        flip: Probability of a horizontal flip, 0..1.
        brightness: Largest change of brightness in either direction, as a share of the full range.
        contrast: Largest change of contrast, as a log2 factor.
        saturation: Largest change of saturation, as a log2 factor.
        tint: Standard deviation of a random mix of the color channels.
        blur: Probability of a slight blur, 0..1.
        downscale: Probability of a lower resolution, 0..1: the image is reduced by a factor of 2 to 8 and enlarged
            again, as small images are enlarged to the model's input.
        background: Pixel value, 0..255, of areas that the warp uncovers.
    """

    zoom: Octave = 0.15
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    stretch: Octave = 0.1
    shift: Share = 0.05
    flip: Share = 0.0
    brightness: Share = 0.1
    contrast: Octave = 0.2
    saturation: Octave = 0.3
    tint: Share = 0.0
    blur: Share = 0.0
    downscale: Share = 0.0
    background: Annotated[int, Field(ge=0, le=255)] = 255


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Checked):
    """A new student.

    Args:
        vision_config: Transformers config of the image tower, including its `model_type`. If `vision_init` names a
            checkpoint, only the fields that differ from the checkpoint's config; None takes that config unchanged.
        text_config: Transformers config of the text tower, by the same rules with `text_init`. Vocabulary size and
            special tokens come from the tokenizer.
        vision_init: Initial weights of the image tower: `random`, `teacher`, or the Hub id or folder of a pretrained
            tower. A deeper or wider tower is cut to evenly spaced layers, heads and channels.
        text_init: Initial weights of the text tower: `random`, `teacher`, or the Hub id or folder of a pretrained
            tower, which is cut like an image tower. Token embeddings are matched by the token's text.
        tokenizer: Hub id or folder of the tokenizer, such as a vocabulary from
            `python -m training.prepare.vocabulary`. None takes the teacher's tokenizer.
        image_size: Height and width of the input image in pixels. None takes the teacher's size.
        image_mean: Mean of each color channel, in 0..1, for normalization. None takes the teacher's value.
        image_std: Standard deviation of each color channel, in 0..1. None takes the teacher's value.
        max_text_length: Longest text in tokens; longer texts are truncated. Captions are also truncated to the longest
            text of the teacher; a run warns if the student's is longer.
        vision_pooling: Pooling of the image feature map: `mean`, the `cls` token, or the `tower`'s own pooling.
        projection_dim: Width of the shared embedding space. None takes the teacher's width.
    """

    vision_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    vision_init: str = "random"
    text_init: str = "random"
    tokenizer: str | None = None
    image_size: Pixels | None = None
    image_mean: Annotated[list[Share], Field(min_length=3, max_length=3)] | None = None
    image_std: ChannelStd | None = None
    max_text_length: TextLength = 64
    vision_pooling: Literal["mean", "cls", "tower"] = "mean"
    projection_dim: EmbeddingWidth | None = None


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Checked):
    """Labeled validation set for zero-shot classification during training, in each language of `data`.

    Args:
        data: Parquet file, folder, Hub id (its split `test`) or `module:function` of the images and labels, which are
            class names. None runs no evaluation.
        class_names: JSON file with a list of {language: name}, one entry per class, `module:function` that returns
            such a list, or the id of an ELEVATER set.
    """

    data: str | None = None
    class_names: str | None = None
