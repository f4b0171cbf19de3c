"""The model of the Space, loaded with transformers alone, because a Space does not install this project."""

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
    """Encode images and texts, and label images.

    Args:
        name: Model folder or Hub id.
        revision: Commit of the Hub repo whose code and weights are loaded. Not used for a folder.

    Raises:
        ValueError: The model does not exist.
    """

    def __init__(self, name: str, revision: str | None = None):
        try:
            self.model = AutoModel.from_pretrained(
                name, revision=revision, trust_remote_code=True, dtype=torch.float32
            ).eval()
            self.processor = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=True)
        except OSError as error:
            raise ValueError(
                f"model: {name!r} is neither a model folder nor on the Hub ({error}). Train a model with "
                "`python -m training.demo`, or pass another one with --model."
            ) from error
        self.name = name
        weights = Path(name) / WEIGHTS_FILE
        self.fingerprint = (
            hashlib.sha256(weights.read_bytes()).hexdigest()
            if weights.is_file()
            else f"{name}@{self.model.config._commit_hash}"
        )

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """Convert an image of any mode to RGB, as in training: upright, 8 bits, flattened onto white."""
        return self.processor.prepare_images(image)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode RGB images.

        Returns:
            (N, D) float32, L2-normalised.
        """
        pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts, truncated to the model's maximum length.

        Returns:
            (N, D) float32, L2-normalised.
        """
        tokens = self.processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)

    def label(self, image: Image.Image, labels: Sequence[str], template: str = "{}") -> list[tuple[str, float]]:
        """Rank labels for an image.

        Args:
            image: RGB image.
            labels: One or more candidate labels, in Chinese or English.
            template: Sentence around each label, with `{}` for the label.

        Returns:
            Labels with their scores, highest score first; the scores sum to 1.
        """
        texts = self.encode_texts([template.replace("{}", label) for label in labels])
        cosines = (self.encode_images([image]) @ texts.T)[0]
        scores = (self.model.logit_scale.detach().exp() * cosines).softmax(0).tolist()
        return sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])
