"""Partial loading of a checkpoint: which weights arrive, and in which precision."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_teachers import save_teacher
from training.demo.make_teacher import train_tokenizer
from training.evaluation.zero_shot_model import ZeroShotModel
from training.teachers import FAMILIES, Teacher
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


@pytest.mark.parametrize("size", [400, 800])
def test_a_tokenizer_of_another_model_is_refused(size, tmp_path, train_rows, tokenizer):
    folder = save_teacher("clip", tmp_path, tokenizer)
    train_tokenizer([*train_rows["en"], *train_rows["zh"]], size).save_pretrained(folder)
    for load, field in ((Teacher.from_pretrained, "teacher"), (ZeroShotModel.from_pretrained, "model")):
        with pytest.raises(ValueError, match=f"^{field}: the tokenizer"):
            load(str(folder))


def test_a_damaged_size_is_refused_by_evaluation(tmp_path, tokenizer):
    path = save_teacher("clip", tmp_path, tokenizer) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["text_config"]["num_hidden_layers"] = 1_000_000
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^model: .*num_hidden_layers is 1000000"):
        ZeroShotModel.from_pretrained(tmp_path)
