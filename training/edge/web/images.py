"""Write the images that the page searches: small image files, and their embeddings in one safetensors file."""

import json
from pathlib import Path

from datasets import Dataset, Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from modeling_dcclip.image_dcclip import ImageError
from training.data import load_source, open_image, require_allowed, require_columns, rules_for
from training.evaluation.zero_shot_model import ZeroShotModel
from training.text.writing_systems import LANGUAGES

INDEX_FILE = "index.safetensors"
MAX_SIZE = 192  # longer edge of the written images, in pixels


def write_images(
    model: ZeroShotModel, source: str, folder: Path, allow_urls: bool = False, allow_paths: bool = False
) -> list[tuple[str, str]]:
    """Write the images as `00000.webp` and so on, and their embeddings to `index.safetensors`.

    `embeddings` is (N, D) float16, L2-normalised. The metadata has the titles by language and the credit line.

    Args:
        model: Model that encodes the images.
        source: Images, as `load_source` accepts them: a column `image`, and columns `en` and `zh` for the titles.
        folder: Folder to write, created if it does not exist.
        allow_urls: Whether rows may name images by URL.
        allow_paths: Whether rows may name image files outside the source.

    Returns:
        Name and cause of each image that does not decode; such images are left out.

    Raises:
        ValueError: The source does not exist, or none of its images decodes.
    """
    rows = require_columns(load_source(source), ["image"], source, "Rename yours.", "images")
    rows = require_allowed(rows, "image", rules_for(source, allow_urls, allow_paths), source, "images")
    folder.mkdir(parents=True)
    kept: list[int] = []
    names: list[str] = []
    failures: list[tuple[str, str]] = []
    undecoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    for number, row in enumerate(tqdm(undecoded, desc="write images", unit="image", leave=False)):
        cell = row["image"] or {}
        path = cell.get("path")
        try:
            image = open_image(cell)
        except (ImageError, OSError, KeyError) as error:
            failures.append((path or f"row {number + 1}", _cause(error)))
            continue
        image.thumbnail((MAX_SIZE, MAX_SIZE))
        image.save(folder / f"{len(kept):05}.webp", quality=85)
        kept.append(number)
        names.append(Path(path).stem if path else f"image {number + 1}")
    if not kept:
        raise ValueError(f"images: none of the {len(rows)} images of {source!r} decodes. Name another source.")
    rows, credit = rows.select(kept), rows.info.description
    metadata = {"titles": json.dumps(_titles(rows, names), ensure_ascii=False), "credit": credit}
    save_file({"embeddings": model.encode_images(rows).half()}, folder / INDEX_FILE, metadata)
    return failures


def _cause(error: Exception) -> str:
    return "no image" if isinstance(error, KeyError) else str(error)


def _titles(rows: Dataset, names: list[str]) -> list[dict[str, str]]:
    """Titles of the images by language; the names of their files if the source has no titles."""
    languages = [language for language in LANGUAGES if language in rows.column_names]
    if not languages:
        return [{"en": name} for name in names]
    return list(rows.select_columns(languages))
