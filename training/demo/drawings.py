"""Write drawings of things with their English and Chinese names, to train and to validate the photo student on.

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from training.corpus.emoji import SKIN_TONES, Concept, read_concepts, render, render_svg
from training.utils.cli import command_name, parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.demo.drawings"
WRITTEN = ("drawings.parquet", "drawings_validation.parquet", "class_names.json")
PROMPTS = {
    "en": ("{}", "a drawing of a {}.", "a cartoon {}", "an illustration of a {}.", "a {} on a white background"),
    "zh": ("{}", "{}的图画", "卡通{}", "{}的插图", "白色背景上的{}"),
}
VALIDATION_SHARE = 0.2
VALIDATION_STYLE = "openmoji"
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

    def drawings(self, concept: Concept) -> Iterator[tuple[str, bytes]]:
        """Draw a concept in each style that has it.

        Yields:
            Name of the style, and a PNG file on white.
        """
        for style, path in concept.svg_files.items():
            yield style, render(path, self.size)
        points = [f"{ord(character):04x}" for character in concept.emoji]
        for name in ("-".join(points), "-".join(point for point in points if point != "fe0f")):
            if (path := self.fluent / f"{name}.webp").is_file():
                yield "fluent", self._on_white(path)
                break
        if svg := self.noto.get(_without_variation(concept.emoji)):
            yield "noto", render_svg(svg, self.size)

    def _on_white(self, path: Path) -> bytes:
        with Image.open(path) as file:
            drawing = file.convert("RGBA").resize((self.size, self.size), Image.Resampling.LANCZOS)
        page = Image.new("RGBA", drawing.size, "white")
        page.alpha_composite(drawing)
        buffer = io.BytesIO()
        page.convert("RGB").save(buffer, "PNG")
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
    from datasets import Dataset
    from tqdm.auto import tqdm

    from training.utils.files import atomic_write
    from training.utils.output import claim_folder

    folder = Path(options.output_dir)
    inputs = {"fluent": Path(options.fluent), "noto": Path(options.noto)}
    with claim_folder(folder, WRITTEN, command=command_name(PROGRAM), inputs=inputs, overwrite=options.overwrite):
        artwork = Artwork.read(options)
        concepts = [concept for concept in read_concepts() if is_thing(concept)]
        tables: dict[str, list[dict[str, Any]]] = {"drawings.parquet": [], "drawings_validation.parquet": []}
        for concept in tqdm(concepts, desc="draw", unit="thing"):
            unseen = is_for_validation(concept)
            for style, png in artwork.drawings(concept):
                if unseen:
                    row: dict[str, Any] = {"en": concept.en, "zh": concept.zh}
                    tables["drawings_validation.parquet"].append({"image": _cell(png), **row, "style": style})
                elif style != VALIDATION_STYLE:
                    row = {"en": _prompted(concept.en, "en"), "zh": _prompted(concept.zh, "zh")}
                    tables["drawings.parquet"].append({"image": _cell(png), **row, "style": style})
        for name, rows in tables.items():
            with atomic_write(folder / name) as scratch:
                Dataset.from_list(rows, features=_features(is_list=name == "drawings.parquet")).to_parquet(scratch)
        names = [{"en": concept.en, "zh": concept.zh} for concept in concepts if is_for_validation(concept)]
        with atomic_write(folder / "class_names.json") as scratch:
            scratch.write_text(json.dumps(names, ensure_ascii=False, indent=0), encoding="utf-8")


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


def _cell(png: bytes) -> dict[str, Any]:
    return {"bytes": png, "path": None}


def _prompted(name: str, language: str) -> list[str]:
    return [prompt.format(name) for prompt in PROMPTS[language]]


def _features(is_list: bool) -> Any:
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    text = List(Value("string")) if is_list else Value("string")
    return Features({"image": ImageFeature(), "en": text, "zh": text, "style": Value("string")})


def main(argv: list[str] | None = None):
    """Parse the options and write the files."""
    options = parse_options(DrawingOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors(command_name(PROGRAM), extra="demo"):
        hide_library_bars()
        run(options)


if __name__ == "__main__":
    main()
