import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.tiny import VIT, XLM_ROBERTA, make_model
from tests.training.data.rows import make_cell, make_rows
from training.config import AugmentConfig, DataConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.images import Augment
from training.teachers import TOWERS, DualEncoder
from training.teachers import cache as build
from training.teachers import cached_targets as shards
from training.teachers.cache import build_target_cache, teacher_folder
from training.teachers.cached_targets import TargetCacheError
from training.teachers.targets import LiveTargets, TargetSpec

AUGMENT = Augment(AugmentConfig(zoom=0.3, rotate=10, flip=0.5), seed=5)
SPEC = TargetSpec(TOWERS, grid=(4, 4), token_maps=True)
NUM_VIEWS = 2


@pytest.fixture(scope="module")
def vit_teacher(tokenizer, teacher) -> DualEncoder:
    """Its feature map is finer than that of some students; its text tower has dropout, which is off in eval mode."""
    model = make_model(
        VIT, XLM_ROBERTA | {"hidden_dropout_prob": 0.5}, vision_pooling="cls", seed=3
    )
    return DualEncoder(
        model.eval(),
        SimpleNamespace(tokenizer=tokenizer, image_processor=teacher.image_processor),
        "tiny-vit",
    )


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer) -> PairDataset:
    return PairDataset(
        train_rows.select(range(40)), DataConfig(train="tiny"), CaptionTokenizer(tokenizer, 32), 64
    )


@pytest.fixture(scope="module")
def cache(vit_teacher, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return folder, build_target_cache(folder, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)


@pytest.fixture(scope="module")
def batch(dataset) -> dict:
    return dataset.collate(
        [(row, row % NUM_VIEWS, row % NUM_VIEWS, dataset[row]) for row in (3, 30, 12, 7, 21)]
    )


def augmented(batch: dict) -> torch.Tensor:
    return AUGMENT(batch["images"], AUGMENT.views(batch["rows"], batch["view_ids"]))


def test_cached_images_equal_live_ones(cache, vit_teacher, batch):
    views = augmented(batch)
    live, cached = (
        LiveTargets(vit_teacher, SPEC).images(views, batch),
        cache[1].images(views, batch),
    )
    for name in ("feature_map", "embedding"):
        torch.testing.assert_close(getattr(cached, name), getattr(live, name), rtol=2e-3, atol=2e-3)
    other_views = cache[1].images(views, batch | {"view_ids": 1 - batch["view_ids"]})
    assert (
        other_views.feature_map - live.feature_map
    ).abs().mean() > 0.02  # far more than the tolerance


def test_cached_texts_equal_live_ones(cache, vit_teacher, batch):
    live, cached = LiveTargets(vit_teacher, SPEC).texts(batch), cache[1].texts(batch)
    torch.testing.assert_close(cached.embedding, live.embedding, rtol=2e-3, atol=2e-3)
    mask = batch["attention_mask"].bool()
    assert cached.feature_map.shape == live.feature_map.shape
    torch.testing.assert_close(
        cached.feature_map[mask], live.feature_map[mask], rtol=4e-3, atol=4e-3
    )


def test_finished_cache_needs_no_tower_of_the_teacher(tmp_path, teacher_folder, dataset):
    spec = TargetSpec(TOWERS, grid=(2, 2), token_maps=True)
    build_target_cache(
        tmp_path, DualEncoder.from_pretrained(str(teacher_folder)), dataset, AUGMENT, spec, 1
    )
    without = DualEncoder.from_pretrained(str(teacher_folder), towers=())
    without.with_towers = None  # loading a tower would fail
    build_target_cache(tmp_path, without, dataset, AUGMENT, spec, 1)


def test_a_damaged_image_shifts_no_row_and_no_map_is_finer_than_the_teachers(
    vit_teacher, images, tokenizer, tmp_path
):
    cells = [make_cell(image) for image in images[:4]]
    cells[1] = {"bytes": b"broken", "path": None}
    config = DataConfig(train="tiny", max_skip_share=0.5, caption_columns={"en": "en"})
    rows = make_rows(cells, en=["frog", "cat", "dog", "fox"])
    dataset, spec = (
        PairDataset(rows, config, CaptionTokenizer(tokenizer, 32), 64),
        TargetSpec(("vision",), (8, 8)),
    )
    cached = build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, spec, 1)
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in (0, 2, 3)])
    live, found = (
        source.images(augmented(batch), batch)
        for source in (LiveTargets(vit_teacher, spec), cached)
    )
    for name in ("feature_map", "embedding"):
        torch.testing.assert_close(getattr(found, name), getattr(live, name), rtol=2e-3, atol=2e-3)
    assert cached.views[0][0]["feature_map"].shape == (4, 32, 4, 4)


