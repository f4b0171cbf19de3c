"""EmbeddingGemma 2, with random weights, compared with transformers' own model and image processor."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import EmbeddingGemma2Config, EmbeddingGemma2Model
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from training.teachers import DualEncoder

LAYERS = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
}
TEXT = LAYERS | {
    "hidden_size": 24,
    "hidden_size_per_layer_input": 4,
    "embedding_dim": 20,
    "global_head_dim": 16,
    "sliding_window_pattern": 2,
}
VISION = LAYERS | {
    "model_type": "gemma4_vision",
    "hidden_size": 16,
    "patch_size": 2,
    "num_key_value_heads": 2,
    "pooling_kernel_size": 2,
    "position_embedding_size": 64,
}
SIZE = 64  # 16 soft tokens, each of 2 * 2 patches of 2 * 2 pixels, along an edge


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A checkpoint. Tests must not write into it."""
    torch.manual_seed(0)
    size = len(tokenizer) + 8
    special = {
        f"{name}_token_id": size - 1 - number
        for number, name in enumerate(("image", "video", "boi", "eoi"))
    }
    text = TEXT | {
        "vocab_size": size,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = EmbeddingGemma2Config(
        text_config=text, vision_config=VISION, audio_config=None, **special
    )
    folder = tmp_path_factory.mktemp("gemma")
    EmbeddingGemma2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Gemma4ImageProcessorPil(patch_size=2, pooling_kernel_size=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return EmbeddingGemma2Model.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def teacher(folder):
    return DualEncoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def pixels():
    """Two images, (2, 3, 64, 64) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_images_are_encoded_as_by_transformers_own_processor_and_model(teacher, model, pixels):
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
    prepared = Gemma4ImageProcessorPil(patch_size=2, pooling_kernel_size=2)(
        images, return_tensors="pt"
    )
    config, text = model.config, model.config.text_config
    ids = [
        text.bos_token_id,
        config.boi_token_id,
        *[config.image_token_id] * 256,
        config.eoi_token_id,
        text.eos_token_id,
    ]
    states = model(
        input_ids=torch.tensor([ids, ids]),
        pixel_values=prepared["pixel_values"],
        image_position_ids=prepared["image_position_ids"],
    ).last_hidden_state
    found = teacher.image_targets(teacher.images.normalize(pixels))
    torch.testing.assert_close(found.embedding, states.mean(1), rtol=1e-4, atol=1e-5)
    assert teacher.image_size == SIZE
    expected = states[:, 2:-2].mT.unflatten(2, (16, 16))
    torch.testing.assert_close(found.feature_map, expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_without_an_image_tower_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^teacher: the config\.json of .* has no vision_config"):
        DualEncoder.from_pretrained(tmp_path / "model", (), field="teacher")


@torch.no_grad()
def test_texts_are_the_mean_of_their_tokens(teacher, model, tokenizer):
    texts = ["a red frog on a table", "owl"]
    for text, found in zip(texts, teacher.encode_texts(texts), strict=True):
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        expected = F.normalize(states.mean(1), dim=1)[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_tower_loads_alone(tower, folder, teacher, pixels):
    part = DualEncoder.from_pretrained(folder, ()).with_towers((tower,))
    assert hasattr(part.model, "vision_tower") == (tower == "vision")
    if tower == "text":
        assert np.array_equal(part.encode_texts(["owl"]), teacher.encode_texts(["owl"]))
    else:
        pixels = teacher.images.normalize(pixels)
        assert torch.equal(part.embed_images(pixels), teacher.embed_images(pixels))
