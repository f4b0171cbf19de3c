"""Graphs in ONNX Runtime, in the place of a model."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from training.edge.sessions import open_session


class OnnxTowers:
    """One or two towers in ONNX Runtime, with the methods that zero-shot asks of a model.

    Args:
        config: the model's, by which texts and pictures are prepared.
        vision: the image tower's graph, if it is wanted.
        text: the text tower's.
    """

    device = torch.device("cpu")

    def __init__(self, config: PreTrainedConfig, vision: Path | None = None, text: Path | None = None):
        self.config = config
        self.vision = open_session(vision) if vision else None
        self.text = open_session(text) if text else None

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_image_features`, but of unit length."""
        return _features(self.vision, pixel_values=pixel_values.contiguous().numpy())

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """As `DCCLIPModel.get_text_features`, but of unit length."""
        return _features(self.text, input_ids=input_ids.numpy(), attention_mask=attention_mask.numpy())


def _features(session: onnxruntime.InferenceSession, **inputs: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(pooler_output=torch.from_numpy(session.run(None, inputs)[0]))
