"""A DC-CLIP model as the Space uses it: through transformers alone, so that it runs where our package is not."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoProcessor

WEIGHTS_FILE = "model.safetensors"


class Encoder:
    """Images and texts in, embeddings and shares out.

    Args:
        name: folder or Hub id.
        revision: commit of the Hub repo whose code and weights are loaded; a folder has none.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(self, name: str, revision: str | None = None):
        try:
            self.model = AutoModel.from_pretrained(
                name, revision=revision, trust_remote_code=True, dtype=torch.float32
            ).eval()
            self.processor = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=True)
        except OSError as error:
            raise ValueError(
                f"model: {name!r} is neither a model folder nor on the Hub ({error}). Train one with "
                "`python -m training.demo`, or name another with --model."
            ) from error
        self.name = name
        weights = Path(name) / WEIGHTS_FILE
        self.fingerprint = (
            hashlib.sha256(weights.read_bytes()).hexdigest()
            if weights.is_file()
            else f"{name}@{self.model.config._commit_hash}"
        )

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) float32, L2-normalised."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32, L2-normalised. What is longer than the model reads is cut off."""
        tokens = self.processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)

    def label(self, image: Image.Image, labels: Sequence[str], template: str = "{}") -> list[tuple[str, float]]:
        """Which of the labels fits an image.

        Args:
            image: RGB.
            labels: in any language the model reads, at least one.
            template: a sentence with `{}` where the label goes.

        Returns:
            Labels with their shares (0..1, of sum 1), the best first.
        """
        texts = self.encode_texts([template.replace("{}", label) for label in labels])
        scores = (self.encode_images([image]) @ texts.T)[0]
        shares = (self.model.logit_scale.detach().exp() * scores).softmax(0).tolist()
        return sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])


def on_white(image: Image.Image) -> Image.Image:
    """Any mode to RGB, transparent images on white, as in training."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
