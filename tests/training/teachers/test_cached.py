"""A finished cache, written by hand: each row, view and caption has a value of its own."""

from pathlib import Path

import pytest
import torch

from training.teachers import cached_targets as shards
from training.teachers.cached_targets import CachedTargets, TargetCacheError
from training.teachers.targets import TargetSpec

ROWS, VIEWS = 5, 2
CAPTIONS = ["a", "bb", "ccc", "dddd"]  # as many tokens as letters
SPEC = TargetSpec(("vision", "text"), grid=(2, 2), token_maps=True)


def value(view: int, row: int) -> float:
    return 100.0 * (view + 1) + row


@pytest.fixture
def files(tmp_path, monkeypatch) -> tuple[list[Path], list[Path]]:
    """Shards of images and of captions, with three rows each."""
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 3)
    monkeypatch.setattr(shards, "CAPTIONS_PER_SHARD", 3)
    images = []
    for view in range(VIEWS):
        for rows in torch.arange(ROWS).split(3):
            values = torch.tensor([value(view, row) for row in rows.tolist()]).half()
            maps = values[:, None, None, None] + torch.arange(4).view(2, 2).half() / 4
            images.append(tmp_path / f"image-{len(images)}")
            shards.save({"embedding": values[:, None], "feature_map": maps}, images[-1])
    captions = []
    for texts in (CAPTIONS[:3], CAPTIONS[3:]):
        lengths = torch.tensor([len(text) for text in texts])
        tensors = {
            "embedding": lengths[:, None].half(),
            "states": lengths.repeat_interleave(lengths)[:, None].half(),
            "start": torch.tensor([0, *lengths.cumsum(0)]),
        }
        captions.append(tmp_path / f"captions-{len(captions)}")
        shards.save(tensors, captions[-1])
    return images, captions


def test_targets_are_those_of_the_row_and_its_view(files):
    batch = {"rows": torch.tensor([4, 0, 4, 2]), "view_ids": torch.tensor([1, 0, 0, 1])}
    found = CachedTargets(SPEC, *files, VIEWS).images(torch.empty(0), batch)
    expected = torch.tensor([value(1, 4), value(0, 0), value(0, 4), value(1, 2)])
    assert torch.equal(found.embedding, expected[:, None])
    maps = (expected[:, None, None] + torch.arange(4).view(2, 2) / 4).half().float()
    assert torch.equal(found.feature_map[:, 0], maps)


def test_captions_have_their_own_states_and_zeros_after_them(files):
    batch = {"caption_ids": torch.tensor([3, 0, 2])}
    found = CachedTargets(SPEC, *files, VIEWS).texts(batch)
    assert found.embedding[:, 0].tolist() == [4, 1, 3]
    assert found.feature_map[..., 0].tolist() == [[4, 4, 4, 4], [1, 0, 0, 0], [3, 3, 3, 0]]


def test_a_shard_that_cannot_be_opened_is_named_at_once(files):
    path = files[0][3]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TargetCacheError, match=path.name):
        CachedTargets(SPEC, *files, VIEWS)


def test_a_changed_shard_is_found_in_the_background_and_named(files):
    path = files[0][3]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    targets = CachedTargets(SPEC, *files, VIEWS)
    with pytest.raises(TargetCacheError, match=f"{path.name} is damaged: checksum mismatch"):
        targets.check()
        targets._checking.join()
        targets.texts({"caption_ids": torch.tensor([0])})


def test_whole_shards_pass_the_check(files):
    targets = CachedTargets(SPEC, *files, VIEWS)
    targets.check()
    targets._checking.join()
    targets.check()


def test_targets_that_are_not_finite_are_not_stored(tmp_path):
    with pytest.raises(TargetCacheError, match="embedding"):
        shards.save({"embedding": torch.tensor([1.0, float("inf")])}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
