"""Options of `training/eval.py`. This module does not import torch, so that `--help` answers at once."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from training.evaluation.sets.protocols import PROTOCOLS
from training.utils.ranges import EmbeddingWidth


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to measure: sets of ELEVATER with `protocol`, or your own labeled sets with `class_names`. `retrieval`
    adds sets of images with captions, or is used alone.

    Args:
        model: Models with image and text features, each a folder or a Hub id with or without `@revision`.
        output_dir: Folder for results.json, table.md and results.png.
        protocol: Protocols that measure the sets of ELEVATER: elevater-en, elevater-zh.
        data: Sources of the sets, each SET=SOURCE. SOURCE is a folder with one folder per class, a parquet file, a Hub
            id with or without `@revision`, or `module:function`. With `protocol`, a set without a source, or with
            SET=hub, is read from its own data set on the Hub.
        sets: With `protocol`, sets by name, or one of the selections all, elevater, imagenet. Default: all if the
            class names of ImageNet are installed (package clip-benchmark), else elevater.
        class_names: Names of the candidate classes: a JSON list of {language: name}, one entry per class; a JSON list
            of names, or a .txt file with one name per line, in the one language given by `language`; or the id of a
            set of ELEVATER, such as cifar-100.
        language: With `class_names`, languages of the candidate classes (ISO 639-1 codes). Default: en and zh, where
            the classes have names in them; for a plain list of names, the language of their script.
        templates: Prompt templates: auto (from the installed packages clip-benchmark and cn-clip, else ours), ours
            (with `protocol`), or a JSON file of {language: [templates]} or {language: {set: [templates]}}. With
            `class_names`, auto means the plain class name.
        text_model: Folder or Hub id of a further model, such as the teacher. It encodes the texts for the images of
            each model, and the images for the texts of each model, to measure whether their embeddings are compatible.
        widths: Numbers of leading dimensions, such as 64 128 256, at which truncated embeddings are
            measured too. Each adds a row with this number in the name of the model.
        retrieval: Sets of images with captions, each NAME=SOURCE, measured in both directions. SOURCE is a parquet
            file, a folder that `datasets` can load, a Hub id with or without `@revision`, or `module:function`.
        caption_columns: With `retrieval`, caption columns by language, such as --caption_columns.zh COLUMN. A cell is
            a caption or a list of captions. Default: the columns en and zh, where they exist.
        split: Split of the data. Default: test, or the test split of a set's own data set on the Hub.
        image_column: Name of the column of images. Default: the first usual name that exists; with `retrieval`, image.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise such data are refused.
        label_column: Name of the column of labels. Default: the first usual name whose labels are class names.
        trust_remote_code: Whether to run code that comes with a model. A model on the Hub must then be given as
            ID@COMMIT.
        overwrite: Replace files in `output_dir` that an evaluation did not write.
    """

    model: Annotated[list[str], Field(min_length=1)]
    output_dir: str
    protocol: list[Literal["elevater-en", "elevater-zh"]] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    class_names: str | None = None
    language: list[str] = field(default_factory=list)
    templates: str = "auto"
    text_model: str | None = None
    widths: list[EmbeddingWidth] = field(default_factory=list)
    retrieval: list[str] = field(default_factory=list)
    caption_columns: dict[str, str] | None = None
    split: str | None = None
    image_column: str | None = None
    allow_paths: bool = False
    label_column: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False

    def __post_init__(self):
        if (self.protocol and self.class_names) or not (
            self.protocol or self.class_names or (self.retrieval and not self.data)
        ):
            raise ValueError(
                f"protocol: give either --protocol ({', '.join(PROTOCOLS)}), or --class_names for your own sets, or "
                "--retrieval alone."
            )
        if self.class_names and (self.sets or not self.data):
            raise ValueError(
                "data: with --class_names, the sets are those given by --data NAME=SOURCE."
            )
        if self.protocol and self.language:
            raise ValueError(
                f"language: a protocol has its own language; {self.language} applies to --class_names. Choose one of "
                f"the protocols {', '.join(PROTOCOLS)}."
            )
