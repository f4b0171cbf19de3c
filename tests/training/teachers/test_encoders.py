"""Bare encoders as teachers of one tower, against references written out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViTConfig,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.tiny import BERT, IMAGE_SIZE, RESNET, TIMM_SWIN, VIT, XLM_ROBERTA
from tests.tiny_teachers import CONVNEXT, VISION
from training.teachers import Teacher
from training.teachers.encoders import resolve_name, stated_pooling

STATISTICS: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
TIMM_ARCHITECTURE = "test_efficientnet"
TIMM_SIZE, TIMM_WIDTH = 160, 256  # of the architecture, in timm


def save_image_encoder(kind: str, folder: Path) -> Path:
    """A tiny image encoder with its image processor; timm's models state size and statistics themselves."""
    torch.manual_seed(0)
    size = {"shortest_edge": IMAGE_SIZE}, {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = CLIPImageProcessor(size=size[0], crop_size=size[1], **STATISTICS)
    models: dict[str, Any] = {
        "dinov2": lambda: Dinov2Model(Dinov2Config(**VISION)),
        "vit": lambda: ViTModel(ViTConfig(**{key: value for key, value in VIT.items() if key != "model_type"})),
        "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**VISION)),
        "convnext": lambda: ConvNextModel(ConvNextConfig(**{k: v for k, v in CONVNEXT.items() if k != "model_type"})),
        "resnet": lambda: ResNetModel(ResNetConfig(**{k: v for k, v in RESNET.items() if k != "model_type"})),
        "timm": lambda: TimmWrapperModel(TimmWrapperConfig(architecture=TIMM_ARCHITECTURE)),
        "timm_swin": lambda: TimmWrapperModel(
            TimmWrapperConfig(architecture=TIMM_SWIN["architecture"], model_args=TIMM_SWIN["model_args"])
        ),
        "timm_mobilenet": lambda: TimmWrapperModel(TimmWrapperConfig(architecture="mobilenetv4_conv_small_050")),
    }
    model = models[kind]()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):  # a missing norm would not be noticed if it were the identity
            module.weight.data.uniform_(0.5, 1.5)
        elif isinstance(module, torch.nn.Conv2d):  # timm's own start shrinks the signal to 1e-14
            torch.nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder)
    if not kind.startswith("timm"):
        processor.save_pretrained(folder)
    return folder


KINDS = ["dinov2", "vit", "clip", "convnext", "resnet", "timm", "timm_swin", "timm_mobilenet"]


