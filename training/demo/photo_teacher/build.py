"""The teacher before training: pretrained towers, new projections."""

import math
import tempfile
from typing import Any

import torch

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import StudentConfig
from training.demo.packaged_weights import LITE2
from training.demo.photo_teacher.e5 import E5, POSITION_OFFSET, xlm_roberta_weights
from training.demo.photo_teacher.lite2 import Lite2
from training.demo.photo_teacher.recipe import PhotoTeacherRecipe
from training.demo.photo_teacher.tokenizer import make_tokenizer
from training.students import build_student
from training.text.writing_systems import LANGUAGES

IMAGE_SIZE = 224
IMAGE_MEAN = IMAGE_STD = [0.5, 0.5, 0.5]
MAX_POSITIONS = 512
LOGIT_SCALE = 20.0


def build_teacher(e5: E5, lite2: Lite2, recipe: PhotoTeacherRecipe) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Build the model and its processor.

    Args:
        e5: Weights of the text tower and data of the tokenizer.
        lite2: Weights of the image tower.
        recipe: Recipe with the embedding width, the maximum text length, the seed and the licence.

    Returns:
        The model in eval mode, and its processor.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(e5, recipe.max_text_length).save_pretrained(folder)
        model, processor = build_student(_config(e5, recipe, folder), list(LANGUAGES), seed=recipe.seed)
    model.config.teacher_license = recipe.weights_license
    model.vision_model.timm_model.load_state_dict(lite2.tower)
    weights = xlm_roberta_weights(e5)
    words = "embeddings.word_embeddings.weight"
    weights[words] = weights[words][: model.text_model.config.vocab_size]  # the file has 35 rows without a piece
    model.text_model.load_state_dict(weights)
    torch.nn.init.constant_(model.logit_scale, math.log(LOGIT_SCALE))
    return model.eval(), processor


def e5_config(e5: E5) -> dict[str, Any]:
    """Fields of an `XLMRobertaConfig` of multilingual-e5-small, except for the vocabulary."""
    return {
        "hidden_size": e5.width,
        "num_hidden_layers": e5.num_layers,
        "num_attention_heads": e5.num_heads,
        "intermediate_size": e5.feed_forward,
        "max_position_embeddings": MAX_POSITIONS + POSITION_OFFSET,
        "type_vocab_size": 1,
        "layer_norm_eps": e5.epsilon,
    }


def _config(e5: E5, recipe: PhotoTeacherRecipe, tokenizer: str) -> StudentConfig:
    return StudentConfig(
        vision_config={"model_type": "timm_wrapper", "architecture": LITE2.architecture},
        text_config={"model_type": "xlm-roberta", **e5_config(e5)},
        tokenizer=tokenizer,
        image_size=IMAGE_SIZE,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        squash_images=True,  # as the photographs that it is trained on
        projection_dim=recipe.projection_dim,
        max_text_length=recipe.max_text_length,
    )