def test_several_shards_equal_one_file(cache, vit_teacher, dataset, batch, tmp_path, monkeypatch):
    views = augmented(batch)
    whole = (cache[1].images(views, batch), cache[1].texts(batch))
    monkeypatch.setattr(build, "SHARD_BYTES", 2 * 7 * (32 * 16 + 16))
    for module in (build, shards):
        monkeypatch.setattr(module, "CAPTIONS_PER_SHARD", 9)
    sharded = build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)
    assert len(sharded.views[0]) == 6 and len(sharded.captions) > 5
    for found, expected in zip(
        (sharded.images(views, batch), sharded.texts(batch)), whole, strict=True
    ):
        torch.testing.assert_close(found.feature_map, expected.feature_map, rtol=4e-3, atol=4e-3)
        torch.testing.assert_close(found.embedding, expected.embedding, rtol=4e-3, atol=4e-3)


def test_cache_of_other_targets_raises_with_the_field(cache, vit_teacher, dataset, train_rows):
    folder, rows, tokens = cache[0], train_rows.select(range(40)), dataset.tokens
    captions = rows.remove_columns("en").add_column("en", [f"{text}!" for text in rows["en"]])
    changes = {
        "augment": {"augment": replace(AUGMENT, config=replace(AUGMENT.config, rotate=11))},
        "seed": {"augment": replace(AUGMENT, seed=6)},
        "grid": {"spec": replace(SPEC, grid=(2, 2))},
        "num_views": {"num_views": 3},
        "captions": {"dataset": PairDataset(captions, dataset.config, tokens, 64)},
        "images": {
            "dataset": PairDataset(train_rows.select(range(1, 41)), dataset.config, tokens, 64)
        },
        "squash": {"dataset": PairDataset(rows, dataset.config, tokens, 64, squash=True)},
        "max_text_length": {
            "dataset": PairDataset(rows, dataset.config, CaptionTokenizer(tokens.tokenizer, 31), 64)
        },
    }
    same = {
        "teacher": vit_teacher,
        "dataset": dataset,
        "augment": AUGMENT,
        "spec": SPEC,
        "num_views": NUM_VIEWS,
    }
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")}
    build_target_cache(folder, **same)
    for field, change in changes.items():
        with pytest.raises(TargetCacheError, match=rf"^teacher_cache: .* {field}="):
            build_target_cache(folder, **same | change)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")} == before


@pytest.mark.parametrize("field", ["image_mean", "tokenizer"])
def test_cache_of_a_teacher_with_other_preparation_is_refused(
    field, vit_teacher, other_tokenizer, dataset, tmp_path
):
    tokenizer, processor = vit_teacher.tokenizer, copy.deepcopy(vit_teacher.image_processor)
    if field == "tokenizer":
        tokenizer = other_tokenizer
    else:
        processor.image_mean = [0.5, 0.5, 0.5]
    build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, TargetSpec(TOWERS), 1)
    changed = DualEncoder(
        vit_teacher.model,
        SimpleNamespace(tokenizer=tokenizer, image_processor=processor),
        vit_teacher.name,
    )
    with pytest.raises(TargetCacheError, match=f"^teacher_cache: .* {field}="):
        build_target_cache(tmp_path, changed, dataset, AUGMENT, TargetSpec(TOWERS), 1)


def test_full_disk_keeps_finished_shards_and_the_build_resumes(
    vit_teacher, dataset, tmp_path, monkeypatch
):
    save_file = shards.save_file
    written = []

    def save_until_full(tensors, path, metadata):
        if written:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(path)
        save_file(tensors, path, metadata)

    monkeypatch.setattr(shards, "save_file", save_until_full)
    with pytest.raises(OSError, match="Finished shards are kept: free some space"):
        build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)
    assert [file.name for file in (teacher_folder(tmp_path, vit_teacher) / "images").iterdir()] == [
        "view-000-00000.safetensors"
    ]
    monkeypatch.undo()
    build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)
