import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.tiny import VIT, XLM_ROBERTA, make_image_processor, make_model
from tests.training.data.rows import make_cell, make_rows
from tests.variants import ignored_fields
from training.config import AugmentConfig, DataConfig
from training.data import CaptionTokenizer, PairDataset
from training.data.images import Augment
from training.teachers import TOWERS, DualEncoder
from training.teachers import cache as build
from training.teachers import cached_targets as shards
from training.teachers.cache import _Captions, _Images, build_target_cache, teacher_folder
from training.teachers.cached_targets import TargetCacheError
from training.teachers.targets import LiveTargets, TargetSpec
from training.utils.keys import make_key

AUGMENT = Augment(AugmentConfig(zoom=0.3, rotate=10, flip=0.5), seed=5)
SPEC = TargetSpec(TOWERS, grid=(4, 4), token_maps=True)
NUM_VIEWS = 2


@pytest.fixture(scope="module")
def vit_teacher(tokenizer, teacher):
    """Its feature map is finer than that of some students; its text tower has dropout, which is off in eval mode."""
    model = make_model(
        VIT, XLM_ROBERTA | {"hidden_dropout_prob": 0.5}, vision_pooling="cls", seed=3
    )
    return DualEncoder(
        model.eval(),
        SimpleNamespace(tokenizer=tokenizer, image_processor=teacher.image_processor),
        "tiny-vit",
    )


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Shards of seven rows or captions."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (build, shards):
            patch.setattr(module, "ROWS_PER_SHARD", 7)
            patch.setattr(module, "CAPTIONS_PER_SHARD", 7)
        yield


@pytest.fixture(scope="module")
def dataset(train_rows, tokenizer):
    """Images larger than those that the teacher takes."""
    rows = train_rows.select(range(40))
    return PairDataset(rows, DataConfig(train="tiny"), CaptionTokenizer(tokenizer, 32), 80)


@pytest.fixture(scope="module")
def cache(vit_teacher, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return folder, build_target_cache(folder, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)


@pytest.fixture
def copied(cache, vit_teacher, dataset, tmp_path):
    """One of many shards of a copy of the cache, and a function that opens this copy."""
    folder = shutil.copytree(cache[0], tmp_path / "copied")
    (shard,) = folder.rglob("view-001-00003.safetensors")
    arguments = folder, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS
    return shard, lambda: build_target_cache(*arguments)


@pytest.fixture(scope="module")
def batch(dataset):
    return dataset.collate(
        [(row, row % NUM_VIEWS, row % NUM_VIEWS, dataset[row]) for row in (3, 30, 12, 7, 21)]
    )


def augmented(batch):
    return AUGMENT(batch["images"], AUGMENT.views(batch["rows"], batch["view_ids"]))


def assert_close(found, expected, tolerance=2e-3):
    """Half precision rounds."""
    for name in ("feature_map", "embedding"):
        pair = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance)


def test_cached_images_equal_live_ones(cache, vit_teacher, batch):
    views = augmented(batch)
    live = LiveTargets(vit_teacher, SPEC).images(views, batch)
    assert_close(cache[1].images(views, batch), live)
    assert_close(cache[1].images(views, cache[1].read(batch)), live)  # by the loader
    other = cache[1].images(views, batch | {"view_ids": 1 - batch["view_ids"]})
    # far more than the tolerance
    assert (other.feature_map - live.feature_map).abs().mean() > 0.02


def test_cached_texts_equal_live_ones(cache, vit_teacher, batch, monkeypatch):
    monkeypatch.setattr("training.teachers.targets.CPU_CHUNK", 3)
    live = LiveTargets(vit_teacher, SPEC).texts(batch)
    cached = cache[1].texts(batch)
    assert torch.equal(cache[1].texts(cache[1].read(batch)).embedding, cached.embedding)
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
    dataset = PairDataset(rows, config, CaptionTokenizer(tokenizer, 32), 64)
    spec = TargetSpec(("vision",), (8, 8))
    cached = build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, spec, 1)
    batch = dataset.collate([(row, 0, 0, dataset[row]) for row in (0, 2, 3)])
    views = augmented(batch)
    live = LiveTargets(vit_teacher, spec).images(views, batch)
    assert_close(cached.images(views, cached.read(batch)), live)
    assert cached.views[0]["feature_map"].shape == (4, 32, 4, 4)


def test_the_keys_name_everything_that_the_targets_depend_on(vit_teacher, dataset, tmp_path):
    images = _Images(tmp_path, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)
    captions = _Captions(tmp_path, vit_teacher, dataset, SPEC)
    assert ignored_fields(make_key, images.key()) == []
    assert ignored_fields(make_key, captions.key()) == []


