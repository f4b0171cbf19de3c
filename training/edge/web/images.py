"""The images that the page searches: small files, and their embeddings in one safetensors file."""

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
EDGE = 192  # of the largest image that a page shows, in pixels


def write_images(model: ZeroShotModel, source: str, folder: Path):
    """Write `00000.webp` and so on, and `index.safetensors` with `embeddings`, (N, D) float16, L2-normalised; its
    metadata has the images' titles by language and whose they are.

    Args:
        model: sees the images.
        source: as `load_source` takes it; a column `image`, and for the titles `en` and `zh`.
        folder: is made.

    Raises:
        ValueError: there is no such source, or an image does not decode.
    """
    rows = require_columns(load_source(source), ["image"], source, "Rename yours.", "images")
    embeddings = model.encode_images(rows)
    folder.mkdir(parents=True)
    undecoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    for number, row in enumerate(tqdm(undecoded, desc="write images", unit="image", leave=False)):
        _small(open_image(row["image"])).save(folder / f"{number:05}.webp", quality=85)
    metadata = {"titles": json.dumps(_titles(rows), ensure_ascii=False), "credit": rows.info.description}
    save_file({"embeddings": embeddings.half()}, folder / INDEX_FILE, metadata)


def _titles(rows: Dataset) -> list[dict[str, str]]:
    """A name by language of each image; a number where there is none."""
    languages = [language for language in LANGUAGES if language in rows.column_names]
    if not languages:
        return [{"en": f"image {number + 1}"} for number in range(len(rows))]
    return list(rows.select_columns(languages))


def _small(image: PILImage.Image) -> PILImage.Image:
    image.thumbnail((EDGE, EDGE))
    return image
