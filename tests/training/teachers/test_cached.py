"""A finished cache, written by hand: each row, view and caption has a value of its own."""

import json

import pytest
import torch

from training.teachers import cached_targets as shards
from training.teachers.cached_targets import CachedTargets, TargetCacheError
from training.teachers.targets import TargetSpec

ROWS, VIEWS, PER_SHARD = 5, 2, 3
CAPTIONS = ["a", "bb", "ccc", "dddd"]  # as many tokens as letters
SPEC = TargetSpec(("vision", "text"), grid=(2, 2), token_maps=True)


def value(view: int, row: int) -> float:
    return 100.0 * (view + 1) + row


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CAPTIONS_PER_SHARD", 3)
    images = {"key": {"num_views": VIEWS}, "num_rows": ROWS, "rows_per_shard": PER_SHARD}
    (tmp_path / "images.json").write_text(json.dumps(images))
    (tmp_path / "captions.json").write_text(json.dumps({"key": {}, "num_captions": len(CAPTIONS)}))
    for view in range(VIEWS):
        for number, rows in enumerate(torch.arange(ROWS).split(PER_SHARD)):
            values = torch.tensor([value(view, row) for row in rows.tolist()]).half()
            tensors = {
                "embedding": values[:, None].repeat(1, 2),
                "feature_map": values[:, None, None, None] + torch.arange(4).view(2, 2).half() / 4,
            }
            shards.save(tensors, shards.view_file(tmp_path, view, number))
    for number, texts in enumerate((CAPTIONS[:3], CAPTIONS[3:])):
        lengths = torch.tensor([len(text) for text in texts])
        tensors = {
            "embedding": lengths[:, None].half(),
            "states": torch.cat(
                [torch.full((length, 1), float(length)) for length in lengths.tolist()]
            ).half(),
            "start": torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
        }
        shards.save(tensors, shards.caption_file(tmp_path, number))
    return tmp_path


def test_targets_are_those_of_the_row_and_its_view(folder):
    targets = CachedTargets(folder, SPEC)
    batch = {"rows": torch.tensor([4, 0, 4, 2]), "view_ids": torch.tensor([1, 0, 0, 1])}
    found = targets.images(torch.zeros(4, 3, 8, 8), batch)
    expected = torch.tensor([value(1, 4), value(0, 0), value(0, 4), value(1, 2)])
    assert (
        torch.equal(found.embedding, expected[:, None].repeat(1, 2)) and targets.num_views == VIEWS
    )
    assert torch.equal(
        found.feature_map[:, 0],
        (expected[:, None, None] + torch.arange(4).view(2, 2) / 4).half().float(),
    )
    other = CachedTargets(folder, TargetSpec(("vision",), grid=(1, 1))).images(
        torch.zeros(4, 3, 8, 8), batch
    )
    torch.testing.assert_close(other.feature_map[:, 0, 0, 0], found.feature_map.mean((1, 2, 3)))


def test_captions_have_their_own_states_and_zeros_after_them(folder):
    found = CachedTargets(folder, SPEC).texts({"caption_ids": torch.tensor([3, 0, 2])})
    assert found.embedding[:, 0].tolist() == [4, 1, 3]
    assert found.feature_map[..., 0].tolist() == [[4, 4, 4, 4], [1, 0, 0, 0], [3, 3, 3, 0]]


def test_a_shard_that_cannot_be_opened_is_named_at_once(folder):
    path = shards.view_file(folder, 1, 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TargetCacheError, match=path.name):
        CachedTargets(folder, SPEC)


def test_a_changed_shard_is_found_in_the_background_and_named(folder):
    path = shards.view_file(folder, 1, 1)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    targets = CachedTargets(folder, SPEC)
    with pytest.raises(TargetCacheError, match=f"{path.name} is damaged: checksum mismatch"):
        targets.check()
        targets._checking.join()
        targets.texts({"caption_ids": torch.tensor([0])})


def test_whole_shards_pass_the_check(folder):
    targets = CachedTargets(folder, SPEC)
    targets.check()
    targets._checking.join()
    targets.check()


@pytest.mark.parametrize("content", ["", "{}"])
def test_a_damaged_key_is_named(folder, content):
    (folder / "images.json").write_text(content)
    with pytest.raises(TargetCacheError, match=r"^teacher_cache: .*images\.json"):
        CachedTargets(folder, SPEC)


def test_targets_that_are_not_finite_are_not_stored(tmp_path):
    with pytest.raises(TargetCacheError, match="embedding"):
        shards.save({"embedding": torch.tensor([1.0, float("inf")])}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
