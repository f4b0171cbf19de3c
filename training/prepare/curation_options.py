"""Options of the curation. Importing them loads neither torch nor datasets, so that `--help` is fast."""

from dataclasses import dataclass, field

PROGRAM = "python -m training.prepare.curate"


@dataclass(frozen=True, kw_only=True)
class CurateOptions:
    """What to curate, and the thresholds.

    A threshold of null switches its filter off. Captions are also checked for their length and script, web addresses,
    file names, symbols, digits and repetitions; of equal captions of different images the first one is kept.

    Args:
        data: Source of the rows: Hub id, folder, parquet file or glob, or `module:function`, as `data.train` in a
            recipe.
        output_dir: Folder for the curated set and the report.
        subset: Configuration of a Hub data set that has several.
        image_column: Column of the images.
        allow_paths: Whether image files outside the folder of the data, which the data name by path, are opened.
            Otherwise they are dropped.
        caption_columns: Column of the captions of each language; a cell is a string or a list of strings.
        exclude: Sources whose images must not be in the curated set, such as evaluation sets; the image column has the
            same name.
        min_edge: Smallest length of the shorter side of an image, in pixels.
        max_aspect_ratio: Largest ratio of the longer to the shorter side of an image.
        max_image_distance: Largest number of differing hash bits, 0..15 of 64, between near-duplicate images, and
            between an image and an excluded one.
        max_caption_images: Largest number of different images of a caption; a caption with more is boilerplate.
        teacher: Hub id or folder of the model that scores image-caption similarity for `drop_share`.
        drop_share: Share (0..1) of the captions with the lowest cosine of image and caption to drop, by language.
        batch_size: Images or captions per forward pass of the teacher.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    data: str
    output_dir: str
    subset: str | None = None
    image_column: str = "image"
    allow_paths: bool = False
    caption_columns: dict[str, str] = field(default_factory=lambda: {"en": "en", "zh": "zh"})
    exclude: list[str] = field(default_factory=list)
    min_edge: int | None = 64
    max_aspect_ratio: float | None = 3.0
    max_image_distance: int = 4
    max_caption_images: int | None = 10
    teacher: str | None = None
    drop_share: dict[str, float] = field(default_factory=dict)
    batch_size: int = 64
    overwrite: bool = False

    def __post_init__(self):
        limits = {"min_edge": (0, None), "max_aspect_ratio": (1, None), "max_image_distance": (0, 15),
                  "max_caption_images": (1, None), "batch_size": (1, None)}  # fmt: skip
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not (least <= value and (most is None or value <= most)):
                expected = f"at least {least}" if most is None else f"in {least}..{most}"
                raise ValueError(f"{name}: {value} is not {expected}. Set a value in this range.")
        if not self.caption_columns:
            raise ValueError(
                "caption_columns: empty. Name a column for at least one language, such as {en: caption}."
            )
        if (self.teacher is None) == bool(self.drop_share):
            raise ValueError(
                "drop_share: needs a teacher, and a teacher needs drop_share. Give both or none."
            )
        for language, share in self.drop_share.items():
            if language not in self.caption_columns or not 0 <= share < 1:
                raise ValueError(
                    f"drop_share: {share} for {language!r}, expected a share in 0..1 for one of "
                    f"{', '.join(self.caption_columns)}. Set one such as 0.3."
                )
