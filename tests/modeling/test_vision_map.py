"""Detection of an image tower's feature map: layout, grid, widths and prefix tokens."""

import pytest
import torch
from transformers import CLIPVisionConfig

from tests.tiny import (
    CUT_EFFICIENTNET,
    MOBILENET,
    RESNET,
    TIMM_SWIN,
    VIT,
    WHOLE_MOBILENET,
    make_model,
)

CLIP_VISION = {**CLIPVisionConfig().to_diff_dict(), **VIT, "model_type": "clip_vision_model"}
TIMM_REGISTERS = {
    "model_type": "timm_wrapper",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 3},
}
TOWERS = {
    # name: tower, pooling, layout, grid, width, prefix tokens, pooled width
    "mobilenet": (MOBILENET, "mean", "nchw", [2, 2], 480, 0, 480),
    "whole mobilenet, tower pooling": (WHOLE_MOBILENET, "tower", "nchw", [2, 2], 480, 0, 1280),
    "cut efficientnet": (CUT_EFFICIENTNET, "mean", "nchw", [4, 4], 112, 0, 112),
    "vit": (VIT, "cls", "tokens", [4, 4], 32, 1, 32),
    "clip vit": (CLIP_VISION, "mean", "tokens", [4, 4], 32, 1, 32),
    "vit with registers": (TIMM_REGISTERS, "cls", "tokens", [4, 4], 32, 4, 32),
    "resnet": (RESNET, "mean", "nchw", [2, 2], 32, 0, 32),
    "resnet, tower pooling": (RESNET, "tower", "nchw", [2, 2], 32, 0, 32),
    "swin": (TIMM_SWIN, "mean", "nhwc", [2, 2], 64, 0, 64),
}


@pytest.fixture(scope="module", params=TOWERS)
def tower(request):
    vision, pooling, *expected = TOWERS[request.param]
    return make_model(vision, vision_pooling=pooling), expected


@torch.no_grad()
def test_the_feature_map_is_detected_and_the_embedding_is_its_pooled_projection(tower, inputs):
    model, expected = tower
    config = model.config
    assert expected == [
        config.vision_layout,
        list(config.vision_grid),
        config.vision_width,
        config.vision_prefix_tokens,
        config.vision_pooled_width,
    ]
    layout, grid, width, prefix, _ = expected
    output = model.get_image_features(inputs["pixel_values"])
    hidden, feature_map = output.last_hidden_state, output.feature_map
    assert feature_map.shape == (8, width, *grid)
    if layout == "tokens":
        values = hidden[:, prefix:].transpose(1, 2).reshape(feature_map.shape)
    else:
        values = hidden.permute(0, 3, 1, 2) if layout == "nhwc" else hidden
    assert torch.equal(feature_map, values)
    if config.vision_pooling == "mean":
        pooled = output.feature_map.flatten(2).mean(2)
    elif config.vision_pooling == "cls":
        pooled = output.last_hidden_state[:, 0]
    else:
        pooled = model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output.flatten(1)
    torch.testing.assert_close(output.pooler_output, pooled @ model.visual_projection.weight.T)
