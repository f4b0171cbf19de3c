"""The layout of open_clip: the model under open_clip's names, loaded as `local-dir:FOLDER`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from modeling_dcclip import DCCLIPModel
from modeling_dcclip.integrations.open_clip import convert

BATCH_SIZE = 64


def write(folder: Path, student: DCCLIPModel, target: Path):
    """Convert a model folder.

    Raises:
        ValueError: open_clip cannot represent the model.
    """
    convert(folder, target)


class ToolEncoder:
    """A converted model in open_clip, with open_clip's image transform and tokenizer.

    Args:
        target: Folder of the converted model.
    """

    def __init__(self, target: Path):
        name = f"local-dir:{target.resolve()}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Encode RGB images of any size to (N, D) float32, L2-normalised."""
        parts = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
        batches = (torch.stack([self.transform(image) for image in part]) for part in parts)
        return torch.cat(
            [self.model.encode_image(batch, normalize=True) for batch in batches]
        ).numpy()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts of any length to (N, D) float32, L2-normalised."""
        parts = (
            list(texts[start : start + BATCH_SIZE]) for start in range(0, len(texts), BATCH_SIZE)
        )
        return torch.cat(
            [self.model.encode_text(self.tokenizer(part), normalize=True) for part in parts]
        ).numpy()
