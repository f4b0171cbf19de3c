"""Options of the curation: data, columns and the threshold of each filter."""

from dataclasses import dataclass, field, fields
from typing import Literal

from PIL import Image as PILImage

PROGRAM = "python -m training.prepare.curate"
SHARES = (
    "max_caption_similarity",
    "max_digit_share",
    "max_kana_share",
    "max_other_language",
    "max_repeated_words",
    "max_symbol_share",
    "min_script_share",
)
AT_LEAST_ONE = ("batch_size", "max_aspect_ratio", "max_caption_images", "max_language_ratio", "max_pixels",
                "max_repeated_characters", "rows_per_shard", "workers")  # fmt: skip
MAX_DISTANCE = 15  # with more bands, half of all hashes share a band with most others
MIN_CAPTION_SIMILARITY = 0.3


@dataclass(frozen=True, kw_only=True)
class CurateOptions:
    """What to curate, and the threshold of each filter.

    A threshold of null switches its filter off. A language that is missing from a mapping is not filtered.

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
        exclude: Sources whose images must not be in the curated set, such as evaluation sets.
        exclude_column: Column of the images in the excluded sources; default: `image_column`.
        max_exclude_distance: Largest number of differing hash bits, 0..15 of 64, between an image and an
            excluded image that it counts as a copy of.
        min_edge: Smallest length of the shorter side of an image, in pixels.
        max_aspect_ratio: Largest ratio of the longer to the shorter side of an image.
        max_pixels: Largest number of pixels of an image; checked before it is decoded.
        min_contrast: Smallest standard deviation of the brightness of an image, 0..127.
        max_image_distance: Largest number of differing hash bits, 0..15 of 64, between near-duplicate images.
        max_colour_distance: Largest mean difference, 0..255, between the 4 x 4 thumbnails of near-duplicate images.
        scripts: Unicode script of each language.
        min_script_share: Smallest share (0..1) of the words of a caption in the script of its language; an ideograph
            counts as a word.
        max_kana_share: Largest share (0..1) of words in kana or Hangul in a caption of a language written in Han.
        max_other_language: Largest probability (0..1) that py3langid may assign to another language; null switches
            language identification off. It is unreliable on captions of a few words; 0.9 is a good start.
        min_characters: Smallest number of characters of a caption, by language. One ideograph can be a whole caption;
            one letter cannot.
        max_characters: Largest number of characters of a caption.
        min_words: Smallest number of words of a caption, by language; an ideograph counts as a word. By default, a
            caption may be a single word, such as a product name or a class name.
        max_words: Largest number of words of a caption, by language; an ideograph counts as a word.
        keep_urls: Whether to keep captions with a web address.
        keep_email_addresses: Whether to keep captions with an e-mail address.
        keep_file_names: Whether to keep captions with a file name, such as IMG_1234.jpg.
        max_symbol_share: Largest share (0..1) of punctuation and symbols among the characters of a caption; spaces and
            one final punctuation mark do not count.
        max_digit_share: Largest share (0..1) of digits among the characters of a caption; spaces and one final
            punctuation mark do not count.
        max_repeated_characters: Longest run of one character in a caption.
        max_repeated_words: Largest share (0..1) of words that occur earlier in the same caption.
        max_caption_images: Largest number of different images of a caption; a caption with more is boilerplate.
        max_caption_similarity: Jaccard similarity (0.3..1) of character n-grams at and above which captions of one
            language are near-duplicates; the first one is kept.
        teacher: Hub id or folder of the model that scores image-caption similarity; null switches the scores off.
        teacher_dtype: Data type of the teacher's weights and activations.
        batch_size: Images or captions per forward pass of the teacher.
        min_similarity: Smallest cosine of image and caption, by language.
        drop_share: Share (0..1) of the captions with the lowest cosines to drop, by language; an alternative to
            `min_similarity`.
        max_language_ratio: Largest ratio of the number of captions of any language to that of the smallest language.
        seed: Key of the hash that selects which captions of a larger language are kept.
        samples: Number of dropped captions shown in the report, for each cause and language.
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
    exclude_column: str | None = None
    max_exclude_distance: int = 4
    min_edge: int | None = 64
    max_aspect_ratio: float | None = 3.0
    max_pixels: int = PILImage.MAX_IMAGE_PIXELS or 89_478_485
    min_contrast: float | None = 4.0
    max_image_distance: int | None = 4
    max_colour_distance: float = 4.0
    scripts: dict[str, str] = field(default_factory=lambda: {"en": "Latin", "zh": "Han"})
    min_script_share: float | None = 0.5
    max_kana_share: float | None = 0.1
    max_other_language: float | None = None
    min_characters: dict[str, int] = field(default_factory=lambda: {"en": 2, "zh": 1})
    max_characters: int | None = 1000
    min_words: dict[str, int] = field(default_factory=lambda: {"en": 1, "zh": 1})
    max_words: dict[str, int] = field(default_factory=lambda: {"en": 128, "zh": 128})
    keep_urls: bool = False
    keep_email_addresses: bool = False
    keep_file_names: bool = False
    max_symbol_share: float | None = 0.3
    max_digit_share: float | None = 0.3
    max_repeated_characters: int | None = 5
    max_repeated_words: float | None = 0.5
    max_caption_images: int | None = 10
    max_caption_similarity: float | None = 0.9
    teacher: str | None = None
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = 64
    min_similarity: dict[str, float] = field(default_factory=dict)
    drop_share: dict[str, float] = field(default_factory=dict)
    max_language_ratio: float | None = None
    seed: int = 0
    samples: int = 5
    rows_per_shard: int = 4096
    workers: int = 1

    def __post_init__(self):
        for name in SHARES:
            self._check(name, 0, 1)
        for name in AT_LEAST_ONE:
            self._check(name, 1, None)
        for name in ("max_exclude_distance", "max_image_distance"):
            self._check(name, 0, MAX_DISTANCE)
        self._check("max_caption_similarity", MIN_CAPTION_SIMILARITY, 1)
        for name in ("max_colour_distance", "max_characters", "min_contrast", "min_edge", "samples"):
            self._check(name, 0, None)
        if not self.caption_columns:
            raise ValueError("caption_columns: empty. Name a column for at least one language, such as {en: caption}.")
        self._check_languages()
        for language, share in self.drop_share.items():
            if not 0 <= share < 1:
                raise ValueError(f"drop_share: {share} for {language!r} is not in 0..1. Set a share such as 0.3.")

    def _check(self, name: str, least: float, most: float | None):
        value = getattr(self, name)
        if value is not None and not (least <= value and (most is None or value <= most)):
            expected = f"at least {least}" if most is None else f"in {least}..{most}"
            raise ValueError(f"{name}: {value} is not {expected}. Set a value in this range.")

    def _check_languages(self):
        for name in ("min_characters", "min_words", "max_words"):
            for language, number in getattr(self, name).items():
                if number < 0:
                    raise ValueError(f"{name}: {number} for {language!r} is not at least 0. Set a number such as 1.")
        for name in ("min_similarity", "drop_share"):
            by_language = getattr(self, name)
            if unknown := sorted(set(by_language) - set(self.caption_columns)):
                raise ValueError(
                    f"{name}: {unknown[0]!r} is not a language of caption_columns. Use one of "
                    f"{', '.join(self.caption_columns)}."
                )
            if by_language and self.teacher is None:
                raise ValueError(f"{name}: no teacher is set to score similarity. Name one with --teacher.")
        if in_both := sorted(set(self.min_similarity) & set(self.drop_share)):
            raise ValueError(
                f"drop_share: {in_both[0]!r} is also in min_similarity. Set only one of the two for a language."
            )

    def key(self) -> dict[str, object]:
        """Options that the result depends on. A resumed run must have equal values for all of them."""
        return {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if option.name not in ("output_dir", "workers")
        }
