from dataclasses import replace

import pytest
import torch

from tests.tiny import VIT, XLM_ROBERTA, make_model
from training.config import AugmentConfig, DataConfig
from training.data import PairDataset
from training.target_cache import LiveTargets, TargetCacheError, build_target_cache, resample_map
from training.teachers import Teacher
from training.transforms import Augment

AUGMENT = Augment(AugmentConfig(zoom=0.3, rotate=10, flip=0.5), seed=5)
GRID = (4, 4)
NUM_VIEWS = 2


@pytest.fixture(scope="module")
def vit_teacher(tokenizer, teacher) -> Teacher:
    """Its map is finer than some students' and its text has dropout, so that forgetting eval would show."""
    model = make_model(VIT, XLM_ROBERTA | {"hidden_dropout_prob": 0.5}, vision_pooling="cls", seed=3)
    return Teacher(model, tokenizer, teacher.image_processor, "tiny-vit")


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer) -> PairDataset:
    return PairDataset(train_rows.select(range(40)), DataConfig(train="tiny"), tokenizer, 64, 32)


@pytest.fixture(scope="module")
def cache(vit_teacher, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return folder, build_target_cache(folder, vit_teacher, dataset, AUGMENT, GRID, NUM_VIEWS)


@pytest.fixture(scope="module")
def batch(dataset) -> dict:
    return dataset.collate([(row, row % NUM_VIEWS, dataset[row]) for row in (3, 30, 12, 7, 21)])


def augmented(batch: dict) -> torch.Tensor:
    return AUGMENT(batch["pictures"], batch["picture_ids"], batch["views"])


def test_cached_pictures_equal_live_ones(cache, vit_teacher, batch):
    views = augmented(batch)
    live, cached = LiveTargets(vit_teacher, GRID).pictures(views, batch), cache[1].pictures(views, batch)
    for name in ("feature_map", "embedding"):
        torch.testing.assert_close(getattr(cached, name), getattr(live, name), rtol=2e-3, atol=2e-3)
    other_views = cache[1].pictures(views, batch | {"views": 1 - batch["views"]})
    assert (other_views.feature_map - live.feature_map).abs().mean() > 0.02  # the tolerance would not hide a mix-up


def test_cached_texts_equal_live_ones(cache, vit_teacher, batch):
    live, cached = LiveTargets(vit_teacher, GRID).texts(batch), cache[1].texts(batch)
    torch.testing.assert_close(cached.embedding, live.embedding, rtol=2e-3, atol=2e-3)
    mask = batch["attention_mask"].bool()
    assert cached.feature_map.shape == live.feature_map.shape
    torch.testing.assert_close(cached.feature_map[mask], live.feature_map[mask], rtol=4e-3, atol=4e-3)


def test_a_finished_cache_is_opened_and_not_computed_again(cache, vit_teacher, dataset):
    before = {file.name: file.stat().st_mtime_ns for file in cache[0].iterdir()}
    build_target_cache(cache[0], vit_teacher, dataset, AUGMENT, GRID, NUM_VIEWS)
    assert {file.name: file.stat().st_mtime_ns for file in cache[0].iterdir()} == before


def test_an_interrupted_cache_goes_on_at_the_missing_file(cache, vit_teacher, dataset):
    folder, _ = cache
    content = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "view-001.safetensors").unlink()
    (folder / "captions.safetensors").unlink()
    kept = (folder / "view-000.safetensors").stat().st_mtime_ns
    build_target_cache(folder, vit_teacher, dataset, AUGMENT, GRID, NUM_VIEWS)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == content
    assert (folder / "view-000.safetensors").stat().st_mtime_ns == kept


@pytest.mark.parametrize("field", ["teacher", "teacher_weights", "augment", "seed", "grid", "num_views", "captions"])
def test_a_cache_of_something_else_is_refused_with_the_field_named(field, cache, vit_teacher, dataset, train_rows):
    teacher, augment, grid, num_views = vit_teacher, AUGMENT, GRID, NUM_VIEWS
    if field == "teacher":
        teacher = Teacher(teacher.model, teacher.tokenizer, teacher.image_processor, "another")
    elif field == "teacher_weights":
        model = make_model(VIT, vision_pooling="cls", seed=4)
        teacher = Teacher(model, teacher.tokenizer, teacher.image_processor, teacher.name)
    elif field == "augment":
        augment = replace(augment, config=replace(augment.config, rotate=11))
    elif field == "seed":
        augment = replace(augment, seed=6)
    elif field == "grid":
        grid = (2, 2)
    elif field == "num_views":
        num_views = 3
    else:
        # equal in all but the texts
        rows = train_rows.select(range(40))
        rows = rows.remove_columns("en").add_column("en", [f"{text}!" for text in rows["en"]])
        fingerprint = dataset.fingerprint
        dataset = PairDataset(rows, dataset.config, dataset.tokenizer, 64, 32)
        dataset.fingerprint = fingerprint
    before = {file.name: file.read_bytes() for file in cache[0].iterdir()}
    with pytest.raises(TargetCacheError, match=rf"holds targets for {field}="):
        build_target_cache(cache[0], teacher, dataset, augment, grid, num_views)
    assert {file.name: file.read_bytes() for file in cache[0].iterdir()} == before


def test_resampling_to_the_same_grid_changes_nothing():
    feature_map = torch.arange(32.0).view(1, 2, 4, 4)
    assert resample_map(feature_map, [4, 4]) is feature_map


def test_resampling_to_half_keeps_the_mean_and_a_flat_map():
    feature_map = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    halved = resample_map(feature_map, (4, 4))
    assert halved.shape == (2, 3, 4, 4)
    torch.testing.assert_close(halved.mean((2, 3)), feature_map.mean((2, 3)), atol=0.03, rtol=0)
    torch.testing.assert_close(resample_map(torch.ones(1, 1, 8, 8), (3, 5)), torch.ones(1, 1, 3, 5))
    assert halved.std() < feature_map.std()  # antialiased: neighbours are averaged, not dropped


def test_a_coarse_teacher_map_is_stored_coarse_and_given_on_the_student_grid(dataset, vit_teacher, batch, tmp_path):
    cached = build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, (8, 8), 2)
    assert cached.views[0]["feature_map"].shape[2:] == (4, 4)
    live = LiveTargets(vit_teacher, (8, 8)).pictures(augmented(batch), batch)
    assert live.feature_map.shape[2:] == (8, 8)
    found = cached.pictures(augmented(batch), batch).feature_map
    torch.testing.assert_close(found, live.feature_map, rtol=2e-3, atol=2e-3)
