"""Cached embeddings are not computed again, and none is stale."""

from dataclasses import replace

import pytest
import torch

from tests.training.evaluation.drawings import CIFAR_10, rows_of, write_parquet
from training.evaluation.classify import class_embeddings
from training.evaluation.embedding_cache import CachedEncoder, EmbeddingCache, find_processes
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labelled_sets import LabelledSet, open_set
from training.evaluation.sets.sources import Source
from training.evaluation.sets.templates import Templates
from training.evaluation.zero_shot_model import ZeroShotModel

TEMPLATES = Templates(("a photo of a {}.", "{}"), "ours")


@pytest.fixture(scope="module")
def model(teacher_folder) -> ZeroShotModel:
    return ZeroShotModel.from_pretrained(teacher_folder)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> LabelledSet:
    path = write_parquet(tmp_path_factory.mktemp("set") / "rows.parquet", rows_of(CIFAR_10))
    return open_set("cifar-10", Source(str(path)), ClassNames.read("cifar-10"))


@pytest.fixture
def encoder(model, tmp_path) -> CachedEncoder:
    return CachedEncoder(model, EmbeddingCache(tmp_path, find_processes()))


def files(folder, kind: str) -> list:
    return sorted((folder / kind).glob("*"))


def test_images_and_classes_are_cached_and_need_no_model(encoder, model, labelled, tmp_path):
    images = encoder.images(labelled, False)
    classes = encoder.classes(["cat", "dog"], TEMPLATES)
    torch.testing.assert_close(images, model.encode_images(labelled.rows))
    torch.testing.assert_close(classes, class_embeddings(model, ["cat", "dog"], TEMPLATES.lines))
    encoder.release()
    assert torch.equal(encoder.images(labelled, False), images)
    assert torch.equal(encoder.classes(["cat", "dog"], TEMPLATES), classes)
    with pytest.raises(ValueError, match=r"cache: embeddings of .* are missing"):
        encoder.classes(["cat", "cow"], TEMPLATES)


def test_the_key_contains_everything_that_the_embeddings_depend_on(encoder, labelled, tmp_path):
    encoder.images(labelled, False)
    encoder.images(labelled, True)
    encoder.images(replace(labelled, rows=labelled.rows.select(range(4))), False)
    assert len(files(tmp_path, "images")) == 3
    encoder.classes(["cat", "dog"], TEMPLATES)
    encoder.classes(["dog", "cat"], TEMPLATES)
    encoder.classes(["cat", "dog"], Templates(TEMPLATES.lines[:1], "ours"))
    encoder.classes(["cat", "dog"], replace(TEMPLATES, source="elsewhere"))  # the same templates
    assert len(files(tmp_path, "classes")) == 3


def test_a_damaged_file_is_replaced(encoder, labelled, tmp_path):
    images = encoder.images(labelled, False)
    (path,) = files(tmp_path, "images")
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(encoder.images(labelled, False), images)
    assert path.stat().st_size > 50 and files(tmp_path, "images") == [path]


def test_an_undecodable_image_is_reported_with_its_set_and_leaves_no_file(encoder, labelled, tmp_path):
    rows = labelled.rows.to_list()
    rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][:40]
    damaged = replace(labelled, rows=type(labelled.rows).from_list(rows, features=labelled.rows.features))
    with pytest.raises(ValueError, match=r"data: cifar-10 \(.*rows\.parquet\), from row 0: .*row 3"):
        encoder.images(damaged, False)
    assert not files(tmp_path, "images")
