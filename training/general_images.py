"""Photographs with a free license from pip packages: crops to train on, and others that show what a model forgets.

A student keeps the embeddings of the crops while it learns the images of its data.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from training.config import AugmentConfig
from training.data.images import Augment
from training.utils.files import packaged_file
from training.utils.keys import keyed_uniform

NUM_VIEWS = 8  # views of each held-out photograph
NUM_CROPS = 2048
MIN_AREA = 0.03  # smallest area of a crop, as a share of the photograph
MAX_ASPECT = 1.5  # ratio of the longer to the shorter edge of a crop
# changes that photographs of other cameras, screens and web pages show
VARIETY = AugmentConfig(
    zoom=0.15,
    rotate=15,
    stretch=0.1,
    shift=0.05,
    brightness=0.15,
    contrast=0.4,
    saturation=0.6,
    tint=0.05,
    blur=0.1,
    downscale=0.25,
    background=124,
)
ROWS_AT_ONCE = 64
MIX_STREAM = 0x6D6978  # separates these random numbers from the draws of the views


@dataclass(frozen=True)
class FreePhoto:
    """A photograph in a pip package.

    Args:
        package: Name of the package on PyPI.
        module: Name of its module.
        file: Path of the photograph inside the module.
        query: What it shows, by language (ISO 639-1 code).
        terms: License and author.
    """

    package: str
    module: str
    file: str
    query: dict[str, str]
    terms: str

    @property
    def path(self) -> Path:
        """File of the installed package.

        Raises:
            ValueError: The package is not installed, or has no such file.
        """
        if (path := packaged_file(self.module, self.file)) is None:
            raise ValueError(
                f"{self.package}: {self.file} is not installed. Run `pip install {self.package}`."
            )
        return path

    def open(self) -> Image.Image:
        """Open the photograph in RGB; see `path` for errors."""
        with Image.open(self.path) as image:
            return image.convert("RGB")


_SKIMAGE = ("scikit-image", "skimage")
_SKLEARN = ("scikit-learn", "sklearn")
FREE_PHOTOS = (
    FreePhoto(
        *_SKIMAGE, "data/chelsea.png", {"en": "a cat", "zh": "一只猫"}, "CC0, Stefan van der Walt"
    ),
    FreePhoto(
        *_SKIMAGE,
        "data/coffee.png",
        {"en": "a cup of coffee", "zh": "一杯咖啡"},
        "CC0, Rachel Michetti",
    ),
    FreePhoto(
        *_SKIMAGE,
        "data/rocket.jpg",
        {"en": "a rocket launch", "zh": "火箭发射"},
        "public domain, SpaceX",
    ),
    FreePhoto(
        *_SKIMAGE,
        "data/astronaut.png",
        {"en": "an astronaut", "zh": "宇航员"},
        "public domain, NASA",
    ),
    FreePhoto(
        *_SKLEARN,
        "datasets/images/china.jpg",
        {"en": "a temple", "zh": "寺庙"},
        "CC-BY 2.0, danielbuechele (Flickr)",
    ),
    FreePhoto(
        *_SKLEARN,
        "datasets/images/flower.jpg",
        {"en": "a flower", "zh": "一朵花"},
        "CC-BY 2.0, vultilion (Flickr)",
    ),
    FreePhoto(
        "matplotlib",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        {"en": "an officer in uniform", "zh": "穿制服的军官"},
        "public domain, U.S. Navy",
    ),
)

# no training uses these, so they show what a model forgets
HELD_OUT_PHOTOS = tuple(
    FreePhoto(*_SKIMAGE, f"data/{file}", {"en": en, "zh": zh}, "see scikit-image")
    for file, en, zh in (
        ("hubble_deep_field.jpg", "galaxies in space", "太空中的星系"),
        ("camera.png", "a man with a camera", "拿着相机的男人"),
        ("motorcycle_left.png", "a motorcycle", "一辆摩托车"),
        ("gravel.png", "gravel", "碎石"),
        ("brick.png", "a brick wall", "砖墙"),
        ("grass.png", "grass", "草地"),
        ("moon.png", "the surface of the moon", "月球表面"),
        ("page.png", "a printed page", "印刷的书页"),
        ("text.png", "handwriting", "手写的字"),
        ("coins.png", "coins", "硬币"),
    )
)


def load_held_out() -> Dataset:
    """Load views of the held-out photographs: the whole, its four corners, its center, and two of them mirrored.

    Returns:
        Rows with the column `image`, and `en` and `zh` with the names.

    Raises:
        ValueError: A package is not installed.
    """
    rows = []
    for photo in HELD_OUT_PHOTOS:
        image = photo.open()
        width, height = image.size
        views = [image]
        for x, y in ((0, 0), (2, 0), (0, 2), (2, 2), (1, 1)):  # in eighths
            left = x * width / 8
            top = y * height / 8
            views.append(image.crop((left, top, left + 0.75 * width, top + 0.75 * height)))
        for view in (image, views[-1]):
            views.append(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        texts = {name: [text] for name, text in photo.query.items()}
        rows += [{"image": view, **texts} for view in views]
    return Dataset.from_list(rows)


def photo_crops(size: int, number: int = NUM_CROPS) -> Tensor:
    """Cut crops from all photographs in turn, squash them to squares, and mirror half of them.

    A few photographs are enough: their crops have the edges, textures and parts of objects of all photographs, and
    students learn most of a teacher from crops of a single one (Asano and Saeed, arXiv 2112.00725).

    Args:
        size: Edge of the crops in pixels.
        number: Number of crops.

    Returns:
        (number, 3, size, size) uint8. The area of a crop is log-uniform between `MIN_AREA` and the whole photograph.

    Raises:
        ValueError: A package with photographs is not installed.
    """
    photos = [photo.open() for photo in FREE_PHOTOS]
    crops = torch.empty(number, 3, size, size, dtype=torch.uint8)
    for row, draws in enumerate(keyed_uniform(0, np.arange(number), num=5)):
        area, aspect, right, down, mirror = draws.tolist()
        photo = photos[row % len(photos)]
        area = photo.width * photo.height * MIN_AREA ** (1 - area)
        ratio = math.exp((2 * aspect - 1) * math.log(MAX_ASPECT))
        width = min(photo.width, math.sqrt(area * ratio))
        height = min(photo.height, math.sqrt(area / ratio))
        left = right * (photo.width - width)
        top = down * (photo.height - height)
        box = (left, top, left + width, top + height)
        crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
        if mirror < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crops[row] = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
    return crops


def vary_images(images: Tensor) -> Tensor:
    """Recolor, rotate and reduce images, and blend half of them with the next one (mixup, arXiv 1710.09412).

    Crops of a few photographs teach more than the photographs show if they are mixed (arXiv 2112.00725).

    Args:
        images: (N, 3, S, S) uint8, neighbors unlike each other.

    Returns:
        (N, 3, S, S) uint8.
    """
    augment = Augment(VARIETY, 0)
    parts = []
    for numbers in torch.arange(len(images)).split(ROWS_AT_ONCE):
        views = augment(images[numbers], augment.views(numbers, torch.zeros_like(numbers)))
        draws = torch.from_numpy(keyed_uniform(MIX_STREAM, numbers.numpy(), 0, num=2))
        weight = torch.where(draws[:, 0] < 0.5, draws[:, 1], 0.0).float()[:, None, None, None]
        parts.append(views.lerp(views.roll(-1, 0), weight).round().to(torch.uint8))
    return torch.cat(parts)
