"""The validation split, on hashes that are written by hand: no image is opened."""

import numpy as np
import pytest

from training.finetuning.splits import split_images


def hashes_of(number: int) -> np.ndarray:
    """Hashes of images that do not resemble each other: 64 random bits differ in about 32."""
    return np.random.default_rng(3).integers(0, 2**63, number, dtype=np.uint64)


def split(
    hashes: np.ndarray,
    share: float | None = None,
    seed: int = 0,
    embeddings: np.ndarray | None = None,
) -> tuple[set[int], set[int]]:
    gray = np.full((len(hashes), 48), 128, np.uint8)
    training, validation = split_images(hashes, gray, share, seed, embeddings)
    assert sorted([*training, *validation]) == list(range(len(hashes)))
    return set(training.tolist()), set(validation.tolist())


@pytest.mark.parametrize(
    ("number", "share", "expected"),
    [(20, None, 4), (100, None, 15), (100, 0.3, 30), (8000, None, 1000), (8000, 0.2, 1600)],
)
def test_the_validation_split_has_its_size_and_the_default_a_maximum(number, share, expected):
    assert len(split(hashes_of(number), share)[1]) == expected


def test_the_seed_chooses_the_images_of_the_split():
    first, again, other = (split(hashes_of(100), seed=seed)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_a_chain_of_near_duplicates_does_not_cross():
    """b differs from a in four bits, and c from b in four others. Their rows are in different chunks."""
    hashes = hashes_of(900)
    chain = np.concatenate(
        [hashes[:300], hashes[:300] ^ np.uint64(0x0F), hashes[:300] ^ np.uint64(0xFF), hashes[300:]]
    )
    training, validation = split(chain)
    assert len(validation) > 100
    for number in range(300):
        assert len({number + 300 * step in training for step in range(3)}) == 1, number


def test_a_shape_in_a_different_color_is_not_a_duplicate():
    colors = np.repeat(6 * np.arange(40, dtype=np.uint8)[:, None], 48, axis=1)
    colors[:, 7] = 0  # which is the same in all of them
    assert len(split_images(np.zeros(40, np.uint64), colors)[1]) == 6


def test_a_group_that_is_larger_than_the_split_is_for_training():
    hashes = hashes_of(40)
    hashes[:20] = hashes[0]
    assert split(hashes)[0] >= set(range(20)) and len(split(hashes)[1]) <= 6


@pytest.mark.parametrize(
    ("hashes", "share", "field"),
    [
        (hashes_of(15), None, "data: 15"),
        (hashes_of(24), 0.05, "validation_share: "),
        (hashes_of(24), 0.9, "validation_share: "),
        (np.zeros(20, np.uint64), None, "validation_share: "),  # they are all alike
    ],
)
def test_splits_that_are_too_small_are_refused(hashes, share, field):
    with pytest.raises(ValueError, match=field):
        split(hashes, share)


def test_images_that_the_model_takes_for_the_same_are_on_one_side():
    """Images 2 i and 2 i + 1 have different hashes, and a cosine of 0.99."""
    rng = np.random.default_rng(1)
    both = np.repeat(rng.standard_normal((300, 64)), 2, axis=0) + 0.05 * rng.standard_normal(
        (600, 64)
    )
    embeddings = (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float32)
    hashes = hashes_of(600)
    assert any(number ^ 1 not in side for side in split(hashes) for number in side)
    assert all(
        number ^ 1 in side for side in split(hashes, embeddings=embeddings) for number in side
    )
    same = np.ones((60, 4), np.float32) / 2  # a model that takes all images for the same
    assert len(split(hashes[:60], embeddings=same)[1]) == 9
