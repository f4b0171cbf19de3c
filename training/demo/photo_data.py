"""Write the training data of the photo student that are not captioned photographs: class names as captions, sentences.

    python -m training.demo.photo_data --data_dir DATA --output_dir runs/photographs/texts

DATA has these files: `photos_places_train.parquet` (MiniPlaces; `image`, `en`), `photos_tiny_imagenet_train.parquet`
(`image`, `en`, `zh`), `sentences_tatoeba_en_zh.parquet` (`en`, `zh`), `imagenet_class_names_en_zh.json`
({WordNet id: {en, zh}}) and `wordnet_zh_cow.tab` (Chinese Open WordNet). English words come from the package
`wordfreq` (data under CC-BY-SA-4.0).

    places.parquet, tiny_imagenet.parquet   images, and their class names as captions in both languages
    names.parquet                           class names of ImageNet and MiniPlaces as captions, without images
    tatoeba.parquet                         sentences in both languages
    words.parquet, nouns.parquet            frequent English words, and Chinese nouns, as captions in one language
    objects_en.parquet, objects_zh.parquet  names of the synsets of ImageNet-21k, as captions in one language
    objects_validation.parquet              names of other synsets in both languages, in none of the four files above

A caption cell is a list: the name or the word itself, then the same in prompts.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.demo.object_names import hold_out, lemmas, read_nouns, read_object_names
from training.utils.cli import command_name, parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.demo.photo_data"
PROMPTS = {
    "en": ("{}", "a photo of a {}.", "a picture of {}.", "a blurry photo of a {}.", "a close-up of the {}.",
           "a painting of a {}."),
    "zh": ("{}", "一张{}的照片", "一张{}的图片", "一张模糊的{}的照片", "{}的特写", "一幅{}的画"),
}  # fmt: skip
# beside those above, for words that have no images
MORE_PROMPTS = {
    "en": ("two {}", "a small {}", "an old {}", "a toy {}", "a cartoon {}", "a drawing of a {}.",
           "a sketch of the {}.", "a {} on a white background", "a black and white photo of a {}.", "a {} outdoors",
           "a person with a {}", "part of a {}", "inside a {}", "a {} for sale"),
    "zh": ("两个{}", "一个小{}", "旧{}", "玩具{}", "卡通{}", "{}的图画", "{}的素描", "白色背景上的{}",
           "{}的黑白照片", "户外的{}", "一个人和{}", "{}的一部分", "{}的内部", "出售的{}"),
}  # fmt: skip
PROMPTS_PER_WORD = 2
MIN_LETTERS = 3
# number of the first prompts that fit sharp photographs, and small ones; neither are close-ups or paintings
SHARP_PROMPTS, SMALL_PROMPTS = 3, 4
WRITTEN = (
    "places.parquet",
    "tiny_imagenet.parquet",
    "names.parquet",
    "tatoeba.parquet",
    "words.parquet",
    "nouns.parquet",
    "objects_en.parquet",
    "objects_zh.parquet",
    "objects_validation.parquet",
)
Name = Mapping[str, str]  # language -> class name


@dataclass(frozen=True, kw_only=True)
class PhotoDataOptions:
    """Options of the command.

    Args:
        data_dir: Folder with the source files.
        output_dir: Folder for the written files.
        num_sentences: Number of pairs of sentences to draw.
        num_words: Number of English words, the most frequent first.
        num_nouns: Number of Chinese nouns to draw.
        num_held_out: Number of synsets whose names are kept for validation.
        seed: Seed of the draws.
        overwrite: Whether to replace existing files in `output_dir`.
    """

    data_dir: str
    output_dir: str
    num_sentences: int = 29_000
    num_words: int = 40_000
    num_nouns: int = 60_000
    num_held_out: int = 1_000
    seed: int = 0
    overwrite: bool = False


def run(options: PhotoDataOptions):
    """Write the files.

    Args:
        options: Where to read and write, and how much.

    Raises:
        ValueError: A source is missing or damaged, or a file would be replaced.
    """
    from datasets import Dataset

    from training.data import load_source, require_allowed, require_columns, rules_for
    from training.demo.photo_teacher.photographs import scene_names
    from training.utils.files import atomic_write
    from training.utils.output import claim_folder

    sources, folder = Path(options.data_dir), Path(options.output_dir)
    scenes = scene_names()

    def load(name: str, columns: Sequence[str]) -> Dataset:
        rows = require_columns(load_source(str(sources / name)), columns, name, "Give another file.", "data_dir")
        if "image" in columns:  # writing a file reads the images that rows name by path
            require_allowed(rows, "image", rules_for(str(sources / name)), name, "data_dir")
        return rows.select_columns(list(columns))

    with claim_folder(
        folder, WRITTEN, command=command_name(PROGRAM), inputs={"data_dir": sources}, overwrite=options.overwrite
    ):
        places = load("photos_places_train.parquet", ["image", "en"])
        tiny = load("photos_tiny_imagenet_train.parquet", ["image", "en", "zh"])
        if missing := sorted(set(places["en"]) - set(scenes)):
            raise ValueError(f"data_dir: {missing[0]!r} in photos_places_train.parquet is no scene of MiniPlaces.")
        named_places = [{"en": name, "zh": scenes[name]} for name in places["en"]]
        named_tiny = [{"en": en, "zh": zh} for en, zh in zip(tiny["en"], tiny["zh"], strict=True)]
        names = _read_names(sources / "imagenet_class_names_en_zh.json")
        names += [{"en": english, "zh": chinese} for english, chinese in scenes.items()]
        names += list({tuple(name.values()): name for name in named_tiny}.values())
        sentences = load("sentences_tatoeba_en_zh.parquet", ["en", "zh"])
        chinese = read_nouns(sources / "wordnet_zh_cow.tab")
        objects, held_out = hold_out(read_object_names(chinese), options.num_held_out, options.seed)
        unseen = lemmas(held_out)
        nouns = sorted({lemma for lemmas_of in chinese.values() for lemma in lemmas_of} - unseen)
        nouns = [nouns[row] for row in draw(len(nouns), options.num_nouns, options.seed)]
        words = [word for word in english_words(options.num_words) if word not in unseen]
        tables = {
            "places.parquet": _with_captions(places, captions(named_places, SHARP_PROMPTS)),
            "tiny_imagenet.parquet": _with_captions(tiny, captions(named_tiny, SMALL_PROMPTS)),
            "names.parquet": Dataset.from_dict(captions(names, len(PROMPTS["en"]))),
            "tatoeba.parquet": sentences.select(draw(len(sentences), options.num_sentences, options.seed)),
            "words.parquet": _prompted(words, "en", options.seed),
            "nouns.parquet": _prompted(nouns, "zh", options.seed),
            "objects_en.parquet": _prompted([lemma for name in objects for lemma in name.en], "en", options.seed),
            "objects_zh.parquet": _prompted([lemma for name in objects for lemma in name.zh], "zh", options.seed),
            "objects_validation.parquet": Dataset.from_dict(
                {"en": [name.en[0] for name in held_out], "zh": [name.zh[0] for name in held_out]}
            ),
        }
        for name, rows in tables.items():
            with atomic_write(folder / name) as scratch:
                rows.to_parquet(scratch)


def captions(names: Iterable[Name], num_prompts: int) -> dict[str, list[list[str]]]:
    """Make captions from class names.

    Args:
        names: Class name of each row by language.
        num_prompts: Number of prompts, from the first.

    Returns:
        Captions of each row by language.
    """
    names = list(names)
    return {
        language: [[prompt.format(name[language]) for prompt in prompts[:num_prompts]] for name in names]
        for language, prompts in PROMPTS.items()
    }


def in_prompts(words: Sequence[str], language: str, seed: int) -> list[list[str]]:
    """Make captions from words: the word itself, and the word in prompts that are drawn at random.

    Args:
        words: Words in one language.
        language: Language of the words, `en` or `zh`.
        seed: Seed of the draws.

    Returns:
        Captions of each word.
    """
    prompts = [*PROMPTS[language][1:], *MORE_PROMPTS[language]]
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(np.arange(len(prompts)), (len(words), 1)), axis=1)[:, :PROMPTS_PER_WORD]
    return [[word, *(prompts[index].format(word) for index in row)] for word, row in zip(words, drawn, strict=True)]


def english_words(count: int) -> list[str]:
    """Return the most frequent English words, the most frequent first.

    Args:
        count: Number of words that are looked at. Those with other characters than a to z, or with fewer than 3
            letters, are left out.

    Raises:
        ValueError: The package `wordfreq` is not installed.
    """
    try:
        from wordfreq import top_n_list
    except ImportError as error:
        raise ValueError('wordfreq: the package is not installed. Run `pip install -e ".[photos]"`.') from error
    letters = re.compile(f"[a-z]{{{MIN_LETTERS},}}")
    return [word for word in top_n_list("en", count, wordlist="large") if letters.fullmatch(word)]


def draw(total: int, count: int, seed: int) -> list[int]:
    """Draw rows without replacement.

    Args:
        total: Number of rows to draw from.
        count: Number of rows to draw; all, if there are fewer.
        seed: Seed of the draw.

    Returns:
        Row numbers in ascending order.
    """
    return np.sort(np.random.default_rng(seed).permutation(total)[:count]).tolist()


def _read_names(path: Path) -> list[Name]:
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return [{language: entry[language] for language in PROMPTS} for entry in entries.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"data_dir: cannot read {path.name} ({type(error).__name__}: {error}). It maps an id to {{en, zh}}."
        ) from error


def _prompted(words: Sequence[str], language: str, seed: int) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({language: in_prompts(words, language, seed)})


def _with_captions(rows: Any, cells: dict[str, list[list[str]]]) -> Any:
    rows = rows.select_columns(["image"])
    for language, column in cells.items():
        rows = rows.add_column(language, column)
    return rows


def main(argv: list[str] | None = None):
    """Parse the options and write the files."""
    options = parse_options(PhotoDataOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="photos"):
        hide_library_bars()
        run(options)


if __name__ == "__main__":
    main()
