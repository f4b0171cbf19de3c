import os
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState

from tests.tiny import VIT, XLM_ROBERTA, make_image_processor, make_model
from tests.training.data.rows import BROKEN, make_rows
from training.config import AugmentConfig, DataConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.images import Augment
from training.teachers import TOWERS, DualEncoder
from training.teachers import cache as module
from training.teachers.cache import build_target_cache
from training.teachers.targets import LiveTargets, TargetSpec

AUGMENT = Augment(AugmentConfig(zoom=0.3, rotate=10, flip=0.5), seed=5)
SPEC = TargetSpec(TOWERS, grid=(4, 4), token_maps=True)
NUM_VIEWS = 2


@pytest.fixture(scope="module")
def vit_teacher(tokenizer, teacher):
    """Its feature map is finer than that of some students; its text tower has dropout, which is off in eval mode."""
    text = XLM_ROBERTA | {"hidden_dropout_prob": 0.5}
    model = make_model(VIT, text, vision_pooling="cls", seed=3).eval()
    parts = SimpleNamespace(tokenizer=tokenizer, image_processor=teacher.image_processor)
    return DualEncoder(model, parts, "tiny-vit")


@pytest.fixture(scope="module")
def build_cache(vit_teacher, dataset):
    """Function that builds or opens a cache in a folder; keyword arguments change what it is made of."""
    defaults = {
        "teacher": vit_teacher,
        "dataset": dataset,
        "augment": AUGMENT,
        "spec": SPEC,
        "num_views": NUM_VIEWS,
    }

    def make(folder, **changes):
        return build_target_cache(folder, **defaults | changes)

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of the cache. Tests must not write into it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Shards of seven rows or captions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_PER_SHARD", 7)
        patch.setattr(module, "CAPTIONS_PER_SHARD", 7)
        yield


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer):
    """Images larger than those that the teacher takes."""
    rows = train_rows.select(range(40))
    return PairDataset(rows, DataConfig(train="tiny"), CaptionTokenizer(tokenizer, 32), 80)


@pytest.fixture(scope="module")
def cache(build_cache, folder):
    return build_cache(folder)


@pytest.fixture(scope="module")
def batch(dataset):
    keys = [(3, 1), (30, 0), (12, 0), (7, 1), (21, 1)]
    return dataset.collate([(row, view, view, dataset[row]) for row, view in keys])


@pytest.fixture(scope="module")
def views(batch):
    return AUGMENT(batch["images"], AUGMENT.views(batch["rows"], batch["view_ids"]))


