"""Targets that a file states for some captions."""

import pytest
import torch

from training.teachers import Targets
from training.teachers.named_targets import NamedTargets, save_named_targets


class Ones:
    """Targets of a teacher that embeds everything at (1, 1)."""

    num_views = 0

    def read(self, batch):
        return {"text_targets": torch.ones(len(batch["caption_ids"]), 2)}

    def texts(self, batch):
        size = len(batch["caption_ids"])
        return Targets(torch.zeros(size, 3, 2), torch.ones(size, 2))


def test_stated_embeddings_replace_those_of_their_captions_alone(tmp_path):
    path = tmp_path / "names.safetensors"
    stated = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    save_named_targets(path, ["狗", "not in the data"], stated)
    targets = NamedTargets(Ones(), str(path), ["cat", "狗"])
    batch = {"caption_ids": torch.tensor([1, 0, 1])}
    read = targets.read(batch)  # by the workers of a loader
    assert read["text_targets"].tolist() == [[1, 1]] * 3
    found = targets.texts(batch | read)
    assert found.embedding.tolist() == [[0, 2], [1, 1], [0, 2]]
    assert found.feature_map.shape == (3, 3, 2)


def test_a_file_of_other_texts_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "names.safetensors"
    save_named_targets(path, ["dog"], torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"^named_targets: none of the 1 texts of .*names"):
        NamedTargets(Ones(), str(path), ["cat"])
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"^named_targets: .*names.* cannot be read"):
        NamedTargets(Ones(), str(path), ["cat"])
