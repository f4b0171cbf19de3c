"""Dual encoders to measure, as files for `probe`: our sizes, two baselines with random weights, finished folders."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import Dim
from transformers import AltCLIPConfig, AltCLIPModel, AutoConfig, BertConfig, BertModel

from modeling_dcclip import DCCLIPModel
from training.demo.make_teacher import TEACHER_FOLDER
from training.edge.graphs import quantize, write_graph
from training.evaluation.sets.class_names import SETS, ClassNames
from training.students import SIZES, build_student, load_size
from training.text.tokenizers import load_tokenizer
from training.text.writing_systems import LANGUAGES
from training.utils.files import write_text

FACTS, INPUTS = "facts.json", "inputs.json"
TEMPLATES = {"en": "a photo of a {}.", "zh": "一张{}的照片。"}
NUM_TEXTS, MAX_LENGTH = 32, 64
MAX_PROTOBUF_BYTES = 2**31  # larger weights are stored next to the graph


@dataclass(frozen=True)
class DualEncoder:
    """Two towers with a shared embedding space.

    Args:
        image_tower: Module from pixels (B, 3, S, S) float to embeddings (B, D), including the projection.
        text_tower: Module from token ids (B, L) int64 and a mask (B, L) to embeddings (B, D), with its projection.
        image_size: Edge S of the square input in pixels.
    """

    image_tower: nn.Module
    text_tower: nn.Module
    image_size: int


class _Tower(nn.Module):
    """One tower of a transformers dual encoder: `vision` or `text`."""

    def __init__(self, model: Any, tower: str):
        super().__init__()
        self.model = getattr(model, f"{tower}_model")
        self.projection = model.visual_projection if tower == "vision" else model.text_projection
        # a bound method, so that the whole model is not registered as a submodule
        self._encode = model.get_image_features if tower == "vision" else model.get_text_features

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._encode(*inputs).pooler_output


class _BertTower(nn.Module):
    """BERT with a projection of the first token: the text tower of Chinese-CLIP RN50."""

    def __init__(self, config: BertConfig, projection_dim: int):
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.projection = nn.Linear(config.hidden_size, projection_dim, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.projection(self.bert(input_ids, attention_mask).last_hidden_state[:, 0])


class _Normalized(nn.Module):
    """A tower with L2-normalized embeddings, as in our exports."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, *inputs: Tensor) -> Tensor:
        return nn.functional.normalize(self.tower(*inputs), dim=-1)


def split(model: Any, image_size: int) -> DualEncoder:
    """Split a transformers dual encoder into its towers."""
    return DualEncoder(_Tower(model, "vision"), _Tower(model, "text"), image_size)


def _altclip() -> DualEncoder:
    """ViT-L/14 and XLM-R large, the default of transformers.

    Source: config.json of BAAI/AltCLIP on the Hub.
    """
    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    vision = sizes | {"image_size": 224, "patch_size": 14}
    return split(
        AltCLIPModel(AltCLIPConfig(vision_config=vision, text_config={}, projection_dim=768)), 224
    )


def _chinese_clip_rn50() -> DualEncoder:
    """CLIP's ResNet-50 with attention pooling, and RoBERTa with three layers.

    Source: cn_clip/clip/model_configs/RN50.json and RBT3-chinese.json of OFA-Sys/Chinese-CLIP.
    """
    text = BertConfig(vocab_size=21128, num_hidden_layers=3)
    return DualEncoder(
        timm.create_model("resnet50_clip", num_classes=1024), _BertTower(text, 1024), 224
    )


BASELINES: dict[str, Callable[[], DualEncoder]] = {
    "chinese-clip-rn50": _chinese_clip_rn50,
    "altclip": _altclip,
}
NAMES = (*SIZES, *BASELINES)


def load_weights(name: str, weights: Path) -> DualEncoder:
    """Load the folder of a student, or a baseline that `prepare` wrote, without initializing weights first."""
    if (weights / "config.json").exists():
        model = DCCLIPModel.from_pretrained(weights, dtype=torch.float32)
        return split(model, model.config.image_size)
    with init_empty_weights(include_buffers=False):
        encoder = BASELINES[name]()
    for tower in ("image_tower", "text_tower"):
        getattr(encoder, tower).load_state_dict(
            load_file(weights / f"{tower}.safetensors"), assign=True
        )
    return encoder


