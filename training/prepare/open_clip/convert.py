"""Convert a checkpoint of open_clip, and compare the result with open_clip."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPImageProcessor, PreTrainedTokenizerBase, VisionTextDualEncoderProcessor

from training.prepare.open_clip.tokens import convert_tokenizer
from training.teachers.open_clip_model import PREFIXES, WEIGHTS_FILE, OpenClipConfig, OpenClipModel
from training.teachers.preparation import square_image_processor

CONFIG_FILE, CARD_FILE = "open_clip_config.json", "README.md"
FILES = (
    "config.json",
    WEIGHTS_FILE,
    CARD_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers
TOLERANCE = 1e-4  # of L2-normalised embeddings
TEXTS = ["a red apple", "Two dogs play in the snow.", "一只青蛙坐在叶子上"]


def convert(model: str, pretrained: str | None, output_dir: str | Path):
    """Convert a checkpoint.

    Args:
        model: Folder with `open_clip_config.json`, Hub id of such a repository, or name of a built-in model.
        pretrained: Tag or file of the weights of a built-in model.
        output_dir: Existing folder for the converted model.

    Raises:
        ValueError: There is no such model, it has no weights, or its embeddings would differ from open_clip's.
    """
    name = _schema_name(model)
    config = open_clip.get_model_config(model) if name == model else _read_config(model)
    if config is None or (name == model and pretrained is None):
        raise ValueError(
            f"model: {model!r} is neither a folder with {CONFIG_FILE}, nor a Hub id, nor a built-in open_clip model "
            "whose weights --pretrained names. open_clip.list_pretrained() lists these."
        )
    try:
        network = open_clip.create_model(name, pretrained=pretrained, force_custom_text=True).eval()
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"model: open_clip cannot load {model!r} ({error}).") from error
    tokenizer = open_clip.get_tokenizer(name)
    converted = convert_tokenizer(tokenizer, config["text_cfg"])
    teacher = _convert_network(network, config)
    _compare(teacher, network, converted, tokenizer)
    folder = Path(output_dir)
    teacher.config.save_pretrained(folder)
    save_file(teacher.state_dict(), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    image_processor = _image_processor(open_clip.get_model_preprocess_cfg(network), teacher.config.image_size)
    VisionTextDualEncoderProcessor(image_processor, converted).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    _copy_card(model, folder)


def _schema_name(model: str) -> str:
    """Name of a model with open_clip's schema; a built-in model has none."""
    if Path(model).is_dir():
        return f"local-dir:{model}"
    return f"hf-hub:{model}" if "/" in model else model


def _read_config(model: str) -> dict[str, Any]:
    try:
        path = Path(model) / CONFIG_FILE
        if not Path(model).is_dir():
            path = Path(hf_hub_download(model, CONFIG_FILE))
        return json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model: {model!r} has no {CONFIG_FILE} with a model_cfg ({error}).") from error


@torch.no_grad()
def _convert_network(network: nn.Module, config: dict[str, Any]) -> OpenClipModel:
    """The same network as a model of transformers, with the widths of its feature maps in the config."""
    source: Any = network
    text_cfg = config["text_cfg"]
    if text_cfg.get("embed_cls") or source.logit_scale.ndim:
        raise ValueError("model: CoCa and models with several logit scales are not supported. Choose another.")
    hf_config = getattr(source.text, "config", None)
    size = source.visual.image_size
    teacher = OpenClipModel(
        OpenClipConfig(
            embed_dim=config["embed_dim"],
            vision_cfg=config["vision_cfg"],
            text_cfg=text_cfg,
            hf_text_config=hf_config.to_dict() if hf_config is not None else None,
            quick_gelu=config.get("quick_gelu", False),
            image_size=size[0] if isinstance(size, (tuple, list)) else size,
            context_length=text_cfg.get("context_length", 77),
        )
    ).eval()
    names = {f"{ours}{name.removeprefix(theirs)}": value for theirs, ours in PREFIXES.items()
             for name, value in source.state_dict().items() if name.startswith(theirs)}  # fmt: skip
    teacher.load_state_dict(names | {"logit_scale": source.logit_scale})
    images = torch.zeros(1, 3, teacher.config.image_size, teacher.config.image_size)
    feature_map = teacher.get_image_features(images).last_hidden_state
    teacher.config.vision_width = 0 if feature_map is None else feature_map.shape[1]
    ids = torch.zeros(1, teacher.config.context_length, dtype=torch.int64)
    teacher.config.text_width = teacher.get_text_features(ids).last_hidden_state.shape[-1]
    return teacher


@torch.no_grad()
def _compare(teacher: OpenClipModel, network: nn.Module, tokenizer: PreTrainedTokenizerBase, original: Any):
    """Compare embeddings of random images and of texts in both languages with open_clip's.

    Raises:
        ValueError: They differ.
    """
    source: Any = network
    size = teacher.config.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    limit = {"max_length": teacher.config.context_length, "padding": "max_length", "truncation": True}
    ids = tokenizer(TEXTS, return_tensors="pt", **limit).input_ids
    pairs: dict[str, tuple[Any, Any]] = {
        "images": (teacher.get_image_features(images).pooler_output, source.encode_image(images)),
        "texts": (teacher.get_text_features(ids).pooler_output, source.encode_text(original(TEXTS))),
    }
    for kind, both in pairs.items():
        found, expected = (F.normalize(each, dim=-1) for each in both)
        difference = (found - expected).abs().max().item()
        if difference > TOLERANCE:
            raise ValueError(
                f"model: the converted model's embeddings of {kind} differ from open_clip's by up to {difference:.1g}."
                " Choose another checkpoint."
            )


def _image_processor(preprocess: dict[str, Any], size: int) -> CLIPImageProcessor:
    """Image processor with open_clip's statistics and resizing."""
    return square_image_processor(
        size,
        preprocess["mean"],
        preprocess["std"],
        squash=preprocess.get("resize_mode", "shortest") == "squash",
        resample=RESAMPLE[preprocess.get("interpolation", "bicubic")],
    )


def _copy_card(model: str, folder: Path):
    """Copy the model card, which names the licence."""
    card = Path(model) / CARD_FILE
    if not Path(model).is_dir() and "/" in model:
        card = Path(hf_hub_download(model, CARD_FILE))
    if card.is_file():
        shutil.copyfile(card, folder / CARD_FILE)
