"""Vectors on disk: accuracy of each type, exact search, writes in any order, growth across shards."""

import numpy as np
import pytest

from modeling_dcclip import vectors_dcclip
from modeling_dcclip.vectors_dcclip import DTYPES, VectorStore, random_rotation

DIMENSION = 64
ROTATION = (-0.409151, -0.052334, -0.096044)  # the start of that in 16 dimensions


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Several shards, of which the last is partly filled, and several blocks of a shard."""
    monkeypatch.setattr(vectors_dcclip, "SHARD_ROWS", 100)
    monkeypatch.setattr(vectors_dcclip, "BLOCK_ROWS", 32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.standard_normal((12, DIMENSION))
    vectors = centres[random.integers(12, size=730)] + 0.5 * random.standard_normal((730, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def filled(folder, vectors, dtype) -> VectorStore:
    store = VectorStore(folder, vectors.shape[1], dtype)
    for start in range(0, len(vectors), 90):
        part = vectors[start : start + 90]
        store.write(np.arange(start, start + len(part)), part)
    return store


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_read_as_they_were_written(tmp_path, vectors, dtype):
    store = filled(tmp_path, vectors, dtype)
    rows = np.array([3, 729, 0, 410, 99, 100])
    # half a step of int8 in the largest dimension
    np.testing.assert_allclose(store.read(rows), vectors[rows], atol=np.abs(vectors).max() / 254 + 1e-6)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == len(vectors) * store.bytes_per_row


@pytest.mark.parametrize("dtype", DTYPES)
def test_search_equals_a_sort_of_the_stored_vectors(tmp_path, vectors, dtype):
    store = filled(tmp_path, vectors, dtype)
    stored = store.read(np.arange(len(vectors)))
    allowed = np.arange(len(vectors)) % 3 != 0
    for row, top in ((5, 1), (77, 10), (300, 50), (2, 1000)):
        query = vectors[row]
        for mask in (None, allowed):
            rows, scores = store.search(query, len(vectors), top, mask)
            cosines = np.where(allowed, stored @ query, -2) if mask is not None else stored @ query
            expected = np.argsort(-cosines, kind="stable")[: min(top, (cosines > -2).sum())]
            if dtype == "binary" and top == 1000:  # rescores its candidates only
                expected = expected[: len(rows)]
                assert len(rows) >= 400
            np.testing.assert_allclose(scores, cosines[expected], atol=1e-5)
            np.testing.assert_allclose(cosines[rows], cosines[expected], atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_scores_come_in_the_order_of_rows(tmp_path, dtype):
    same = np.tile(np.eye(1, DIMENSION, dtype=np.float32), (300, 1))
    # equal in int8, but with other signs, and so another order of the binary scan
    same[::2, 1:] = np.random.default_rng(0).uniform(-0.0039, 0.0039, (150, DIMENSION - 1))
    rows, _ = filled(tmp_path, same, dtype).search(same[1], 300, 7, None)
    assert rows.tolist() == list(range(7))


def test_rows_are_overwritten_in_any_order(tmp_path, vectors):
    store = filled(tmp_path, vectors, "int8")
    before = store.read(np.arange(len(vectors)))
    rows = np.array([201, 7, 8, 9, 640])
    store.write(rows, -vectors[:5])
    np.testing.assert_allclose(store.read(rows), -vectors[:5], atol=5e-3)
    others = np.setdiff1d(np.arange(len(vectors)), rows)
    np.testing.assert_array_equal(store.read(others), before[others])


def test_a_reader_sees_rows_that_are_added_later(tmp_path, vectors):
    writer = filled(tmp_path, vectors[:50], "int8")
    reader = VectorStore(tmp_path, DIMENSION, "int8")
    assert reader.search(vectors[0], 50, 1, None)[0].tolist() == [0]
    writer.write(np.arange(50, 250), vectors[50:250])
    assert reader.search(vectors[249], 250, 1, None)[0].tolist() == [249]


def test_no_rows_no_results(tmp_path):
    for dtype in DTYPES:
        rows, scores = VectorStore(tmp_path, DIMENSION, dtype).search(np.ones(DIMENSION, np.float32), 0, 5, None)
        assert len(rows) == len(scores) == 0


def test_wrong_types_and_missing_rows_are_named(tmp_path, vectors):
    with pytest.raises(ValueError, match=r"dtype: there is no 'int4'\. Expected: int8, float16, binary"):
        VectorStore(tmp_path, DIMENSION, "int4")
    with pytest.raises(ValueError, match="dtype: binary needs a multiple of 8 dimensions, this model has 60"):
        VectorStore(tmp_path, 60, "binary")
    store = filled(tmp_path, vectors[:50], "int8")
    with pytest.raises(ValueError, match=r"000000.int8' has 50 rows, expected 51"):
        store.scores(vectors[0], 51)


def test_binary_with_rescoring_finds_most_of_the_nearest(tmp_path, vectors):
    store = filled(tmp_path, vectors, "binary")
    found = [
        len(set(store.search(query, 730, 10, None)[0]) & set(np.argsort(-(vectors @ query))[:10]))
        for query in vectors[::50]
    ]
    assert np.mean(found) > 9


def test_signs_tell_as_much_of_embeddings_that_can_be_truncated(tmp_path):
    """Most of such an embedding is in its first dimensions, and images and texts have means of their own."""
    random = np.random.default_rng(0)
    spread = 0.9 ** np.arange(DIMENSION)
    images = random.standard_normal((2000, DIMENSION)) * spread
    queries = images[:50] + random.standard_normal((50, DIMENSION)) * spread
    images[:, 30:] += 0.05
    queries[:, 30:] -= 0.05
    images, queries = (
        (each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32) for each in (images, queries)
    )
    store = filled(tmp_path, images, "binary")
    shares = []
    for query in queries:
        candidates = np.argsort(-store.binary_scores(query, len(images)), kind="stable")[:100]
        shares.append(np.isin(np.argsort(-(images @ query))[:10], candidates).mean())
    assert np.mean(shares) > 0.85


def test_the_rotation_is_the_same_everywhere():
    rotation = random_rotation(16)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-6)
    np.testing.assert_allclose(rotation[0, :3], ROTATION, atol=1e-6)
