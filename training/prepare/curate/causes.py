"""Reasons for dropping a row or a caption, in the order of the checks: the first one that applies is recorded.

Each cause maps to the options that set its threshold. A cause without options cannot be switched off.
"""

from training.data.captions import NO_LETTERS, NOT_UNICODE
from training.data.images import PATH_REFUSED, URL_REFUSED

KEPT = "kept"

IMAGE_CAUSES: dict[str, tuple[str, ...]] = {
    "no image": (),
    URL_REFUSED: ("allow_urls",),
    PATH_REFUSED: ("allow_paths",),
    "decompression bomb": ("max_pixels",),
    "image does not decode": (),
    "image too small": ("min_edge",),
    "extreme aspect ratio": ("max_aspect_ratio",),
    "blank image": ("min_contrast",),
}
CAPTION_CAUSES: dict[str, tuple[str, ...]] = {
    "no caption": (),
    "empty caption": (),
    "caption is not a string": (),
    NO_LETTERS: (),
    NOT_UNICODE: (),
    "too few characters": ("min_characters",),
    "too many characters": ("max_characters",),
    "e-mail address": ("keep_email_addresses",),
    "file name": ("keep_file_names",),
    "web address": ("keep_urls",),
    "symbols": ("max_symbol_share",),
    "digits": ("max_digit_share",),
    "repeated characters": ("max_repeated_characters",),
    "kana or Hangul": ("max_kana_share",),
    "wrong script": ("scripts", "min_script_share"),
    "wrong language": ("max_other_language",),
    "too few words": ("min_words",),
    "too many words": ("max_words",),
    "repeated words": ("max_repeated_words",),
}
GLOBAL_CAUSES: dict[str, tuple[str, ...]] = {
    "in an excluded set": ("exclude", "max_exclude_distance"),
    "low similarity": ("min_similarity", "drop_share"),
    "boilerplate": ("max_caption_images",),
    "near-duplicate image": ("max_image_distance", "max_colour_distance"),
    "near-duplicate caption": ("max_caption_similarity",),
    "above the language ratio": ("max_language_ratio",),
    "no caption left": (),
}
CAUSES = {KEPT: ()} | IMAGE_CAUSES | CAPTION_CAUSES | GLOBAL_CAUSES
CODES = {cause: code for code, cause in enumerate(CAUSES)}  # uint8 in the state files
