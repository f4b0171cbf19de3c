"""Tiny models of the real classes, and recipes for them. All random weights are seeded."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPImageProcessor, XLMRobertaTokenizer

from modeling_dcclip import DCCLIPConfig, DCCLIPModel, DCCLIPProcessor
from training.config import AugmentConfig, DataConfig, DistillRecipe, StudentConfig
from training.hub import save_model

ROOT = Path(__file__).parents[1]
IMAGE_SIZE = 64
PROJECTION_DIM = 16
MAX_TEXT_LENGTH = 32

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
NO_DROPOUT: dict[str, Any] = SMALL | {
    "model_type": "xlm-roberta",
    "max_position_embeddings": 40,
    "type_vocab_size": 1,
}
NO_DROPOUT |= dict.fromkeys(DROPOUT, 0.0)
XLM_ROBERTA: dict[str, Any] = NO_DROPOUT | dict.fromkeys(DROPOUT, 0.1)
BERT: dict[str, Any] = XLM_ROBERTA | {"model_type": "bert"}
WHOLE_MOBILENET: dict[str, Any] = {
    "model_type": "timm_wrapper",
    "architecture": "mobilenetv4_conv_small_050",
}
MOBILENET: dict[str, Any] = WHOLE_MOBILENET | {
    "model_args": {"features_only": True, "out_indices": [4]}
}
# few layers, where tracing or conversion is slow
SMALL_MOBILENET: dict[str, Any] = MOBILENET | {
    "model_args": {"features_only": True, "out_indices": [3]}
}
SMALL_XLM_ROBERTA: dict[str, Any] = XLM_ROBERTA | {"num_hidden_layers": 1}
WHOLE_EFFICIENTNET: dict[str, Any] = {
    "model_type": "timm_wrapper",
    "architecture": "tf_efficientnet_lite0",
}
GETTER = {"features_only": True, "feature_cls": "getter", "out_indices": [3]}
CUT_EFFICIENTNET: dict[str, Any] = WHOLE_EFFICIENTNET | {"model_args": GETTER}
VIT: dict[str, Any] = SMALL | {"model_type": "vit", "image_size": IMAGE_SIZE, "patch_size": 16}
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
}
RESNET |= {"depths": [1] * 4, "layer_type": "basic"}
SWIN = {
    "img_size": IMAGE_SIZE,
    "window_size": 2,
    "embed_dim": 8,
    "depths": [1] * 4,
    "num_heads": [1] * 4,
}
TIMM_SWIN: dict[str, Any] = WHOLE_MOBILENET | {
    "architecture": "swin_tiny_patch4_window7_224",
    "model_args": SWIN,
}


def make_config(
    vision: dict = VIT, text: dict = XLM_ROBERTA, vocabulary: int = 600, **fields: Any
) -> DCCLIPConfig:
    special = {"vocab_size": vocabulary, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    fields = {
        "image_size": IMAGE_SIZE,
        "projection_dim": PROJECTION_DIM,
        "max_text_length": MAX_TEXT_LENGTH,
    } | fields
    return DCCLIPConfig(vision_config=dict(vision), text_config=special | text, **fields)


def make_model(
    vision: dict = VIT, text: dict = XLM_ROBERTA, seed: int = 0, **fields: Any
) -> DCCLIPModel:
    torch.manual_seed(seed)
    return settle_statistics(DCCLIPModel(make_config(vision, text, **fields)))


@torch.no_grad()
def settle_statistics(model: DCCLIPModel) -> DCCLIPModel:
    """Set the BatchNorm statistics from a batch, as after training. With the initial statistics, a deep random tower
    returns the same for every image, and a test would not notice that the statistics were lost.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    if norms:
        size = (model.config.image_size, model.config.image_size)
        patches = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        images = torch.nn.functional.interpolate(4 * patches - 2, size, mode="bicubic")
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        model.vision_model.train()(pixel_values=images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model.eval()


def make_image_processor(size: int = IMAGE_SIZE) -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The content of an image file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def student_config(**fields: Any) -> StudentConfig:
    defaults: dict[str, Any] = {
        "vision_config": RESNET,
        "text_config": XLM_ROBERTA,
        "max_text_length": 32,
    }
    return StudentConfig(**(defaults | fields))


def recipe_fields(output_dir: Path, source: Path | str, **fields: Any) -> dict[str, Any]:
    """Fields that all small runs share."""
    data = DataConfig(train=str(source), in_memory=True)
    defaults = {"output_dir": str(output_dir), "data": data, "augment": AugmentConfig()}
    return defaults | {"max_steps": 2, "batch_size": 8, "warmup_steps": 2, "log_every": 1} | fields


def load_tiny_rows() -> Dataset:
    """A data source that recipes name as `tests.tiny:load_tiny_rows`."""
    return Dataset.from_dict(
        {"image": ["a.png", "b.png"], "en": ["red apple", "frog"], "zh": ["红苹果", "青蛙"]}
    )


def list_tiny_rows() -> list[dict[str, Any]]:
    """The same rows as a list, which is no data set."""
    return load_tiny_rows().to_list()


def train_unigram(texts: list[str], vocabulary_size: int) -> XLMRobertaTokenizer:
    """Train a Unigram tokenizer of XLM-R's class and layout, with at most `vocabulary_size` pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    options = {
        "special_tokens": ["<s>", "<pad>", "</s>", "<unk>"],
        "unk_token": "<unk>",
        "show_progress": False,
    }
    trainer = trainers.UnigramTrainer(vocab_size=vocabulary_size, **options)
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=64)


def save_untrained(
    folder: Path, processor: DCCLIPProcessor, vision: dict = RESNET, **fields: Any
) -> str:
    """Write a student with random weights that a recipe can name, and return its folder."""
    make_model(vision, seed=3, **fields).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_student(folder: Path, model: DCCLIPModel, processor: DCCLIPProcessor):
    """Write a student as training leaves it."""
    recipe = DistillRecipe(
        **recipe_fields(folder, "some/images", teacher="some/teacher", student=student_config())
    )
    save_model(folder, model, processor, recipe)
