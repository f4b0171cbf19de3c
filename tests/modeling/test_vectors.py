"""Vectors on disk: accuracy, exact search, writes in any order, growth."""

import numpy as np
import pytest

from modeling_dcclip.search import vectors as vectors_module
from modeling_dcclip.search.vectors import VectorStore

DIMENSION = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks with a partly filled last one."""
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.standard_normal((12, DIMENSION))
    vectors = centres[random.integers(12, size=730)] + 0.5 * random.standard_normal(
        (730, DIMENSION)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path, vectors) -> VectorStore:
    store = VectorStore(tmp_path, DIMENSION, key=7)
    for start in range(0, len(vectors), 90):
        part = vectors[start : start + 90]
        store.write(np.arange(start, start + len(part)), part)
    return store


def test_vectors_are_read_as_they_were_written(store, vectors):
    rows = np.array([3, 729, 0, 410, 99, 100])
    # half a step of int8 in the largest dimension
    np.testing.assert_allclose(
        store.read(rows), vectors[rows], atol=np.abs(vectors).max() / 254 + 1e-6
    )
    assert sum(file.stat().st_size for file in store.folder.iterdir()) == len(vectors) * (
        DIMENSION + 8
    )
    assert store.bytes_per_row == DIMENSION + 8


@pytest.mark.parametrize(("row", "top"), [(5, 1), (77, 10), (300, 50), (2, 1000)])
def test_search_equals_a_sort_of_the_stored_vectors(store, vectors, row, top):
    stored, allowed = store.read(np.arange(len(vectors))), np.arange(len(vectors)) % 3 != 0
    for mask in (None, allowed):
        rows, scores = store.search(vectors[row], len(vectors), top, mask)
        cosines = np.where(True if mask is None else mask, stored @ vectors[row], -2)
        expected = np.argsort(-cosines, kind="stable")[: min(top, (cosines > -2).sum())]
        np.testing.assert_allclose(scores, cosines[expected], atol=1e-5)
        np.testing.assert_allclose(cosines[rows], cosines[expected], atol=1e-5)


def test_equal_scores_come_in_the_order_of_rows(tmp_path):
    store = VectorStore(tmp_path, DIMENSION)
    store.write(np.arange(300), np.tile(np.eye(1, DIMENSION, dtype=np.float32), (300, 1)))
    assert store.search(np.eye(1, DIMENSION, dtype=np.float32)[0], 300, 7)[0].tolist() == list(
        range(7)
    )


def test_rows_are_overwritten_in_any_order(store, vectors):
    before = store.read(np.arange(len(vectors)))
    rows = np.array([201, 7, 8, 9, 640])
    store.write(rows, -vectors[:5])
    np.testing.assert_allclose(store.read(rows), -vectors[:5], atol=5e-3)
    others = np.setdiff1d(np.arange(len(vectors)), rows)
    np.testing.assert_array_equal(store.read(others), before[others])


def test_a_reader_sees_rows_that_are_added_later(tmp_path, vectors):
    writer, reader = VectorStore(tmp_path, DIMENSION), VectorStore(tmp_path, DIMENSION)
    writer.write(np.arange(50), vectors[:50])
    assert reader.search(vectors[0], 50, 1)[0].tolist() == [0]
    writer.write(np.arange(50, 250), vectors[50:250])
    assert reader.search(vectors[249], 250, 1)[0].tolist() == [249]


def test_damaged_rows_are_lost_and_only_matter_where_they_may_be_found(store, vectors):
    content = bytearray((store.folder / "values.int8").read_bytes())
    content[205 * DIMENSION] ^= 64
    (store.folder / "values.int8").write_bytes(content)
    damaged = VectorStore(store.folder, DIMENSION, key=7)
    allowed = np.arange(730) != 205
    assert damaged.search(vectors[0], 730, 1, allowed)[0].tolist() == [0]
    for use in (
        lambda: damaged.search(vectors[0], 730, 3),
        lambda: damaged.read(np.array([4, 205])),
    ):
        with pytest.raises(ValueError, match=r"1 vectors in .* are damaged"):
            use()
    assert damaged.lost_rows(732).tolist() == [205, 730, 731]


def test_wide_vectors_have_exact_checksums(tmp_path):
    random = np.random.default_rng(0)
    vectors = random.standard_normal((40, 4096)).astype(np.float32)
    store = VectorStore(tmp_path, 4096)
    store.write(np.arange(40), vectors)
    assert not len(store.lost_rows(40)) and len(store.read(np.arange(40)[::-1])) == 40


def test_missing_rows_are_named(store, vectors):
    with pytest.raises(ValueError, match="has 730 vectors, expected 731"):
        store.search(vectors[0], 731, 1)
