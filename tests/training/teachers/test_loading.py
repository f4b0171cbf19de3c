"""Checkpoints that lack a weight, or whose tokenizer or config does not fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_teachers import save_teacher
from training.demo.make_teacher import train_tokenizer
from training.teachers import FAMILIES, DualEncoder
from training.teachers.lineage import join_licenses, read_license
from training.teachers.loading import load_model


def test_a_missing_weight_matters_only_to_its_tower(tmp_path, tokenizer):
    cut = save_teacher("clip", tmp_path, tokenizer)
    weights = load_file(cut / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, cut / "model.safetensors", metadata={"format": "pt"})
    load_model(str(cut), FAMILIES["clip"], ("vision",), torch.float32, None)
    with pytest.raises(ValueError, match=r"^model: .*'text_projection\.weight'"):
        load_model(str(cut), FAMILIES["clip"], ("text",), torch.float32, None)


def test_weights_of_other_sizes_are_refused(tmp_path, tokenizer):
    folder = save_teacher("clip", tmp_path, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^teacher: .*lacks .*'text_model\..*mlp\.fc1\.bias'"):
        DualEncoder.from_pretrained(folder, field="teacher")


@pytest.mark.parametrize("size", [400, 800])
def test_a_tokenizer_of_another_model_is_refused(size, tmp_path, train_rows, tokenizer):
    folder = save_teacher("clip", tmp_path, tokenizer)
    train_tokenizer([*train_rows["en"], *train_rows["zh"]], size).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"^teacher: the tokenizer"):
        DualEncoder.from_pretrained(folder, field="teacher")


def test_licenses_of_our_own_models_are_those_of_their_origins(tmp_path):
    """The Hub has one name for several licenses: other."""
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    assert read_license(str(tmp_path), None) == "other"
    config = {"teacher_license": "openrail and mit", "base_model_license": "cc-by-nc-4.0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_license(str(tmp_path), None) == "openrail and mit and cc-by-nc-4.0"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n")  # of the data
    assert read_license(str(tmp_path), None) == "cc-by-sa-4.0"
    assert join_licenses([None]) == "unknown"
    assert join_licenses([]) is None
