"""Exported towers, in the place of a model."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from training.edge.towers import INPUTS

# a file in its own runtime: inputs by name, in the order of `INPUTS`, to embeddings (B, D) of unit length
Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


class ExportedTowers:
    """One or two exported towers, with the methods that zero-shot asks of a model.

    Args:
        config: the model's, by which texts and images are prepared.
        runners: by tower; one that is never asked may be missing.
    """

    device = torch.device("cpu")

    def __init__(self, config: PreTrainedConfig, **runners: Runner):
        self.config, self.runners = config, runners

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_image_features`, but of unit length."""
        return self._features("vision", pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_text_features`, but of unit length."""
        return self._features("text", input_ids, attention_mask)

    def _features(self, tower: str, *inputs: Tensor) -> SimpleNamespace:
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        embeddings = self.runners[tower](dict(zip(INPUTS[tower], arrays, strict=True)))
        return SimpleNamespace(pooler_output=torch.from_numpy(embeddings))
