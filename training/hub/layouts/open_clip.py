"""open_clip: write the layout with the converter that travels with the model, and encode as open_clip does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from modeling_dcclip.integrations.open_clip import convert

BATCH_SIZE = 64


def write(folder: Path, graphs: dict[str, Path], output_dir: Path):
    """Convert a model folder.

    Args:
        folder: Finished model folder.
        graphs: Graphs of the towers, which this layout does not need.
        output_dir: Folder to write.

    Raises:
        ValueError: open_clip cannot represent the model.
    """
    convert(folder, output_dir)


class OpenClipEncoder:
    """A converted model in open_clip, with open_clip's image transform and tokenizer.

    Args:
        folder: Folder of the converted model.
    """

    def __init__(self, folder: Path):
        name = f"local-dir:{folder}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Encode RGB images of any size to (N, D) float32, L2-normalised."""
        parts = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
        batches = (torch.stack([self.transform(image) for image in part]) for part in parts)
        return torch.cat([self.model.encode_image(batch, normalize=True) for batch in batches]).numpy()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts of any length to (N, D) float32, L2-normalised."""
        parts = [list(texts[start : start + BATCH_SIZE]) for start in range(0, len(texts), BATCH_SIZE)]
        return torch.cat([self.model.encode_text(self.tokenizer(part), normalize=True) for part in parts]).numpy()
