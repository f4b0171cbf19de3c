"""Options of the curation. Importing them loads neither torch nor datasets, so that `--help` is fast."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

PROGRAM = "python -m training.prepare.curate"


@dataclass(frozen=True, kw_only=True)
class CurateOptions:
    """What to curate, and the thresholds.

    A threshold of null switches its filter off. Captions are also checked for their length and script, web addresses,
    file names, symbols, digits and repetitions.

    Args:
        data: Source of the rows: Hub id, folder, parquet file or glob, or `module:function`, as `data.train` in a
            recipe.
        output_dir: Folder for the curated set, the report, and the state that an interrupted run resumes from.
        subset: Configuration of a Hub data set that has several.
        image_column: Column of the images.
        allow_urls: Whether images that the data name by URL are fetched. Otherwise they are dropped.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise they are dropped.
        caption_columns: Column of the captions of each language; a cell is a string or a list of strings.
        exclude: Sources whose images must not be in the curated set, such as evaluation sets; the image column has the
            same name.
        min_edge: Smallest length of the shorter side of an image, in pixels.
        max_aspect_ratio: Largest ratio of the longer to the shorter side of an image.
        max_image_distance: Largest number of differing hash bits, 0..15 of 64, between near-duplicate images, and
            between an image and an excluded one.
        max_other_language: Largest probability (0..1) that py3langid may assign to a different language; null does not
            identify the language. It is unreliable on captions of a few words; 0.9 is a good start.
        max_caption_images: Largest number of different images of a caption; a caption with more is boilerplate.
        max_caption_similarity: Jaccard similarity (0.3..1) of character n-grams at and above which captions of one
            language are near-duplicates; the first one is kept.
        teacher: Hub id or folder of the model that scores image-caption similarity; null switches the scores off.
        teacher_dtype: Data type of the teacher's weights and activations.
        batch_size: Images or captions per forward pass of the teacher.
        min_similarity: Smallest cosine of image and caption, by language.
        drop_share: Share (0..1) of the captions with the lowest cosines to drop, by language; an alternative to
            `min_similarity`.
        max_language_ratio: Largest ratio of the number of captions of any language to the smallest language's.
        seed: Key of the hash that selects which captions of a larger language are kept.
        rows_per_shard: Number of source rows that are processed, stored and written at a time.
        workers: Number of threads that decode images.
    """

    data: str
    output_dir: str
    subset: str | None = None
    image_column: str = "image"
    allow_urls: bool = False
    allow_paths: bool = False
    caption_columns: dict[str, str] = field(default_factory=lambda: {"en": "en", "zh": "zh"})
    exclude: list[str] = field(default_factory=list)
    min_edge: int | None = 64
    max_aspect_ratio: float | None = 3.0
    max_image_distance: int = 4
    max_other_language: float | None = None
    max_caption_images: int | None = 10
    max_caption_similarity: float | None = 0.9
    teacher: str | None = None
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = 64
    min_similarity: dict[str, float] = field(default_factory=dict)
    drop_share: dict[str, float] = field(default_factory=dict)
    max_language_ratio: float | None = None
    seed: int = 0
    rows_per_shard: int = 4096
    workers: int = 1

    def __post_init__(self):
        limits: dict[str, tuple[float, float | None]] = {
            "max_other_language": (0, 1), "max_image_distance": (0, 15), "max_caption_similarity": (0.3, 1),
            "min_edge": (0, None)}  # fmt: skip
        at_least_one = ("batch_size", "max_aspect_ratio", "max_caption_images", "max_language_ratio", "rows_per_shard")
        for name, (least, most) in (limits | dict.fromkeys((*at_least_one, "workers"), (1, None))).items():
            value = getattr(self, name)
            if value is not None and not (least <= value and (most is None or value <= most)):
                expected = f"at least {least}" if most is None else f"in {least}..{most}"
                raise ValueError(f"{name}: {value} is not {expected}. Set a value in this range.")
        if not self.caption_columns:
            raise ValueError("caption_columns: empty. Name a column for at least one language, such as {en: caption}.")
        for name in ("min_similarity", "drop_share"):
            if unknown := sorted(set(getattr(self, name)) - set(self.caption_columns)):
                raise ValueError(
                    f"{name}: {unknown[0]!r} is not a language of caption_columns. Use one of "
                    f"{', '.join(self.caption_columns)}."
                )
            if getattr(self, name) and self.teacher is None:
                raise ValueError(f"{name}: no teacher is set to score similarity. Name one with --teacher.")
        if in_both := sorted(set(self.min_similarity) & set(self.drop_share)):
            raise ValueError(
                f"drop_share: {in_both[0]!r} is also in min_similarity. Set only one of the two for a language."
            )
        for language, share in self.drop_share.items():
            if not 0 <= share < 1:
                raise ValueError(f"drop_share: {share} for {language!r} is not in 0..1. Set a share such as 0.3.")

    def key(self) -> dict[str, Any]:
        """Options that the result depends on. A resumed run must have equal values for all of them."""
        free = ("output_dir", "workers")
        return {option.name: getattr(self, option.name) for option in fields(self) if option.name not in free}
