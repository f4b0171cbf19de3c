import numpy as np
import pytest

from training.prepare.curate.near_duplicates import (
    MinHash,
    hamming_bands,
    hamming_distance,
    jaccard,
    match_earlier,
    normalise,
    shingles,
    text_identity,
)


def clustered_hashes(num: int, seed: int = 0) -> np.ndarray:
    """Random hashes around a few centres, with pairs at every distance, including equal ones."""
    draw = np.random.default_rng(seed)
    centres = draw.integers(0, 2**64, num // 8, dtype=np.uint64)
    hashes = centres[draw.integers(0, len(centres), num)]
    for _ in range(5):
        hashes ^= np.where(
            draw.random(num) < 0.4, np.uint64(1) << draw.integers(0, 64, num, dtype=np.uint64), np.uint64(0)
        )
    return hashes


def slow_match(hashes: np.ndarray, distance: int, num_reference: int) -> list[int]:
    """Reference that compares all pairs."""
    match: list[int] = []
    for row, one in enumerate(hashes.tolist()):
        earlier = range(num_reference if row >= num_reference else 0) if num_reference else range(row)
        others = [n for n in earlier if match[n] == n]
        equal = [n for n in others if one == int(hashes[n])]
        near = [n for n in others if (one ^ int(hashes[n])).bit_count() <= distance]
        match.append([*equal, *near, row][0])
    return match


@pytest.mark.parametrize("num_reference", [0, 60])
@pytest.mark.parametrize("distance", [0, 1, 4, 7, 15])
def test_bands_give_the_matches_of_comparing_all_pairs(distance, num_reference):
    hashes = clustered_hashes(300)
    if num_reference:  # reference rows are not matched with each other
        hashes[:num_reference] = np.random.default_rng(1).permutation(np.unique(hashes))[:num_reference]
    match = match_earlier(
        hashes,
        hamming_bands(hashes, distance),
        lambda row, others: hamming_distance(hashes[row], hashes[others]) <= distance,
        num_reference,
    )
    assert match.tolist() == slow_match(hashes, distance, num_reference)
    assert 0 < (match != np.arange(300)).sum() < 300


def test_no_rows_give_no_matches():
    none = np.zeros(0, np.uint64)
    assert match_earlier(none, hamming_bands(none, 3), lambda row, others: others > 0).tolist() == []


def test_matched_row_is_not_a_candidate_for_later_rows():
    hashes = np.array([0b0000, 0b0011, 0b1111], np.uint64)  # neighbours are near, first and last are not
    match = match_earlier(
        hashes, hamming_bands(hashes, 2), lambda row, others: hamming_distance(hashes[row], hashes[others]) <= 2
    )
    assert match.tolist() == [0, 0, 2]


def test_only_rows_that_share_a_band_are_compared():
    hashes, compared = clustered_hashes(400), []

    def is_near(row: int, others: np.ndarray) -> np.ndarray:
        compared.append(len(others))
        return hamming_distance(hashes[row], hashes[others]) <= 3

    match_earlier(hashes, hamming_bands(hashes, 3), is_near)
    assert sum(compared) < 0.05 * 400 * 399 / 2


def test_normalised_text_has_no_case_width_or_punctuation():
    assert normalise("  A RED-apple!  ") == normalise("a red ａｐｐｌｅ") == "a red apple"
    assert normalise("红苹果。") == "红苹果"
    assert text_identity("红苹果") == text_identity("红苹果") != text_identity("紅蘋果")


def test_shingles_and_their_overlap():
    assert shingles("abcd", 3) == {"abc", "bcd"} and shingles("ab", 3) == {"ab"} and shingles("", 3) == {""}
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9])
def test_texts_at_the_threshold_share_a_band_and_unrelated_texts_do_not(threshold):
    minhash, draw = MinHash(threshold, 3), np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    found = unrelated = num = 0
    while num < 300:
        text = "".join(draw.choice(letters, 40))
        cut = text[: draw.integers(8, 40)]
        overlap = jaccard(shingles(text, 3), shingles(cut, 3))
        if threshold <= overlap < threshold + 0.06:
            num += 1
            found += (minhash.bands(text) == minhash.bands(cut)).any()
            unrelated += (minhash.bands(text) == minhash.bands("".join(draw.choice(letters, 40)))).any()
    assert found >= 0.97 * num
    assert unrelated <= 0.02 * num or threshold < 0.5