def prepare(name: str, model: str | None, folder: Path, backends: list[str]):
    """Write weights, graphs and inputs of a model. `facts.json` is written last and marks the folder as complete.

    Args:
        name: Name of a size or a baseline, or of the folder.
        model: Folder of a finished student, which is only read; None for a size or a baseline.
        folder: Folder for the files.
        backends: Backends to measure; ONNX Runtime's get a graph. If a tower cannot be exported, the facts
            state the reason.
    """
    shutil.rmtree(folder, ignore_errors=True)
    weights = Path(model) if model else folder / "weights"
    torch.manual_seed(0)
    if model is None and name in SIZES:
        size = load_size(
            name, vision_init="random", text_init="random", tokenizer=str(TEACHER_FOLDER)
        )
        build_student(size, [*LANGUAGES])[0].save_pretrained(weights)
    if model is not None or name in SIZES:
        encoder = load_weights(name, weights)
    else:
        weights.mkdir(parents=True)
        encoder = BASELINES[name]()
        for tower in ("image_tower", "text_tower"):
            save_file(getattr(encoder, tower).state_dict(), weights / f"{tower}.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    towers = (encoder.image_tower, encoder.text_tower)
    max_length = AutoConfig.from_pretrained(model).max_text_length if model else MAX_LENGTH
    tokenizer = load_tokenizer(
        model or str(TEACHER_FOLDER)
    )  # models built from a config share the demo's tokenizer
    ids = {
        language: tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        for language, texts in sample_texts().items()
    }
    inputs = {
        "image_size": encoder.image_size,
        "pad_token_id": tokenizer.pad_token_id or 0,
        "texts": ids,
    }
    write_text(folder / INPUTS, json.dumps(inputs))
    facts: dict[str, Any] = {
        "weights": str(weights),
        "parameters": sum(each.numel() for tower in towers for each in tower.parameters()),
        "bytes": {"pytorch": sum(path.stat().st_size for path in weights.glob("*.safetensors"))},
        "failures": {},
    }
    graphs = [backend for backend in backends if backend.startswith("onnx")]
    try:
        if graphs:
            _write_graphs(encoder, folder, max_length, "onnx-int8" in graphs)
        for backend in graphs:
            files = folder.glob(f"*-{backend}.onnx*")
            facts["bytes"][backend] = sum(path.stat().st_size for path in files)
    except Exception as error:  # three libraries are involved, and their errors share no base class
        facts["failures"] = dict.fromkeys(
            graphs, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        )
    write_text(folder / FACTS, json.dumps(facts))


def _write_graphs(encoder: DualEncoder, folder: Path, max_length: int, int8: bool):
    batch, length = Dim("batch_size"), Dim("sequence_length", max=max_length)
    pixels = torch.randn(
        2, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0)
    )
    ids = torch.ones(2, 5, dtype=torch.int64)
    for tower, module, example, shapes in (
        ("vision", encoder.image_tower, (pixels,), [{0: batch}]),
        ("text", encoder.text_tower, (ids, ids), [{0: batch, 1: length}] * 2),
    ):
        fp32 = folder / f"{tower}-onnx-fp32.onnx"
        external = sum(parameter.nbytes for parameter in module.parameters()) >= MAX_PROTOBUF_BYTES
        write_graph(
            _Normalized(module), tower, example, (tuple(shapes),), fp32, external_data=external
        )
        if int8:
            images = iter(np.split(pixels.numpy(), 2))
            quantize(fp32, tower, folder / f"{tower}-onnx-int8.onnx", images)


def sample_texts() -> dict[str, list[str]]:
    """Zero-shot queries in each language for the same classes, evenly spaced over ELEVATER's sets."""
    names = [ClassNames.read(name).names for name in SETS]
    texts = {}
    for language, template in TEMPLATES.items():
        queries = [template.format(name) for by_language in names for name in by_language[language]]
        texts[language] = [
            queries[round(position)] for position in np.linspace(0, len(queries) - 1, NUM_TEXTS)
        ]
    return texts
