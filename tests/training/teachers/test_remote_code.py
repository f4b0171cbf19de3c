"""Teachers with code of their own, on a small model with the interface of FG-CLIP 2."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Siglip2ImageProcessor

from tests.tiny import IMAGE_SIZE
from tests.tiny_teachers import NAFLEX_VISION, PATCH_SIZE, TEXT
from tests.training.teachers.fgclip2_code.configuration_fgclip2 import Fgclip2Config
from tests.training.teachers.fgclip2_code.modeling_fgclip2 import Fgclip2Model
from training.config import TeacherConfig
from training.teachers import Teacher

CODE = Path(__file__).parent / "fgclip2_code"
MAX_LENGTH = 64
GRID = IMAGE_SIZE // PATCH_SIZE


@pytest.fixture(scope="module")
def model(tokenizer) -> Fgclip2Model:
    torch.manual_seed(0)
    special = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0}
    text = special | TEXT | {"max_position_embeddings": MAX_LENGTH, "eos_token_id": tokenizer.eos_token_id}
    text |= {"hidden_size": NAFLEX_VISION["hidden_size"], "projection_size": NAFLEX_VISION["hidden_size"]}
    return Fgclip2Model(Fgclip2Config(text_config=text, vision_config=dict(NAFLEX_VISION))).eval()


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory) -> Path:
    """The checkpoint with its code. Tests must not write into it."""
    path = tmp_path_factory.mktemp("fgclip2")
    model.save_pretrained(path)
    for file in CODE.glob("*_fgclip2.py"):
        shutil.copy(file, path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoConfig": "configuration_fgclip2.Fgclip2Config",
        "AutoModelForCausalLM": "modeling_fgclip2.Fgclip2Model",
    }
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    Siglip2ImageProcessor(patch_size=PATCH_SIZE, max_num_patches=GRID * GRID).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def teacher(folder) -> Teacher:
    return Teacher.from_pretrained(str(folder), trust_remote_code=True)


@torch.no_grad()
def test_images_are_cut_into_patches_and_have_a_map(teacher, model, images):
    processor = teacher.image_processor
    inputs = processor([image.resize((IMAGE_SIZE, IMAGE_SIZE)) for image in images[:2]], return_tensors="pt")
    outputs = model.vision_model(inputs.pixel_values, inputs.pixel_attention_mask, inputs.spatial_shapes)
    # patches back to an image: row, column and, fastest, colour channel
    patches = inputs.pixel_values.unflatten(1, (GRID, GRID)).unflatten(3, (PATCH_SIZE, PATCH_SIZE, 3))
    pixels = patches.permute(0, 5, 1, 3, 2, 4).reshape(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    targets = teacher.encode_images(pixels)
    torch.testing.assert_close(targets.embedding, model.get_image_features(**inputs), rtol=1e-4, atol=1e-5)
    assert targets.feature_map.shape == (2, NAFLEX_VISION["hidden_size"], GRID, GRID)
    for row in range(GRID):
        expected = outputs.last_hidden_state[:, GRID * row : GRID * (row + 1)].transpose(1, 2)
        torch.testing.assert_close(targets.feature_map[:, :, row], expected, rtol=1e-4, atol=1e-5)
    assert (teacher.vision_width, teacher.projection_dim, teacher.image_size) == (24, 24, IMAGE_SIZE)


@torch.no_grad()
def test_texts_are_lower_cased_padded_to_64_tokens_and_short(teacher, model, tokenizer):
    texts = ["A Red APPLE", "青蛙"]
    targets = teacher.encode_texts(**teacher.tokenize(texts))
    lower = [text.lower() for text in texts]
    ids = tokenizer(lower, padding="max_length", max_length=MAX_LENGTH, padding_side="right", return_tensors="pt")
    expected = model.get_text_features(ids.input_ids, walk_type="short")
    torch.testing.assert_close(targets.embedding, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, model.get_text_features(ids.input_ids, walk_type="long"), atol=0.1)
    assert teacher.max_text_length == MAX_LENGTH
    assert targets.feature_map is not None and targets.feature_map.shape[2] == teacher.text_width


def test_code_is_run_only_if_it_is_trusted(folder):
    with pytest.raises(
        ValueError, match=r"comes with its own code. Read it, and list the teacher under teachers with"
    ):
        Teacher.from_pretrained(str(folder))
    config = TeacherConfig(teacher=str(folder), trust_remote_code=True)
    assert Teacher.from_pretrained(config.teacher, towers=(), trust_remote_code=config.trust_remote_code).towers == ()
    with pytest.raises(ValueError, match=r"trust_remote_code: the code of 'some/model' can change at any time"):
        Teacher.from_pretrained("some/model", trust_remote_code=True)


def test_a_checkpoint_without_its_code_or_weights_is_refused(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    config["auto_map"].pop("AutoModelForCausalLM")
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no code for AutoModelForCausalLM in the auto_map of its config.json"):
        Teacher.from_pretrained(str(copied), trust_remote_code=True)
    cut = shutil.copytree(folder, tmp_path / "cut")
    weights = load_file(cut / "model.safetensors")
    del weights["longtext_head.bias"]
    save_file(weights, cut / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of a Fgclip2Model, such as 'longtext_head\.bias'"):
        Teacher.from_pretrained(str(cut), trust_remote_code=True)
    (cut / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no safetensors"):
        Teacher.from_pretrained(str(cut), trust_remote_code=True)
