"""The validation split, on hashes that are written by hand: no image is opened."""

import numpy as np
import pytest

from training.finetuning.prepare import split_images


def hashes_of(number: int) -> np.ndarray:
    """Hashes of images that do not resemble each other: 64 random bits differ in about 32."""
    return np.random.default_rng(3).integers(0, 2**63, number, dtype=np.uint64)


def split(hashes: np.ndarray, share: float | None = None, seed: int = 0) -> tuple[set[int], set[int]]:
    gray = np.full((len(hashes), 48), 128, np.uint8)
    training, validation = split_images(hashes, gray, share, seed)
    assert sorted([*training, *validation]) == list(range(len(hashes)))
    return set(training.tolist()), set(validation.tolist())


@pytest.mark.parametrize(
    ("number", "share", "expected"),
    [(20, None, 4), (100, None, 15), (100, 0.3, 30), (8000, None, 1000), (8000, 0.2, 1600)],
)
def test_the_validation_split_has_its_size_and_the_default_a_maximum(number, share, expected):
    assert len(split(hashes_of(number), share)[1]) == expected


def test_the_seed_chooses_the_split():
    first, again, other = (split(hashes_of(100), seed=seed)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_near_duplicates_are_on_one_side():
    """Image 50 + i is image i with one bit changed."""
    hashes = hashes_of(50)
    both = np.concatenate([hashes, hashes ^ np.uint64(1)])
    training, validation = split(both)
    assert {number % 50 for number in training}.isdisjoint({number % 50 for number in validation})
    assert 4 <= len(validation) <= 15


def test_a_chain_of_near_duplicates_does_not_cross():
    """Images of different groups may be near as well: b differs from a in four bits, and c from b in four others."""
    hashes = hashes_of(90)
    chain = np.concatenate([hashes[:30], hashes[:30] ^ np.uint64(0x0F), hashes[:30] ^ np.uint64(0xFF), hashes[30:]])
    for seed in range(5):
        training, _ = split(chain, seed=seed)
        for number in range(30):
            a, b, c = (number + 30 * step in training for step in range(3))
            assert a == b == c, number


def test_a_group_that_is_larger_than_the_split_is_for_training():
    hashes = hashes_of(40)
    hashes[:20] = hashes[0]
    assert split(hashes)[0] >= set(range(20)) and len(split(hashes)[1]) <= 6


@pytest.mark.parametrize(
    ("number", "share", "message"),
    [(15, None, "data: 15"), (24, 0.05, "validation_share: "), (24, 0.9, "validation_share: ")],
)
def test_splits_that_are_too_small_are_refused(number, share, message):
    with pytest.raises(ValueError, match=message):
        split(hashes_of(number), share)


def test_images_that_are_all_alike_are_refused():
    with pytest.raises(ValueError, match="data: the 20 images are all alike"):
        split(np.zeros(20, np.uint64))


def test_images_that_the_model_takes_for_the_same_are_on_one_side():
    """Images 2 i and 2 i + 1 have different hashes, and a cosine of 0.99."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal((30, 64))
    both = np.repeat(base, 2, axis=0) + 0.05 * rng.standard_normal((60, 64))
    embeddings = (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float32)
    gray = np.full((60, 48), 128, np.uint8)
    hashes = hashes_of(60)
    without, _ = split(hashes)
    assert any(number ^ 1 not in without for number in without)
    training, validation = map(set, map(list, split_images(hashes, gray, 0.4, 0, embeddings)))
    assert len(validation) >= 4 and all(number ^ 1 in training for number in training)
    same = np.ones((60, 4), np.float32) / 2  # a model that takes all images for the same decides nothing
    assert len(split_images(hashes, gray, None, 0, same)[1]) == 9
