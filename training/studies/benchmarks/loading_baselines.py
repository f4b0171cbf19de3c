"""The files that all loaders read, and plain Pillow as the baseline."""

import tarfile
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import torch
from datasets import Image
from PIL import Image as PILImage
from torch import Tensor

from training.corpus.emoji import DEFAULT_CACHE, build_corpus
from training.data import load_source
from training.data.images import encoded_bytes
from training.studies.benchmarks.options import LoadingOptions
from training.text.writing_systems import LANGUAGES

RENDERED_SIZES = {"tiny": 256, "demo": 96}  # edge in pixels at which the embedded corpus is rendered


def write_images(options: LoadingOptions, student: str, folder: Path) -> str:
    """Write the first images and captions as tar shards in WebDataset layout, as parquet, and as plain files.

    Args:
        options: Source and number of the images.
        student: Student, whose image size the embedded corpus is rendered for.
        folder: Folder for the files.

    Returns:
        Extension of the images, such as `png`.
    """
    rows = load_source(
        options.data or str(build_corpus(DEFAULT_CACHE, size=RENDERED_SIZES[student]) / "train.parquet")
    )
    rows = rows.select(range(min(len(rows), options.num_images))).cast_column("image", Image(decode=False))
    (folder / "files").mkdir(parents=True)
    rows.to_parquet(folder / "pairs.parquet")
    with PILImage.open(BytesIO(encoded_bytes(rows[0]["image"]))) as first:
        extension = {"JPEG": "jpg"}.get(str(first.format), str(first.format).lower())
    size = -(-len(rows) // options.num_shards)
    for shard in range(options.num_shards):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for number in range(shard * size, min(len(rows), (shard + 1) * size)):
                row = rows[number]
                image = encoded_bytes(row["image"])
                (folder / "files" / f"{number:06d}.{extension}").write_bytes(image)
                captions = {f"{language}.txt": str(row[language]).encode() for language in LANGUAGES}
                for name, content in ({extension: image} | captions).items():
                    member = tarfile.TarInfo(f"{number:06d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
    return extension


def load_plain(file: Path | IO[bytes], size: int) -> Tensor:
    """Load an image with Pillow: open, convert, resize the short side, crop the centre, make a tensor.

    Args:
        file: Image file.
        size: Edge of the tensor in pixels.

    Returns:
        (3, size, size) uint8.
    """
    with PILImage.open(file) as encoded:
        image = encoded.convert("RGB")
    scale = size / min(image.size)
    image = image.resize(
        (max(size, round(image.width * scale)), max(size, round(image.height * scale))), PILImage.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def load_plain_tar(shard: Path, extension: str, size: int) -> list[Tensor]:
    """Load all images of a tar shard with `load_plain`.

    Args:
        shard: Path of the tar shard.
        extension: Extension of the images.
        size: Edge of the tensors in pixels.
    """
    with tarfile.open(shard) as tar:
        members = (member for member in tar if member.name.endswith(f".{extension}"))
        return [load_plain(file, size) for member in members if (file := tar.extractfile(member)) is not None]
