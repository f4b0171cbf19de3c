"""The bank of a model, and the numbers of hubs in an index."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from modeling_dcclip.runtime_dcclip import Runtime
from modeling_dcclip.search.index import Index
from modeling_dcclip.search.index.hubs import BANK_FILE, Hubs, read_bank, write_bank
from modeling_dcclip.search.index.space import Space
from modeling_dcclip.search.index.upgrade import upgrade_index
from modeling_dcclip.search.query.fit import hub_numbers

CAPTIONS = ["red", "green", "red green", "white"]


@pytest.fixture
def model(color_model, tmp_path) -> Path:
    """A model with a bank."""
    folder = Path(shutil.copytree(color_model, tmp_path / "with_bank"))
    runtime = Runtime(folder)
    write_bank(folder / BANK_FILE, runtime.encode_texts(CAPTIONS), Space.of(runtime).files)
    return folder


def test_a_bank_has_the_embeddings_of_its_captions(model):
    runtime = Runtime(model)
    captions = runtime.encode_texts(CAPTIONS)
    found = read_bank(runtime, Space.of(runtime).files)
    np.testing.assert_allclose(found, captions, atol=0.01)
    width = runtime.dimension - 1
    narrow = runtime.truncated(width)
    short = captions[:, :width] / np.linalg.norm(captions[:, :width], axis=1, keepdims=True)
    np.testing.assert_allclose(read_bank(narrow, Space.of(narrow).files), short, atol=0.02)


def test_numbers_are_stored_by_indexing_and_computed_where_they_are_missing(
    model, photos, paint, tmp_path, monkeypatch
):
    with Index.open(tmp_path / "index", model, create=True) as index:
        index.add(photos)
        count = index.catalog.num_rows
        expected = hub_numbers(index.store.read(np.arange(count)), index.bank, index.nouns)
        assert expected[:, 0].any()
        # an index of before: nothing is stored
        index.catalog.execute("DELETE FROM hubs")
        ranked = [(hit.path, hit.score) for hit in index.search("red")]
        np.testing.assert_allclose(index.hubs.numbers(count, index.bank, index.nouns), expected)
        monkeypatch.setattr(
            "modeling_dcclip.search.photos.photos.read_photo", None
        )  # opens no photograph
        index.add()
        assert index.catalog.value("SELECT count(*) FROM hubs") == 1
    with Index.open(tmp_path / "index", model) as again:
        monkeypatch.setattr(
            "modeling_dcclip.search.index.hubs.hub_numbers", None
        )  # they are stored
        assert [(hit.path, hit.score) for hit in again.search("red")] == ranked
        with pytest.raises(TypeError):  # of a different bank
            again.hubs.numbers(count, None, again.nouns)
        again.catalog.execute("UPDATE hubs SET numbers = zeroblob(length(numbers))")
        with pytest.raises(ValueError, match="numbers of hubs have a wrong checksum"):
            Hubs(again.catalog, again.store).numbers(count, again.bank, again.nouns)


def test_an_upgrade_stores_the_numbers_of_the_new_model(model, color_model, photos, tmp_path):
    with Index.open(tmp_path / "index", color_model, create=True) as index:
        index.add(photos)
        upgrade_index(index, model)
    with Index.open(tmp_path / "index") as index:
        count = index.catalog.num_rows
        (content,) = index.catalog.column("SELECT numbers FROM hubs")
        stored = np.frombuffer(content, np.float32).reshape(-1, 2)[:count]
        np.testing.assert_array_equal(stored, index.hubs.numbers(count, index.bank, index.nouns))
        assert stored[:, 0].any()


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda path: path.write_bytes(b"x" * 100), "cannot be read"),
        (lambda path: path.write_bytes(bytes(2**20 + 1)), "is not a file of at most"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a file of at most"),
        (
            lambda path: write_bank(path, np.eye(8), "0" * 16),
            "belongs to a model with the fingerprint 0000",
        ),
        (lambda path: save_file({"texts": np.eye(2)}, path), "cannot be read"),
    ],
)
def test_a_bank_that_is_damaged_or_of_other_weights_is_refused(
    model, photos, tmp_path, damage, cause
):
    with Index.open(tmp_path / "index", model, create=True) as index:
        index.add(photos)
    damage(model / BANK_FILE)
    with (
        Index.open(tmp_path / "index") as index,
        pytest.raises(ValueError, match=f"^bank: .*{cause}"),
    ):
        index.search("red")


def test_a_model_without_a_bank_searches_and_status_tells(filled, run):
    assert filled.bank is None
    assert filled.search("red")[0].path.endswith("red.jpg")
    status = json.loads(run("status", "--json", "--index", filled.folder))
    assert status["ranking"] == "without a bank, because the model has none"