def assert_close(found, expected, tolerance=2e-3):
    """Half precision rounds."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_cached_images_equal_live_ones(cache, vit_teacher, batch, views):
    live = LiveTargets(vit_teacher, SPEC).images(views, batch)
    read = cache.read(batch)
    found = cache.images(views, read)
    assert_close(found.feature_map, live.feature_map)
    assert_close(found.embedding, live.embedding)
    other = cache.read(batch | {"view_ids": 1 - batch["view_ids"]})
    # far more than the tolerance
    assert (other["image_maps"] - read["image_maps"]).abs().mean() > 0.02


def test_cached_texts_equal_live_ones(cache, vit_teacher, batch, monkeypatch):
    monkeypatch.setattr("training.teachers.targets.CPU_CHUNK", 3)
    live = LiveTargets(vit_teacher, SPEC).texts(batch)
    cached = cache.texts(batch | cache.read(batch))
    assert_close(cached.embedding, live.embedding)
    mask = batch["attention_mask"].bool()
    assert cached.feature_map.shape == live.feature_map.shape
    assert_close(cached.feature_map[mask], live.feature_map[mask], tolerance=4e-3)


def test_finished_cache_needs_no_tower_of_the_teacher(build_cache, tmp_path, teacher_folder):
    options = {"spec": replace(SPEC, grid=(2, 2)), "num_views": 1}
    whole = DualEncoder.from_pretrained(str(teacher_folder))
    build_cache(tmp_path, teacher=whole, **options)
    without = DualEncoder.from_pretrained(str(teacher_folder), towers=())
    without.with_towers = None  # loading a tower would fail
    build_cache(tmp_path, teacher=without, **options)


@pytest.mark.parametrize("batch_size", [1, 4], ids=["alone in its batch", "among others"])
def test_a_damaged_image_shifts_no_row_and_no_map_is_finer_than_the_teachers(
    build_cache, vit_teacher, images, tokenizer, tmp_path, batch_size
):
    cells = [images[0], BROKEN, images[2], images[3]]
    rows = make_rows(cells, en=["frog", "cat", "dog", "fox"])
    config = DataConfig(train="tiny", max_skip_share=0.5, caption_columns={"en": "en"})
    dataset = PairDataset(rows, config, CaptionTokenizer(tokenizer, 32), 64)
    spec = TargetSpec(("vision",), (8, 8))
    options = {"spec": spec, "num_views": 1, "batch_size": batch_size}
    cached = build_cache(tmp_path, dataset=dataset, **options)
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in (0, 2, 3)])
    views = AUGMENT(batch["images"], AUGMENT.views(batch["rows"], batch["view_ids"]))
    live = LiveTargets(vit_teacher, spec).images(views, batch)
    assert_close(cached.read(batch)["image_targets"].float(), live.embedding)
    assert cached.views[0]["feature_map"].shape == (4, 32, 4, 4)


@pytest.fixture(scope="module")
def changes(vit_teacher, dataset, train_rows, other_tokenizer):
    """Other arguments of `build_target_cache`, by the field of a key that differs."""
    rows = train_rows.select(range(40))
    tokens = dataset.tokens
    cleaned = CaptionTokenizer(tokens.tokenizer, 32, tokens.tokenizer, clean=str.lower)
    shorter = CaptionTokenizer(tokens.tokenizer, 31, tokens.tokenizer)
    others = PairDataset(train_rows.select(range(40, 80)), dataset.config, tokens, 80)
    images = make_image_processor()
    images.image_std = [0.5, 0.5, 0.5]

    def remade(**fields):
        parts = {name: getattr(vit_teacher, name) for name in ("tokenizer", "image_processor")}
        return DualEncoder(vit_teacher.model, SimpleNamespace(**parts | fields), vit_teacher.name)

    weights = make_model(VIT, XLM_ROBERTA, seed=4)
    return {
        "teacher.revision": {"teacher": DualEncoder(weights, vit_teacher.processor, "tiny-vit")},
        "seed": {"augment": replace(AUGMENT, seed=6)},
        "augment.zoom": {"augment": replace(AUGMENT, config=replace(AUGMENT.config, zoom=0.5))},
        "teacher_views": {"num_views": NUM_VIEWS + 1},
        "images": {"dataset": others},
        "image_size": {"dataset": PairDataset(rows, dataset.config, tokens, 48)},
        "image_std": {"teacher": remade(image_processor=images)},
        "captions": {"dataset": others, "spec": replace(SPEC, towers=("text",))},
        "cleaning": {"dataset": PairDataset(rows, dataset.config, cleaned, 80)},
        "squash": {"dataset": PairDataset(rows, dataset.config, tokens, 80, squash=True)},
        "max_text_length": {
            "dataset": PairDataset(rows, dataset.config, shorter, 80),
            "spec": replace(SPEC, towers=("text",)),
        },
        "tokenizer": {"teacher": remade(tokenizer=other_tokenizer)},
    }


def test_a_cache_of_other_targets_is_refused_and_kept(cache, folder, changes, build_cache):
    def times():
        return {file: file.stat().st_mtime_ns for file in folder.glob("*/*.safetensors")}

    before = times()
    for field, change in changes.items():
        with pytest.raises(ValueError, match=rf"^teacher_cache: .*[(; ]{re.escape(field)}: "):
            build_cache(folder, **change)
    assert times() == before


def test_a_run_without_maps_uses_and_completes_a_cache_that_has_them(
    cache, folder, build_cache, batch, tmp_path
):
    copied = shutil.copytree(folder, tmp_path / "copied")
    for name in ("view-001-00001.safetensors", "00002.safetensors"):
        (path,) = copied.rglob(name)
        path.unlink()
    read = build_cache(copied, spec=TargetSpec(TOWERS)).read(batch)
    assert read.keys() == {"image_targets", "text_targets"}
    completed = build_cache(copied).read(batch)
    torch.testing.assert_close(completed, cache.read(batch), rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_compute_different_shards_of_one_cache(build_cache, tmp_path, monkeypatch):
    save = module._save

    def note(tensors, path):
        own = tmp_path / f"by-{PartialState().process_index}"
        own.mkdir(exist_ok=True)
        (own / path.name).touch()
        save(tensors, path)

    monkeypatch.setattr(module, "_save", note)

    def run():
        torch.set_num_threads(1)
        PartialState(cpu=True)
        build_cache(tmp_path / "cache")

    AcceleratorState._reset_state(reset_partial_state=True)
    debug_launcher(run)
    first = set(os.listdir(tmp_path / "by-0"))
    second = set(os.listdir(tmp_path / "by-1"))
    assert first.isdisjoint(second)
    assert abs(len(first) - len(second)) <= 1


def test_what_keeps_a_cache_from_being_filled_is_named_and_the_build_resumes(
    build_cache, vit_teacher, tmp_path, monkeypatch, caplog
):
    def save_half(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", save_half)
        with pytest.raises(OSError, match="Finished shards are kept: free some space"):
            build_cache(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        with pytest.raises(ValueError, match=r"GB free\. Name a folder"):
            build_cache(tmp_path)
    assert os.listdir(tmp_path / "images") == ["view-000-00000.safetensors"]
    with monkeypatch.context() as patch:
        infinite = module.Targets(torch.zeros(1, 8, 4, 4), torch.full((1, 4), torch.inf))
        patch.setattr(vit_teacher, "image_targets", lambda pixels: infinite)
        with pytest.raises(ValueError, match="embedding is not finite in"):
            build_cache(tmp_path)
    build_cache(tmp_path)
    (shard,) = tmp_path.rglob("view-001-00003.safetensors")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ValueError, match=shard.name):
        build_cache(tmp_path)
    (tmp_path / "images.json").write_text("")
    with pytest.raises(ValueError, match=r"^teacher_cache: .*images\.json"):
        build_cache(tmp_path)
