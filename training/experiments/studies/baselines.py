"""Models to measure, as graphs: our sizes and two baselines with random weights, and finished students."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import AltCLIPConfig, AltCLIPModel, BertConfig, BertModel

from modeling_dcclip import DCCLIPModel
from training.data import evenly_spaced_rows
from training.edge.graphs import quantize, write_graph
from training.edge.towers import TextTower, VisionTower
from training.evaluation.sets.class_names import SETS, ClassNames
from training.experiments.demo.make_teacher import TEACHER_FOLDER
from training.students import SIZES, build_student, load_size
from training.text.tokenizers import load_tokenizer
from training.text.writing_systems import LANGUAGES

TEMPLATES = {"en": "a photo of a {}.", "zh": "一张{}的照片。"}
NUM_TEXTS, MAX_LENGTH, IMAGE_SIZE = 32, 64, 224  # inputs of the baselines
MAX_PROTOBUF_BYTES = 2**31  # larger weights are stored next to the graph


class ChineseCLIPRN50(nn.Module):
    """CLIP's ResNet-50 with attention pooling, and RoBERTa with three layers.

    Source: cn_clip/clip/model_configs/RN50.json and RBT3-chinese.json of OFA-Sys/Chinese-CLIP.
    """

    def __init__(self):
        super().__init__()
        self.vision_model = timm.create_model("resnet50_clip", num_classes=1024)
        config = BertConfig(vocab_size=21128, num_hidden_layers=3)
        self.text_model = BertModel(config, add_pooling_layer=False)
        self.text_projection = nn.Linear(config.hidden_size, 1024, bias=False)

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        """Encode images."""
        return SimpleNamespace(pooler_output=self.vision_model(pixel_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Encode texts by their first token."""
        states = self.text_model(input_ids, attention_mask).last_hidden_state
        return SimpleNamespace(pooler_output=self.text_projection(states[:, 0]))


def _altclip() -> nn.Module:
    """ViT-L/14 and XLM-R large, the default of transformers.

    Source: config.json of BAAI/AltCLIP on the Hub.
    """
    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    vision = sizes | {"image_size": IMAGE_SIZE, "patch_size": 14}
    return AltCLIPModel(AltCLIPConfig(vision_config=vision, text_config={}, projection_dim=768))


BASELINES: dict[str, Callable[[], nn.Module]] = {
    "chinese-clip-rn50": ChineseCLIPRN50,
    "altclip": _altclip,
}
NAMES = (*SIZES, *BASELINES)


@dataclass(frozen=True)
class ModelFacts:
    """A model to measure.

    Args:
        parameters: Number of its parameters.
        graphs: Files of its image and its text tower, by backend.
        image_size: Edge of its images in pixels.
        texts: Token ids of texts, by language.
    """

    parameters: int
    graphs: dict[str, tuple[Path, Path]]
    image_size: int
    texts: dict[str, list[list[int]]]

    def bytes(self, backend: str) -> int:
        """Size of both graphs, with weights that are stored next to them."""
        files = [
            file for path in self.graphs[backend] for file in path.parent.glob(f"{path.name}*")
        ]
        return sum(file.stat().st_size for file in files)


def build(name: str) -> Any:
    """A size or a baseline with random weights, or the finished student in a folder."""
    torch.manual_seed(0)
    if name in BASELINES:
        return BASELINES[name]()
    if name not in SIZES:
        return DCCLIPModel.from_pretrained(name, dtype=torch.float32)
    tokenizer = str(TEACHER_FOLDER)
    size = load_size(name, vision_init="random", text_init="random", tokenizer=tokenizer)
    return build_student(size, [*LANGUAGES])[0]


def write_graphs(name: str, folder: Path, backends: Sequence[str]) -> ModelFacts:
    """Write both towers of a model in fp32, and in int8 if it is among the backends, to a new folder."""
    folder.mkdir()
    model = build(name)
    is_student = isinstance(model, DCCLIPModel)
    size = model.config.image_size if is_student else IMAGE_SIZE
    max_length = model.config.max_text_length if is_student else MAX_LENGTH
    batch, length = Dim("batch_size"), Dim("sequence_length", max=max_length)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.ones(2, 5, dtype=torch.int64)
    for tower, module, example, shapes in (
        ("vision", VisionTower(model), (pixels,), ({0: batch},)),
        ("text", TextTower(model), (ids, ids), ({0: batch, 1: length},) * 2),
    ):
        fp32 = folder / f"{tower}-onnx-fp32.onnx"
        weights = getattr(model, f"{tower}_model").parameters()
        external = sum(each.nbytes for each in weights) >= MAX_PROTOBUF_BYTES
        write_graph(module, tower, example, shapes, fp32, external_data=external)
        if "onnx-int8" in backends:
            images = iter(np.split(pixels.numpy(), 2))
            quantize(fp32, tower, folder / f"{tower}-onnx-int8.onnx", images)
    # models built from a config share the demo's tokenizer
    tokenizer = load_tokenizer(str(TEACHER_FOLDER) if name in NAMES else name)
    texts = {}
    for language, queries in sample_texts().items():
        encoded = tokenizer(queries, truncation=True, max_length=max_length)
        texts[language] = encoded["input_ids"]
    parameters = sum(each.numel() for each in model.parameters())
    graphs = {
        backend: (folder / f"vision-{backend}.onnx", folder / f"text-{backend}.onnx")
        for backend in backends
    }
    return ModelFacts(parameters, graphs, size, texts)


def sample_texts() -> dict[str, list[str]]:
    """Zero-shot queries in each language for the same classes, evenly spaced over ELEVATER's sets."""
    texts = {}
    for language, template in TEMPLATES.items():
        names: list[str] = []
        for each in SETS:
            names += ClassNames.read(each).in_language(language)
        rows = evenly_spaced_rows(len(names), NUM_TEXTS)
        texts[language] = [template.format(names[row]) for row in rows]
    return texts
