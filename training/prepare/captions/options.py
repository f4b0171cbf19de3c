"""Options of the captions."""

from dataclasses import dataclass

PROGRAM = "python -m training.prepare.captions"


@dataclass(frozen=True, kw_only=True)
class CaptionsOptions:
    """What to caption, and how.

    Args:
        model: Hub id or folder of a captioner that takes an image alone, such as BLIP or GIT.
        data: Source of the images: Hub id, folder, parquet file or glob, or `module:function`, as `data.train` in a
            recipe.
        output_dir: Folder for the captioned rows, the counts, and the state that an interrupted run resumes from.
        image_column: Column of the images.
        column: Column for the captions, a list of strings. Captions that the source has in it are kept in front.
        language: Language of the captioner (ISO 639-1 code). Captions without a letter of its script are dropped.
        num_captions: Captions per image. One is the most likely text; several are sampled.
        max_new_tokens: Longest caption in tokens of the captioner.
        teacher: Hub id or folder of a model that compares images with captions. None filters nothing.
        min_similarity: Smallest cosine similarity of an image and its caption under the teacher, -1..1.
        batch_size: Images or captions per forward pass.
        rows_per_shard: Rows of a written file. A resumed run continues at the first missing file.
        dtype: Data type of the weights, such as `float32`.
        seed: Seed of sampled captions.
    """

    model: str
    data: str
    output_dir: str
    image_column: str = "image"
    column: str = "generated"
    language: str = "en"
    num_captions: int = 1
    max_new_tokens: int = 30
    teacher: str | None = None
    min_similarity: float | None = None
    batch_size: int = 16
    rows_per_shard: int = 1000
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self):
        for name in ("num_captions", "max_new_tokens", "batch_size", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1. Set a number such as 1.")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise ValueError(f"min_similarity: {self.min_similarity} is not in -1..1. Set a cosine such as 0.2.")
        if (self.teacher is None) != (self.min_similarity is None):
            raise ValueError(
                f"min_similarity: is {self.min_similarity} with the teacher {self.teacher!r}. Set both --teacher and "
                "--min_similarity, or none of them."
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype: {self.dtype!r} is none of float32, bfloat16, float16. Choose one of them.")
        if self.column == self.image_column:
            raise ValueError(f"column: {self.column!r} is the column of the images. Name another column.")
