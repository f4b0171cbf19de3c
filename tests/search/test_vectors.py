"""Vectors of an index: accuracy, exact search, writes in any order, growth."""

import numpy as np
import pytest

from modeling_dcclip.search.index import vectors as vectors_module
from modeling_dcclip.search.index.catalog import Catalog, DamagedIndexError
from modeling_dcclip.search.index.vectors import VectorStore, largest
from modeling_dcclip.search.photos.files import FileState

DIMENSION = 64
COUNT = 730


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several segments and blocks, with partly filled last ones."""
    monkeypatch.setattr(vectors_module, "SEGMENT_ROWS", 48)
    monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 32)


@pytest.fixture(scope="module")
def vectors():
    found = np.random.default_rng(0).standard_normal((COUNT, DIMENSION)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path, vectors):
    store = VectorStore(Catalog(tmp_path / "catalog.sqlite", "", create=True), DIMENSION)
    for start in range(0, COUNT, 90):
        part = vectors[start : start + 90]
        store.write(np.arange(start, start + len(part)), part)
    return store


def test_scores_are_cosines_of_the_stored_vectors(store, vectors):
    expected = store.read(np.arange(COUNT)) @ vectors[5]
    np.testing.assert_allclose(store.scores(vectors[5], COUNT), expected, atol=1e-5)


def test_rows_are_overwritten_and_added_in_any_order_and_others_stay(store, vectors):
    rows = np.array([201, 7, 8, 9, COUNT + 200])
    others = np.setdiff1d(np.arange(COUNT), rows)
    reader = VectorStore(store.catalog, DIMENSION)
    before = reader.read(others)
    store.write(rows, -vectors[:5])
    np.testing.assert_allclose(reader.read(rows), -vectors[:5], atol=5e-3)
    np.testing.assert_array_equal(reader.read(others), before)


@pytest.mark.parametrize("position", [0, 47 * DIMENSION, 48 * DIMENSION, 48 * DIMENSION + 191])
def test_a_flipped_bit_of_any_part_of_a_segment_is_noticed(store, position):
    damaged = bytearray(store.catalog.value("SELECT vectors FROM segments WHERE number = 4"))
    damaged[position] ^= 4
    store.catalog.execute("UPDATE segments SET vectors = ? WHERE number = 4", bytes(damaged))
    with pytest.raises(DamagedIndexError, match="checksum"):
        store.verify()


@pytest.mark.parametrize("top", [1, 10, COUNT, 2 * COUNT])
def test_the_largest_scores_come_first(top):
    scores = np.random.default_rng(1).standard_normal(COUNT)
    expected = np.argsort(-scores)[:top]
    assert largest(scores, top).tolist() == expected.tolist()


def test_a_commit_costs_the_same_in_a_large_catalog(tmp_path):
    catalog = Catalog(tmp_path / "catalog.sqlite", "", create=True)
    steps = []
    catalog._connection.set_progress_handler(lambda: steps.append(1), 100)
    costs = []
    for part in range(12):
        del steps[:]
        with catalog.writing():
            digests = [b"%02d %013d" % (part, number) for number in range(200)]
            catalog.allocate([(digest, None, ()) for digest in digests])
            states = [FileState(digest, 1, 1) for digest in digests]
            catalog.add_files(list(zip(states, digests, strict=True)))
        costs.append(len(steps))
    assert max(costs[1:]) < 1.3 * costs[1]
    catalog.close()
    Catalog(tmp_path / "catalog.sqlite", "").close()  # the sums are right
