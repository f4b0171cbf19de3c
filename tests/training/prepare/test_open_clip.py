"""Checkpoints of open_clip as teachers, compared with open_clip itself on tiny networks of its true classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP
from safetensors.torch import load_file, save_file

from tests.tiny import BERT, IMAGE_SIZE, XLM_ROBERTA
from training.prepare import open_clip as open_clip_conversion
from training.prepare.open_clip import main
from training.students.sources import source_config
from training.teachers import DualEncoder

pytestmark = pytest.mark.slow

VIT_CFG: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "layers": 2,
    "width": 32,
    "head_width": 16,
    "patch_size": 16,
}
TIMM_CFG: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "timm_model_name": "resnet10t",
    "timm_pool": "avg",
    "timm_proj": "linear",
}
SIGLIP_TEXT: dict[str, Any] = {
    "context_length": 16,
    "width": 32,
    "heads": 2,
    "layers": 2,
    "no_causal_mask": True,
    "pool_type": "last",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
KINDS = ["resnet", "siglip", "xlm-roberta", "bert"]
PREPROCESSING = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
TEXTS = [
    "a red apple",
    "  Two DOGS,\n\tplay_in the   snow!  It's 2024.",
    "一只青蛙坐在叶子上。",
    "frog " * 40,
]


def save_open_clip(kind: str, folder: Path, tokenizer: Any) -> Path:
    """A checkpoint in the layout of open_clip, with random weights."""
    vision = {"resnet": VIT_CFG | {"layers": [1, 1, 1, 1], "width": 16}, "siglip": TIMM_CFG}.get(
        kind, VIT_CFG
    )
    tokenizer.save_pretrained(folder)
    if kind == "siglip":
        own = {
            "vocab_size": len(tokenizer),
            "pad_id": tokenizer.pad_token_id,
            "hf_tokenizer_name": str(folder),
        }
        text: dict[str, Any] = SIGLIP_TEXT | own
    else:
        fields = (XLM_ROBERTA if kind == "xlm-roberta" else BERT) | {"vocab_size": len(tokenizer)}
        (folder / "config.json").write_text(
            json.dumps(fields | {"pad_token_id": tokenizer.pad_token_id})
        )
        text = {
            "context_length": 16,
            "hf_model_name": str(folder),
            "hf_model_pretrained": False,
            "hf_tokenizer_name": str(folder),
            "hf_proj_type": "linear" if kind == "xlm-roberta" else "mlp",
            "hf_pooler_type": "mean_pooler"
            if kind == "xlm-roberta"
            else "cls_last_hidden_state_pooler",
        }
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    network = CustomTextCLIP(**config).eval()
    with torch.no_grad():  # a test would not notice a missing norm that is the identity
        for module in network.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config["custom_text"] = True
    content = {
        "model_cfg": config,
        "preprocess_cfg": PREPROCESSING | {"size": [IMAGE_SIZE, IMAGE_SIZE]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def converted(tokenizer, tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """The checkpoint of each kind, and the folder that it was converted to."""
    folders = {}
    for kind in KINDS:
        source = save_open_clip(kind, tmp_path_factory.mktemp("source") / kind, tokenizer)
        folders[kind] = source, tmp_path_factory.mktemp("converted") / kind
        main(["--model", str(source), "--output_dir", str(folders[kind][1])])
    return folders


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_equal_those_of_open_clip(kind, converted, images):
    source, folder = converted[kind]
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{source}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{source}")
    texts = F.normalize(network.eval().encode_text(tokenize(TEXTS)), dim=-1)
    pixels = torch.stack([preprocess(image) for image in images])
    expected = F.normalize(network.encode_image(pixels), dim=-1)
    teacher = DualEncoder.from_pretrained(str(folder))
    found = teacher.text_targets(**teacher.tokenize(TEXTS)).embedding
    torch.testing.assert_close(F.normalize(found, dim=-1), texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        F.normalize(teacher.image_targets(pixels).embedding, dim=-1), expected, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(teacher.encode_texts(TEXTS), texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.embed_images(pixels), expected, atol=1e-5, rtol=0)
    assert teacher.license == "mit" and teacher.logit_scale == pytest.approx(
        network.logit_scale.item()
    )


@torch.no_grad()
def test_feature_maps_are_after_the_final_norm(converted, images):
    teacher = DualEncoder.from_pretrained(str(converted["bert"][1]))
    network = open_clip.create_model(f"local-dir:{converted['bert'][0]}").eval()
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    network.visual.output_tokens = True
    _, tokens = network.visual(pixels)
    feature_map = teacher.image_targets(pixels).required_map
    assert teacher.vision_width == 32 and feature_map.shape == (2, 32, 4, 4)
    torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), tokens)
    timm_teacher = DualEncoder.from_pretrained(str(converted["siglip"][1]))
    assert timm_teacher.image_targets(pixels).required_map.shape == (
        2,
        timm_teacher.vision_width,
        2,
        2,
    )


@torch.no_grad()
def test_a_resnet_gives_pooled_targets_and_no_towers_to_inherit(converted):
    teacher = DualEncoder.from_pretrained(str(converted["resnet"][1]), towers=("vision",))
    targets = teacher.image_targets(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert (
        teacher.vision_width == 0
        and targets.feature_map is None
        and targets.embedding.shape == (1, 16)
    )
    with pytest.raises(ValueError, match=r"student.vision_init: .* open_clip"):
        source_config(str(converted["resnet"][1]), "vision")


def test_weights_of_other_sizes_are_refused(converted, tmp_path):
    folder = shutil.copytree(converted["bert"][1], tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith("proj.weight"))
    save_file(
        weights | {key: weights[key][:-1].clone()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=rf"^model: .*lacks 1 weights .*{key}"):
        DualEncoder.from_pretrained(folder)


def test_a_conversion_that_differs_is_refused(converted, tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(open_clip_conversion, "TOLERANCE", -1.0)
    message = refusal(main, "--model", converted["bert"][0], "--output_dir", tmp_path / "out")
    assert "differ from open_clip" in message
    assert not (tmp_path / "out").exists()


def test_undeclared_text_preparation_is_refused(tmp_path, tokenizer, refusal):
    path = save_open_clip("bert", tmp_path / "bert", tokenizer) / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"strip_sep_token": True}
    path.write_text(json.dumps(content))
    assert "model: " in refusal(main, "--model", path.parent, "--output_dir", tmp_path / "out")
