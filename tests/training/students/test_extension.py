"""A student backbone that no recipe of ours names, as CONTRIBUTING.md describes it: two configs, no code."""

import torch
import yaml

from training.config import StudentConfig
from training.students import build_student

RECIPE = """
vision_config: {model_type: timm_wrapper, architecture: resnet10t, model_args: {features_only: true, out_indices: [4]}}
text_config: {model_type: distilbert, dim: 32, hidden_dim: 64, n_layers: 1, n_heads: 2}
image_size: 64
"""


def test_any_backbone_of_timm_and_transformers_is_a_student(teacher, images, texts):
    config = StudentConfig(**yaml.safe_load(RECIPE), text_pooling="mean")
    student, processor = build_student(config, ["en", "zh"], teacher)
    with torch.no_grad():
        outputs = student.eval()(**processor(images=images, text=texts, return_tensors="pt"))
    assert outputs.logits_per_image.shape == (len(images), len(texts))
    assert outputs.vision_model_output.feature_map.ndim == 4