@pytest.fixture(scope="module")
def image_folders(tmp_path_factory) -> dict[str, Path]:
    """Tests must not write into them."""
    return {kind: save_image_encoder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def text_folders(tmp_path_factory, tokenizer, other_tokenizer) -> dict[str, Path]:
    """Two encoders with tokenizers of their own. Tests must not write into them."""
    folders = {}
    for kind, tokens in (("bert", tokenizer), ("xlm-roberta", other_tokenizer)):
        torch.manual_seed(0)
        fields = {key: value for key, value in (BERT | XLM_ROBERTA).items() if key != "model_type"}
        fields |= {"vocab_size": len(tokens), "pad_token_id": 1}
        model = BertModel(BertConfig(**fields)) if kind == "bert" else XLMRobertaModel(XLMRobertaConfig(**fields))
        folders[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folders[kind])
        tokens.save_pretrained(folders[kind])
    return folders


def pixels(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


# images


@torch.no_grad()
def test_dinov2_gives_its_patches_after_the_norm_and_its_cls_token(image_folders):
    teacher = Teacher.from_pretrained(str(image_folders["dinov2"]))
    tower = Dinov2Model.from_pretrained(image_folders["dinov2"]).eval()
    images = pixels(IMAGE_SIZE)
    hidden = F.layer_norm(
        tower(images, output_hidden_states=True).hidden_states[-1],
        (24,),
        tower.layernorm.weight,
        tower.layernorm.bias,
        tower.config.layer_norm_eps,
    )
    targets = teacher.encode_images(images)
    torch.testing.assert_close(targets.embedding, hidden[:, 0], rtol=1e-4, atol=1e-5)
    for row in range(4):
        expected = hidden[:, 1 + 4 * row : 5 + 4 * row].transpose(1, 2)
        torch.testing.assert_close(targets.feature_map[:, :, row], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_pooler_for_fine_tuning_is_left_out(image_folders, tmp_path):
    """Of self-supervised checkpoints of a ViT, the pooler would be random."""
    folder = tmp_path / "vit"
    ViTModel(ViTConfig.from_pretrained(image_folders["vit"]), add_pooling_layer=False).save_pretrained(folder)
    CLIPImageProcessor.from_pretrained(image_folders["vit"]).save_pretrained(folder)
    for path in (folder, image_folders["vit"]):
        images = pixels(IMAGE_SIZE)
        tower = ViTModel.from_pretrained(path, add_pooling_layer=False).eval()
        expected = tower(images).last_hidden_state
        targets = Teacher.from_pretrained(str(path)).encode_images(images)
        torch.testing.assert_close(targets.embedding, expected[:, 0])
        torch.testing.assert_close(targets.feature_map.flatten(2).transpose(1, 2), expected[:, 1:])


@torch.no_grad()
def test_timm_gives_its_last_map_and_its_mean_with_timms_own_size_and_statistics(image_folders):
    teacher = Teacher.from_pretrained(str(image_folders["timm"]))
    network: Any = TimmWrapperModel.from_pretrained(image_folders["timm"]).eval().timm_model
    images = pixels(TIMM_SIZE)
    expected = network.bn2(network.conv_head(network.blocks(network.bn1(network.conv_stem(images)))))
    targets = teacher.encode_images(images)
    torch.testing.assert_close(targets.feature_map, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(targets.embedding, expected.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert (teacher.image_size, teacher.projection_dim) == (TIMM_SIZE, TIMM_WIDTH)
    assert teacher.image_processor.image_mean == (0.485, 0.456, 0.406)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_stated_widths_equal_those_of_the_targets(kind, image_folders):
    opened = Teacher.from_pretrained(str(image_folders[kind]), towers=())
    assert not list(opened.model.parameters()) and opened.towers == ()
    teacher = opened.with_towers(("vision",))
    targets = teacher.encode_images(pixels(teacher.image_size))
    assert targets.feature_map is not None and targets.feature_map.ndim == 4
    assert targets.feature_map.shape[1] == opened.vision_width == teacher.vision_width
    assert targets.embedding.shape == (2, opened.projection_dim)
    assert (opened.text_width, opened.has_logit_scale) == (0, False)


def test_timm_names_are_hub_ids(image_folders):
    assert resolve_name("timm:tf_efficientnet_lite2") == "timm/tf_efficientnet_lite2.in1k"
    assert resolve_name("some/model") == "some/model"
    with pytest.raises(ValueError, match=r"timm has no weights of 'no_such_network' on the Hub"):
        resolve_name("timm:no_such_network")
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = Path(HF_HUB_CACHE, "models--timm--test_efficientnet.r160_in1k")
    shutil.copytree(image_folders["timm"], cached / "snapshots" / commit)
    # as timm writes it: without a model type, with the settings of the weights
    fields = {"architecture": TIMM_ARCHITECTURE, "num_classes": 1000, "num_features": TIMM_WIDTH}
    fields["pretrained_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 128, 128]}
    (cached / "snapshots" / commit / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    teacher = Teacher.from_pretrained(f"timm:{TIMM_ARCHITECTURE}")
    assert (teacher.name, teacher.revision) == ("timm/test_efficientnet.r160_in1k", commit)
    assert (teacher.image_size, teacher.image_processor.image_mean) == (128, (0.1, 0.2, 0.3))
    whole = Teacher.from_pretrained(str(image_folders["timm"]))
    assert torch.equal(teacher.encode_images(pixels(128)).embedding, whole.encode_images(pixels(128)).embedding)


# texts


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_a_text_is_the_mean_of_its_token_states(kind, text_folders):
    teacher = Teacher.from_pretrained(str(text_folders[kind]))
    tower: Any = (BertModel if kind == "bert" else XLMRobertaModel).from_pretrained(text_folders[kind]).eval()
    texts = ["red apple", "a green frog on a red apple", "青蛙"]
    targets = teacher.encode_texts(**teacher.tokenize(texts))
    for row, text in enumerate(texts):
        states = tower(torch.tensor([teacher.tokenizer(text).input_ids])).last_hidden_state[0]
        torch.testing.assert_close(targets.embedding[row], states.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(targets.feature_map[row, : len(states)], states, rtol=1e-4, atol=1e-5)
    assert (teacher.projection_dim, teacher.text_width, teacher.vision_width, teacher.image_size) == (32, 32, 0, 0)
    assert teacher.max_text_length == (38 if kind == "xlm-roberta" else 40)


def with_pooling(folder: Path, target: Path, pooling: dict[str, Any], *extra: str) -> Path:
    """A copy with the files of sentence-transformers."""
    shutil.copytree(folder, target)
    kinds = ["Transformer", "Pooling", *extra]
    modules = [
        {"idx": number, "type": f"sentence_transformers.models.{kind}", "path": f"{number}_{kind}" if number else ""}
        for number, kind in enumerate(kinds)
    ]
    (target / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return target


@torch.no_grad()
@pytest.mark.parametrize(
    ("pooling", "position"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, 0),
        ({"pooling_mode_lasttoken": True}, -1),
        ({"pooling_mode": "lasttoken"}, -1),
    ],
)
def test_pooling_is_that_of_the_sentence_transformers_files(pooling, position, text_folders, tmp_path):
    folder = with_pooling(text_folders["bert"], tmp_path / "model", pooling, "Normalize")
    teacher, plain = Teacher.from_pretrained(str(folder)), Teacher.from_pretrained(str(text_folders["bert"]))
    for text in ("red apple", "a green frog"):
        tokens = teacher.tokenize([text, "a longer text with more words"])
        states = plain.encode_texts(**teacher.tokenize([text])).feature_map
        torch.testing.assert_close(
            teacher.encode_texts(**tokens).embedding[0], states[0, position], rtol=1e-4, atol=1e-5
        )


def test_pooling_or_layers_that_are_not_supported_are_refused(text_folders, tmp_path):
    mean = {"pooling_mode_mean_tokens": True}
    assert stated_pooling(str(with_pooling(text_folders["bert"], tmp_path / "mean", mean)), None) == "mean"
    with pytest.raises(ValueError, match=r"teacher: .*\['Dense'\]"):
        Teacher.from_pretrained(str(with_pooling(text_folders["bert"], tmp_path / "dense", mean, "Dense")))
    for number, pooling in enumerate(({"pooling_mode_max_tokens": True}, mean | {"pooling_mode_cls_token": True})):
        folder = with_pooling(text_folders["bert"], tmp_path / str(number), pooling)
        with pytest.raises(ValueError, match=r"pools its tokens by .*, which is not supported"):
            Teacher.from_pretrained(str(folder))


# one tower
