"""Options of `training/finetune.py`. Nothing here imports torch, so that `--help` answers at once."""

from dataclasses import dataclass

MAX_GENERAL_LOSS = 0.02  # of every accuracy beyond the user's own data, as a fraction
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
        general_data: Other images, on which the model should keep its accuracy, in any form of `data`. They replace
            the crops of free photographs whose embeddings a loss keeps. With captions, accuracy is measured on 15 %.
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
            squared distance to its feature maps, for the images of `general_data`, or else for mixed crops of a few
            photographs that pip packages bring.
        seed: Seed of all randomness.
        resume: Whether to continue an interrupted run from its last checkpoint. Ten are written in all.
        overwrite: Whether to replace a model and other files in `output_dir`.
    """

    model: str
    data: str
    output_dir: str
    encoding: str = "utf-8"
    general_data: str | None = None
    image_column: str = "image"
    allow_paths: bool = False
    caption_columns: dict[str, str] | None = None
    split: str = "train"
    subset: str | None = None
    validation_share: float | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float = 6e-4
    anchor_weight: float = 0.3
    general_weight: float = 6.0
    photo_weight: float = 5.0
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self):
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise ValueError(
                f"validation_share: must be above 0 and below 1, got {self.validation_share}. Set one such as 0.15."
            )
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(
                f"max_steps: must be at least 1, got {self.max_steps}. Leave it out for the default."
            )
        if self.batch_size is not None and self.batch_size < 2:
            raise ValueError(
                f"batch_size: is {self.batch_size}, but the pairs of a batch are compared with each other. Set at "
                "least 2."
            )
        if self.caption_columns is not None and not self.caption_columns:
            raise ValueError(
                "caption_columns: is empty. Name a column, such as --caption_columns.zh TITLE."
            )
