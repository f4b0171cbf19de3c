"""Options of `training/finetune.py`. Nothing here imports torch, so that `--help` answers at once."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from training.utils.ranges import Count, Positive, Seed, Weight

MAX_GENERAL_LOSS = 0.02  # largest loss of any accuracy beyond the user's data, as a fraction
TABLE_FILE = "table.md"


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """What to fine-tune, and on which images. All options without a value are chosen from the data.

    Args:
        model: Folder or Hub id of a finished DC-CLIP model.
        data: Images with captions or class names. One of: a CSV, TSV or JSON Lines file with paths and captions; a
            folder with such a file, with one folder per class, or with images whose captions are text files; parquet
            files or tar shards, as a path or a pattern; a Hub id; `module:function`. Paths in a file are relative to
            the folder of the file.
        encoding: Encoding of the CSV, TSV, JSON Lines or text files, such as gb18030 or utf-16.
        output_dir: Folder for the finished model (a complete Hub folder), its results, and the prepared data.
        image_column: Column of the images or their paths.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise they are left out.
        caption_columns: Caption columns by language, such as --caption_columns.zh TITLE. A cell is a caption or a list
            of captions. Default: the columns `en` and `zh`, or else the text files or class folders of the images.
        split: Split to train on, if the data have several.
        subset: Configuration of a Hub data set that has several.
        validation_share: Share of the images for the validation split, above 0 and below 1. Default: 0.15, at most
            1,000 images.
        max_steps: Number of optimizer steps. Default: chosen from the number of images.
        batch_size: Number of images in a batch of one process, at least 2. Default: chosen from the number of images
            and of processes.
        learning_rate: Peak learning rate.
        anchor_weight: Weight of the cosine distance to the embeddings of the starting model, for your images and
            captions. With 0 the embeddings cannot be compared with the starting model's.
        general_weight: Weight of the cosine distance to the embeddings of the starting model, for class names
            and sentences that come with this project.
        photo_weight: Weight of the cosine distance to the embeddings of the starting model, and of the relative
            squared distance to its feature maps, for mixed crops of a few photographs that pip packages bring.
        seed: Seed of all randomness.
        resume: Whether to continue an interrupted run from its last checkpoint. Ten are written in all.
        overwrite: Whether to replace a model and other files in `output_dir`.
    """

    model: str
    data: str
    output_dir: str
    encoding: str = "utf-8"
    image_column: str = "image"
    allow_paths: bool = False
    caption_columns: Annotated[dict[str, str], Field(min_length=1)] | None = None
    split: str = "train"
    subset: str | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_steps: Count | None = None
    batch_size: Annotated[Count, Field(ge=2)] | None = None
    learning_rate: Positive = 6e-4
    anchor_weight: Weight = 0.3
    general_weight: Weight = 6.0
    photo_weight: Weight = 5.0
    seed: Seed = 0
    resume: bool = False
    overwrite: bool = False
