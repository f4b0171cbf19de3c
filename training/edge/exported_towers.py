"""Exported files behind the interface of a model, so that evaluation code can run them."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from training.edge.towers import INPUTS

# runs a file: arrays by input name, in the order of `INPUTS`, to L2-normalised embeddings (B, D)
Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


class ExportedTowers:
    """One or two exported towers with the methods that zero-shot evaluation calls on a model.

    Args:
        config: Config of the model, for the preparation of texts and images.
        runners: A `Runner` for each tower. A tower whose method is never called may be missing.
    """

    device = torch.device("cpu")

    def __init__(self, config: PreTrainedConfig, **runners: Runner):
        self.config, self.runners = config, runners

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_image_features`, but with L2-normalised embeddings."""
        return self._features("vision", pixel_values)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_text_features`, but with L2-normalised embeddings.

        Args:
            input_ids: Token ids, (B, L) int64.
            attention_mask: Mask of the tokens, (B, L): 1 for text, 0 for padding.

        Returns:
            An object whose `pooler_output` holds the embeddings, (B, D).
        """
        return self._features("text", input_ids, attention_mask)

    def _features(self, tower: str, *inputs: Tensor) -> SimpleNamespace:
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        embeddings = self.runners[tower](dict(zip(INPUTS[tower], arrays, strict=True)))
        return SimpleNamespace(pooler_output=torch.from_numpy(embeddings))
