"""Validation split by image content: near-duplicates of an image are on its side."""

import numpy as np

from training.prepare.duplicates import MAX_COLOUR_DISTANCE, MAX_IMAGE_DISTANCE, match_images
from training.utils.rng import keyed_uniform

# the thresholds of curation for near-duplicates
LIMITS = (MAX_IMAGE_DISTANCE, MAX_COLOUR_DISTANCE)
MIN_TRAINING, MIN_VALIDATION, MAX_VALIDATION = 12, 4, 1000  # images
DEFAULT_SHARE = 0.15


def split_images(
    hashes: np.ndarray, colours: np.ndarray, share: float | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into a training and a validation split.

    Args:
        hashes: Perceptual hashes, (N,) uint64.
        colours: Colour thumbnails, (N, 48) uint8.
        share: Share of the images for the validation split, above 0 and below 1. Default: `DEFAULT_SHARE`, at least
            `MIN_VALIDATION` and at most `MAX_VALIDATION` images.
        seed: Seed of the choice.

    Returns:
        Indices of the training and of the validation images, both in ascending order. No image of one split is a
        near-duplicate of one of the other.

    Raises:
        ValueError: There are too few images, they are all alike, or a split would be too small.
    """
    num_images = len(hashes)
    if num_images < MIN_TRAINING + MIN_VALIDATION:
        raise ValueError(
            f"data: {num_images} usable images are too few: training and validation take at "
            f"least {MIN_TRAINING + MIN_VALIDATION}. Add images, or use the model without fine-tuning."
        )
    groups = match_images(hashes, colours, *LIMITS)
    if len(np.unique(groups)) < MIN_VALIDATION:
        raise ValueError(
            f"data: the {num_images} images are all alike ({len(np.unique(groups))} different), so there is "
            "nothing to tell apart. Check that the paths lead to the right images."
        )
    wanted = _wanted(num_images, share)
    distinct, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    is_chosen, num_chosen = np.zeros(len(distinct), bool), 0
    for group in np.argsort(keyed_uniform(seed, distinct, num=1)[:, 0], kind="stable").tolist():
        if num_chosen + sizes[group] <= wanted:
            is_chosen[group] = True
            num_chosen += sizes[group]
    is_validation = is_chosen[members]
    _move_copies(is_validation, hashes, colours)
    training, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    if min(len(training) - MIN_TRAINING, len(validation) - MIN_VALIDATION) < 0:
        raise ValueError(
            f"validation_share: leaves {len(training)} images for training and {len(validation)} for validation when "
            f"near-duplicates are kept together; at least {MIN_TRAINING} and {MIN_VALIDATION} are needed. Add images "
            f"that differ, or set --validation_share to a value such as {DEFAULT_SHARE}."
        )
    return training, validation


def _wanted(num_images: int, share: float | None) -> int:
    if share is None:
        return min(max(MIN_VALIDATION, round(DEFAULT_SHARE * num_images)), MAX_VALIDATION)
    return max(1, round(share * num_images))


def _move_copies(is_validation: np.ndarray, hashes: np.ndarray, colours: np.ndarray):
    """Move validation images to the training split while they are near-duplicates of one of its images.

    Groups hold the near-duplicates of their first image only: two others of different groups can be near as well.
    """
    while is_validation.any() and not is_validation.all():
        training, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
        order = np.concatenate([training, validation])
        match = match_images(hashes[order], colours[order], *LIMITS, num_reference=len(training))
        copies = validation[match[len(training) :] < len(training)]
        if not len(copies):
            return
        is_validation[copies] = False
