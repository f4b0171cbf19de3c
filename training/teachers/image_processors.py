"""Image processors of models with a square input."""

from collections.abc import Sequence

from PIL.Image import Resampling
from transformers import CLIPImageProcessor


def square_image_processor(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    squash: bool = False,
    resample: int = Resampling.BICUBIC,
) -> CLIPImageProcessor:
    """Build the image processor of a model with a square input.

    Args:
        size: Edge of the input in pixels.
        mean: Mean of each color channel, in 0..1.
        std: Standard deviation of each color channel, in 0..1.
        squash: Whether to resize the whole image to the square. Default: resize the short side and crop the center.
        resample: Number of the resize filter, as in Pillow.
    """
    square = {"height": size, "width": size}
    return CLIPImageProcessor(
        size=square if squash else {"shortest_edge": size},
        do_center_crop=not squash,
        crop_size=square,
        resample=resample,
        image_mean=list(mean),
        image_std=list(std),
    )
