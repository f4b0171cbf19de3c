"""The frozen lower part and the trained upper part of each tower.

The lower part of a tower is frozen, so its output for an image or a text is computed once. Training then runs the
upper part alone.
"""

import torch
from torch import Tensor, nn

from modeling_dcclip import DCCLIPModel
from training.demo.photo_teacher.fast_linear import LinearAsConvolution


class LowerImageTower(nn.Module):
    """The frozen part of the image tower: all stages but the last.

    Args:
        model: Teacher; the module shares its parameters.
    """

    def __init__(self, model: DCCLIPModel):
        super().__init__()
        tower = model.vision_model.timm_model
        self.stages = nn.Sequential(tower.conv_stem, tower.bn1, *tower.blocks[:-1])

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute the feature maps that enter the last stage.

        Args:
            pixel_values: Normalized images, (B, 3, 224, 224) float32.

        Returns:
            (B, 208, 7, 7) float32.
        """
        return self.stages(pixel_values)


class UpperImageTower(nn.Module):
    """The last stage of the image tower, its final convolution, and mean pooling. BatchNorm keeps its statistics.

    Args:
        model: Teacher; the module shares its parameters.
    """

    def __init__(self, model: DCCLIPModel):
        super().__init__()
        tower = model.vision_model.timm_model
        self.stage, self.conv_head, self.bn2 = tower.blocks[-1], tower.conv_head, tower.bn2
        # faster on a CPU; torch types `to` without memory_format
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, maps: Tensor) -> Tensor:
        """Pool feature maps.

        Args:
            maps: Feature maps of `LowerImageTower`, (B, 208, 7, 7) float32.

        Returns:
            (B, 1280) float32.
        """
        maps = maps.contiguous(memory_format=torch.channels_last)
        return self.bn2(self.conv_head(self.stage(maps))).mean((2, 3))

    def train(self, mode: bool = True) -> "UpperImageTower":
        """Stay in eval mode, because the batches of a step come from different data sets with different statistics.

        Args:
            mode: Ignored mode, as in `torch.nn.Module.train`.
        """
        return super().train(False)


class UpperTextTower(nn.Module):
    """The last layers of the text tower and mean pooling.

    Args:
        model: Teacher; the module shares its parameters.
        num_layers: Number of layers, counted from the top.
    """

    def __init__(self, model: DCCLIPModel, num_layers: int):
        super().__init__()
        layers = model.text_model.encoder.layer
        if num_layers > len(layers):
            raise ValueError(f"text_layers: is {num_layers}, but the text tower has only {len(layers)} layers.")
        self.layers = layers[len(layers) - num_layers :]

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool token states.

        Args:
            states: Outputs of the layer below, (B, L, 384) float32.
            mask: Attention mask, (B, L), 1 for a token and 0 for padding.

        Returns:
            (B, 384) float32.
        """
        weights = mask.to(states.dtype)
        bias = (1 - weights)[:, None, None] * torch.finfo(states.dtype).min  # (B, 1, 1, L)
        with LinearAsConvolution():
            for layer in self.layers:
                states = layer(states, bias)
        return (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
