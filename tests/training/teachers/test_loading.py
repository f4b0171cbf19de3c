"""Checkpoints that lack a weight, or whose tokenizer or config does not fit."""

import json
import os
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPSegConfig,
    CLIPSegModel,
    CLIPSegProcessor,
)

from tests.tiny import PROJECTION_DIM, SMALL, VIT, make_image_processor, make_model, save_student
from tests.tiny_teachers import NUM_POSITIONS, VISION, save_teacher
from training.experiments.demo.make_teacher import train_tokenizer
from training.students import load_student
from training.teachers import FAMILIES, DualEncoder
from training.teachers.lineage import join_licenses, read_license
from training.teachers.loading import load_model, open_config


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


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "num_layers", "n_layer", "depths", "num_labels"]
)
def test_a_million_layers_are_refused_before_they_are_built(tmp_path, key):
    number = [2, 10**6] if key == "depths" else 10**6
    config = {"model_type": "clip", "text_config": {key: number}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"{key} is 1000000, expected -?1 to \d"):
        open_config("teacher", str(tmp_path))


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        ("text_config", {"vocab_size": 4_000_000, "hidden_size": 65_536}),
        ("text_config", {"num_hidden_layers": 100, "intermediate_size": 1_000_000}),
        ("vision_config", {"image_size": 4096, "patch_size": 1}),
    ],
)
@pytest.mark.parametrize("load", [DualEncoder.from_pretrained, load_student])
def test_a_config_that_asks_for_more_than_the_weights_have_is_refused(
    load, part, sizes, tmp_path, tokenizer, processor
):
    if load is load_student:
        save_student(tmp_path, make_model(VIT), processor)
    else:
        save_teacher("clip", tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part] |= sizes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"^\w+: the config\.json .* asks for [\d,]{11,} parameters, .* bytes"
    ):
        load(tmp_path)


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_folder_without_a_config_is_not_a_checkpoint(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"^student: .* is neither a folder with a config\.json"):
        open_config("student", str(tmp_path))


@pytest.mark.parametrize("value", [None, [], "text", 3, True])
@pytest.mark.parametrize("key", ["text_config", "vision_config", "audio_config"])
def test_the_config_of_a_part_is_an_object(key, value, tmp_path):
    config = {"model_type": "clip", "text_config": {}, "vision_config": {}, key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if (key, value) == ("audio_config", None):  # a model without this part
        assert open_config("teacher", str(tmp_path)).audio_config is None
    else:
        with pytest.raises(
            ValueError, match=rf"^teacher: the config\.json of .*{key} is {re.escape(repr(value))}"
        ):
            open_config("teacher", str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_read(tmp_path, tokenizer, name):
    folder = save_teacher("clip", tmp_path, tokenizer)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=rf"^teacher: .*{name}.* is a pipe or a device"):
        open_config("teacher", str(folder))


@pytest.mark.parametrize("size", [400, 800])
def test_a_tokenizer_of_another_model_is_refused(size, tmp_path, train_rows, tokenizer):
    folder = save_teacher("clip", tmp_path, tokenizer)
    train_tokenizer([*train_rows["en"], *train_rows["zh"]], size).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"^teacher: the tokenizer"):
        DualEncoder.from_pretrained(folder, field="teacher")


@pytest.fixture
def clipseg(tmp_path, tokenizer):
    """A checkpoint of a family without a row."""
    torch.manual_seed(0)
    vocabulary = len(tokenizer)
    text = SMALL | {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": vocabulary - 1}
    text["max_position_embeddings"] = NUM_POSITIONS
    config = CLIPSegConfig(text_config=text, vision_config=VISION, projection_dim=PROJECTION_DIM)
    CLIPSegModel(config).save_pretrained(tmp_path)
    CLIPSegProcessor(make_image_processor(), tokenizer).save_pretrained(tmp_path)
    return tmp_path


def test_a_model_of_a_family_without_a_row_is_loaded_as_transformers_does(
    clipseg, tokenizer, inputs
):
    model = DualEncoder.from_pretrained(clipseg)
    own = CLIPSegModel.from_pretrained(clipseg).eval()
    pixel_values = inputs["pixel_values"]
    with torch.no_grad():
        texts = own.get_text_features(**tokenizer(["owl"], return_tensors="pt")).pooler_output
        images = own.get_image_features(pixel_values).pooler_output
    torch.testing.assert_close(torch.from_numpy(model.encode_texts(["owl"])), F.normalize(texts))
    torch.testing.assert_close(model.embed_images(pixel_values), F.normalize(images))
    long = [text for length in (NUM_POSITIONS, 2 * NUM_POSITIONS) for text in ["owl " * length]]
    assert np.array_equal(*model.encode_texts(long, truncate=True))


def test_a_family_without_a_row_is_loaded_whole_or_not_at_all(clipseg):
    with pytest.raises(ValueError, match=r"^teacher: .*'clipseg'"):
        DualEncoder.from_pretrained(clipseg, ("text",), field="teacher")
    weights = load_file(clipseg / "model.safetensors")
    removed = [name for name in weights if name.endswith("q_proj.weight")]
    for name in removed:
        del weights[name]
    save_file(weights, clipseg / "model.safetensors", metadata={"format": "pt"})
    lacks = rf"^model: .* lacks {len(removed)} weights of a CLIPSegModel, such as '{min(removed)}'"
    with pytest.raises(ValueError, match=lacks):
        DualEncoder.from_pretrained(clipseg)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (clipseg / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"^model: .* cannot be loaded \("):
        DualEncoder.from_pretrained(clipseg)


def test_a_model_of_one_tower_is_refused(clipseg, tokenizer):
    BertModel(BertConfig(**SMALL, vocab_size=len(tokenizer))).save_pretrained(clipseg)
    with pytest.raises(ValueError, match=r"^model: .*\(BertModel\) lacks a tower"):
        DualEncoder.from_pretrained(clipseg)


def test_code_of_a_model_is_not_run_before_someone_has_read_it(clipseg):
    config = json.loads((clipseg / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.M"}}
    (clipseg / "config.json").write_text(json.dumps(config))
    (clipseg / "mine.py").write_text("raise SystemExit\n")
    with pytest.raises(ValueError, match=r"^model: .* comes with its own code\. Read it"):
        DualEncoder.from_pretrained(clipseg)


def test_the_config_of_a_checkpoint_is_opened_or_named(clipseg):
    assert open_config("student.text_init", str(clipseg)).model_type == "clipseg"
    for name, value in {"model_type": "no_such", "projection_dim": 10**9}.items():
        config = json.loads((clipseg / "config.json").read_text()) | {name: value}
        (clipseg / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"^student\.text_init: .*{value}"):
            open_config("student.text_init", str(clipseg))


def test_licenses_of_our_own_models_are_those_of_their_origins(tmp_path):
    """The Hub has one name for several licenses: other."""
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    assert read_license(str(tmp_path), None) == "other"
    config = {"teacher_license": "openrail and mit", "base_model_license": "cc-by-nc-4.0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_license(str(tmp_path), None) == "openrail and mit and cc-by-nc-4.0"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n")  # license of the data
    assert read_license(str(tmp_path), None) == "cc-by-sa-4.0"
    assert join_licenses([None]) == "unknown"
    assert join_licenses([]) is None
