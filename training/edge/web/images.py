"""Write the images that the page searches: small image files, and their embeddings in one safetensors file."""

import json
from pathlib import Path

from datasets import Dataset, Image
from PIL import Image as PILImage
from safetensors.torch import save_file
from tqdm.auto import tqdm

from training.data import load_source, open_image
from training.data.sources import require_columns
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.text.writing_systems import LANGUAGES

INDEX_FILE = "index.safetensors"
MAX_SIZE = 192  # longer edge of the written images, in pixels


def write_images(model: ZeroShotModel, source: str, folder: Path):
    """Write the images as `00000.webp` and so on, and their embeddings to `index.safetensors`.

    `embeddings` is (N, D) float16, L2-normalised. The metadata has the titles by language and the credit line.

    Args:
        model: Model that encodes the images.
        source: Images, as `load_source` accepts them: a column `image`, and columns `en` and `zh` for the titles.
        folder: Folder to write, created if it does not exist.

    Raises:
        ValueError: The source does not exist, or an image cannot be decoded.
    """
    rows = require_columns(load_source(source), ["image"], source, "Rename yours.", "images")
    embeddings = model.encode_images(rows)
    folder.mkdir(parents=True)
    undecoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    for number, row in enumerate(tqdm(undecoded, desc="write images", unit="image", leave=False)):
        _shrink(open_image(row["image"])).save(folder / f"{number:05}.webp", quality=85)
    metadata = {"titles": json.dumps(_titles(rows), ensure_ascii=False), "credit": rows.info.description}
    save_file({"embeddings": embeddings.half()}, folder / INDEX_FILE, metadata)


def _titles(rows: Dataset) -> list[dict[str, str]]:
    """Titles of the images by language; numbers if the source has no titles."""
    languages = [language for language in LANGUAGES if language in rows.column_names]
    if not languages:
        return [{"en": f"image {number + 1}"} for number in range(len(rows))]
    return list(rows.select_columns(languages))


def _shrink(image: PILImage.Image) -> PILImage.Image:
    image.thumbnail((MAX_SIZE, MAX_SIZE))
    return image
