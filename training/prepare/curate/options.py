"""What to curate, and where each filter draws its line."""

from dataclasses import dataclass, field, fields
from typing import Literal

from PIL import Image as PILImage

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
MAX_DISTANCE = 15  # beyond it, half of all hashes share a band with most others
MIN_CAPTION_SIMILARITY = 0.3


@dataclass(frozen=True, kw_only=True)
class CurateOptions:
    """What to curate. A threshold of null switches its filter off, and so does a language left out of a mapping.

    Args:
        data: Hub id, folder, parquet file or glob, or `module:function`, as `data.train` of a recipe.
        output_dir: the curated set, the report, and the state from which a killed run goes on.
        subset: which configuration of a Hub data set, where it has several.
        image_column: column of the images.
        caption_columns: column of the captions for each language; a cell is a string or a list of strings.
        exclude: sources whose images must not be in the set, such as evaluation sets.
        exclude_column: column of their images; default: `image_column`.
        max_exclude_distance: bits (0..15 of 64) by which an image may differ from an excluded one and still be it.
        min_edge: shortest side of an image in pixels.
        max_aspect_ratio: longer side over shorter side.
        max_pixels: width times height, read before an image is decoded.
        min_contrast: least standard deviation of an image's brightness, 0..127.
        max_image_distance: near-duplicate images differ by at most so many of 64 hash bits, 0..15.
        max_colour_distance: and by at most so much in the colours of a 4 x 4 thumbnail, mean of 0..255.
        scripts: Unicode script that each language is written in.
        min_script_share: least share (0..1) of a caption's words in that script; an ideograph is a word.
        max_kana_share: largest share (0..1) of words in kana or Hangul in a language written in Han.
        max_other_language: largest probability (0..1) that py3langid may give to another language; null does not ask
            it. It is unsure of captions of a few words, so that 0.9 is a fair start.
        min_characters: of a caption.
        max_characters: of a caption.
        min_words: words of a caption by language; an ideograph is a word.
        max_words: words of a caption by language.
        keep_urls: keep captions with a web address.
        keep_email_addresses: keep captions with an e-mail address.
        keep_file_names: keep captions with a file name, such as IMG_1234.jpg.
        max_symbol_share: share (0..1) of punctuation and symbols among the characters, spaces and one final
            mark aside.
        max_digit_share: share (0..1) of digits among them.
        max_repeated_characters: longest run of one character.
        max_repeated_words: largest share (0..1) of words that have occurred in the caption before.
        max_caption_images: a caption of more different images than this is boilerplate.
        max_caption_similarity: captions of one language are near-duplicates from this share (0.3..1) of common
            character n-grams on (Jaccard); the first stays.
        teacher: Hub id or folder of the model that scores how well images and captions fit; null does not score.
        teacher_dtype: precision of its weights and activations.
        batch_size: images or captions that it sees at once.
        min_similarity: least cosine of image and caption by language.
        drop_share: share (0..1) of the captions with the least cosine to drop, by language, in place of a threshold.
        max_language_ratio: largest number of captions of any language over that of the smallest.
        seed: key of the choice which captions of a larger language stay.
        samples: dropped captions to show in the report, for each cause and language.
        rows_per_shard: rows of the source that are worked on, stored and written at a time.
        workers: threads that decode images.
    """

    data: str
    output_dir: str
    subset: str | None = None
    image_column: str = "image"
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
    min_characters: int | None = 2
    max_characters: int | None = 1000
    min_words: dict[str, int] = field(default_factory=lambda: {"en": 2, "zh": 3})
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
        for name in ("max_colour_distance", "min_characters", "max_characters", "min_contrast", "min_edge", "samples"):
            self._check(name, 0, None)
        if not self.caption_columns:
            raise ValueError("caption_columns: empty. Name a column for at least one language, such as {en: caption}.")
        self._check_languages()
        for language, share in self.drop_share.items():
            if not 0 <= share < 1:
                raise ValueError(f"drop_share: {share} for {language!r} is not in 0..1. Give such as 0.3.")

    def _check(self, name: str, least: float, most: float | None):
        value = getattr(self, name)
        if value is not None and not (least <= value and (most is None or value <= most)):
            wanted = f"at least {least}" if most is None else f"in {least}..{most}"
            raise ValueError(f"{name}: {value} is not {wanted}. Give another value.")

    def _check_languages(self):
        for name in ("min_similarity", "drop_share"):
            given = getattr(self, name)
            if unknown := sorted(set(given) - set(self.caption_columns)):
                raise ValueError(
                    f"{name}: {unknown[0]!r} is no language of caption_columns ({list(self.caption_columns)}). "
                    "Name one of these."
                )
            if given and self.teacher is None:
                raise ValueError(f"{name}: there is no teacher to score similarity. Name one with --teacher.")
        if twice := sorted(set(self.min_similarity) & set(self.drop_share)):
            raise ValueError(
                f"drop_share: {twice[0]!r} has a threshold in min_similarity too. Give one of the two for a language."
            )

    def key(self) -> dict[str, object]:
        """The options that the result depends on; only these must be the same when a killed run goes on."""
        return {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if option.name not in ("output_dir", "workers")
        }
