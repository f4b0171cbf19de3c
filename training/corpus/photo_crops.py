"""Random crops of the free photographs: images on which a model can be held to what it knew.

A few photographs are enough, because their crops have the edges, textures and parts of objects of all photographs:
students learn most of a teacher from crops of a single one (Asano and Saeed, arXiv 2112.00725).
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.corpus.free_photos import FREE_PHOTOS
from training.utils.rng import keyed_uniform

NUM_CROPS = 2048
MIN_AREA = 0.03  # share of the photograph
MAX_ASPECT = 1.5  # of width to height, in either direction


def photo_crops(size: int, number: int = NUM_CROPS, seed: int = 0) -> Tensor:
    """Cut crops from all photographs in turn, squash them to squares, and mirror half of them.

    Args:
        size: Edge of the crops in pixels.
        number: Number of crops.
        seed: Seed of the draw.

    Returns:
        (number, 3, size, size) uint8. The area of a crop is log-uniform between `MIN_AREA` and the whole photograph.

    Raises:
        ValueError: A package with photographs is not installed.
    """
    photos = [photo.open() for photo in FREE_PHOTOS]
    crops = torch.empty(number, 3, size, size, dtype=torch.uint8)
    for row, draws in enumerate(keyed_uniform(seed, np.arange(number), num=5)):
        area, aspect, right, down, mirror = draws.tolist()
        photo = photos[row % len(photos)]
        area = photo.width * photo.height * MIN_AREA ** (1 - area)
        ratio = math.exp((2 * aspect - 1) * math.log(MAX_ASPECT))
        width, height = min(photo.width, math.sqrt(area * ratio)), min(photo.height, math.sqrt(area / ratio))
        left, top = right * (photo.width - width), down * (photo.height - height)
        box = (left, top, left + width, top + height)
        crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
        if mirror < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crops[row] = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
    return crops