@pytest.fixture(scope="module")
def changes(vit_teacher, dataset, train_rows, other_tokenizer):
    """Other arguments of `build_target_cache`, by the field of a key that differs."""
    rows, others = (train_rows.select(range(start, start + 40)) for start in (0, 40))
    tokens = dataset.tokens
    cleaned = CaptionTokenizer(tokens.tokenizer, 32, tokens.tokenizer, clean=str.lower)
    images = make_image_processor()
    images.image_std = [0.5, 0.5, 0.5]

    def data(rows, tokens=tokens, size=80):
        return {"dataset": PairDataset(rows, dataset.config, tokens, size)}

    def remade(**fields):
        parts = {name: getattr(vit_teacher, name) for name in ("tokenizer", "image_processor")}
        parts = SimpleNamespace(**parts | fields)
        return {"teacher": DualEncoder(vit_teacher.model, parts, vit_teacher.name)}

    return {
        "seed": {"augment": replace(AUGMENT, seed=6)},
        "images": data(others),
        "image_size": data(rows, size=48),
        "image_std": remade(image_processor=images),
        "captions": data(others) | {"spec": replace(SPEC, towers=("text",))},
        "cleaning": data(rows, cleaned),
        "tokenizer": remade(tokenizer=other_tokenizer),
    }


def test_a_cache_of_other_targets_is_refused_and_kept(cache, changes, vit_teacher, dataset):
    folder = cache[0]
    arguments = {"teacher": vit_teacher, "dataset": dataset}
    arguments |= {"augment": AUGMENT, "spec": SPEC, "num_views": NUM_VIEWS}
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")}
    for field, change in changes.items():
        with pytest.raises(TargetCacheError, match=rf"^teacher_cache: .*[(; ]{field}: "):
            build_target_cache(folder, **arguments | change)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")} == before


def test_a_damaged_key_is_named(vit_teacher, dataset, tmp_path):
    folder = teacher_folder(tmp_path, vit_teacher)
    folder.mkdir()
    (folder / "images.json").write_text("")
    with pytest.raises(TargetCacheError, match=r"^teacher_cache: .*images\.json"):
        build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)


def test_a_run_without_maps_uses_a_cache_that_has_them(cache, vit_teacher, dataset, batch):
    spec = TargetSpec(TOWERS)
    found = build_target_cache(cache[0], vit_teacher, dataset, AUGMENT, spec, NUM_VIEWS)
    read, expected = found.read(batch), cache[1].read(batch)
    assert read.keys() == {"image_targets", "text_targets"}
    assert torch.equal(read["image_targets"], expected["image_targets"])


def test_a_cache_above_the_limit_is_refused_with_its_size(vit_teacher, dataset, tmp_path):
    with pytest.raises(TargetCacheError, match=r"take up to .* GB, more than teacher_cache_gb"):
        build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS, max_gb=1e-6)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_announced_size_is_that_of_the_files(vit_teacher, dataset, tmp_path, caplog):
    spec = replace(SPEC, grid=(2, 2))
    build_target_cache(tmp_path, vit_teacher, dataset, AUGMENT, spec, NUM_VIEWS)
    (message,) = [record for record in caplog.records if "takes up to" in record.message]
    files = [load_file(file) for file in tmp_path.rglob("*.safetensors")]
    size = sum(tensor.nbytes for tensors in files for tensor in tensors.values())
    assert message.args[1] * 1e9 == pytest.approx(size, rel=0.1)


@pytest.mark.slow
def test_two_processes_compute_different_shards_of_one_cache(
    vit_teacher, dataset, tmp_path, monkeypatch
):
    def note(tensors, path):
        (tmp_path / f"by-{PartialState().process_index}").mkdir(exist_ok=True)
        (tmp_path / f"by-{PartialState().process_index}" / path.name).touch()
        shards.save(tensors, path)

    monkeypatch.setattr(build, "save", note)

    def run():
        torch.set_num_threads(1)
        PartialState(cpu=True)
        build_target_cache(tmp_path / "cache", vit_teacher, dataset, AUGMENT, SPEC, NUM_VIEWS)

    AcceleratorState._reset_state(reset_partial_state=True)
    debug_launcher(run)
    first, second = ({path.name for path in (tmp_path / f"by-{n}").iterdir()} for n in (0, 1))
    assert len(first & second) == 0
    assert abs(len(first) - len(second)) <= 1


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


def test_a_shard_that_cannot_be_opened_is_named_at_once(copied):
    shard, open_cache = copied
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(TargetCacheError, match=shard.name):
        open_cache()


def test_a_changed_shard_is_found_in_the_background_and_named(copied, batch):
    shard, open_cache = copied
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    targets = open_cache()
    with pytest.raises(TargetCacheError, match=f"{shard.name} is damaged: checksum mismatch"):
        targets.check()
        targets._checking.join()
        targets.texts(batch)


def test_whole_shards_pass_the_check(copied):
    targets = copied[1]()
    targets.check()
    targets._checking.join()
    targets.check()


def test_targets_that_are_not_finite_are_not_stored(tmp_path):
    with pytest.raises(TargetCacheError, match="embedding"):
        shards.save({"embedding": torch.tensor([1.0, float("inf")])}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
