"""Partial loading of a checkpoint: which weights arrive, and in which precision."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_teachers import save_teacher
from training.teachers import FAMILIES
from training.teachers.loading import load_model

PREFIXES = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_teacher("clip", tmp_path_factory.mktemp("clip"), tokenizer)


@pytest.mark.parametrize("towers", [("vision",), ("text",), (), ("vision", "text")])
def test_only_the_towers_asked_for_are_loaded_with_their_weights(folder, towers):
    model = load_model(str(folder), FAMILIES["clip"], towers, torch.bfloat16, None)
    kept = tuple(prefix for tower in towers for prefix in PREFIXES[tower])
    stored = load_file(folder / "model.safetensors")
    expected = {name: value for name, value in stored.items() if name == "logit_scale" or name.startswith(kept)}
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value.bfloat16()) for name, value in expected.items())


def test_a_missing_weight_matters_only_to_its_tower(folder, tmp_path, tokenizer):
    cut = save_teacher("clip", tmp_path, tokenizer)
    weights = load_file(cut / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, cut / "model.safetensors", metadata={"format": "pt"})
    load_model(str(cut), FAMILIES["clip"], ("vision",), torch.float32, None)
    with pytest.raises(ValueError, match=r"^teacher: .*'text_projection\.weight'"):
        load_model(str(cut), FAMILIES["clip"], ("text",), torch.float32, None)
