"""The layout of open_clip: the model under open_clip's names, loaded as `local-dir:FOLDER`."""

from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from modeling_dcclip.integrations.open_clip import convert as write  # noqa: F401 (of the format)


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
    def encode_image(self, image: Image.Image) -> np.ndarray:
        """Encode an RGB image of any size to (1, D) float32, L2-normalized."""
        return self.model.encode_image(self.transform(image)[None], normalize=True).numpy()

    @torch.inference_mode()
    def encode_text(self, text: str) -> np.ndarray:
        """Encode a text of any length to (1, D) float32, L2-normalized."""
        return self.model.encode_text(self.tokenizer([text]), normalize=True).numpy()
