"""Image-caption similarity: cosines of the embeddings of a teacher of any family."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_dcclip.image_dcclip import squashes
from training.data import decode_images
from training.data.transforms import Normalize
from training.teachers import Teacher


class Scorer:
    """Computes cosines between images and captions.

    Args:
        name: Hub id or folder of the teacher.
        dtype: Data type of the teacher's weights, such as `float32`.
        batch_size: Images or captions per forward pass.

    Raises:
        ValueError: If the teacher cannot be loaded.
    """

    def __init__(self, name: str, dtype: str, batch_size: int):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.teacher = Teacher.from_pretrained(name, dtype=getattr(torch, dtype), device=device)
        self.normalize = Normalize.from_processor(self.teacher.image_processor, self.teacher.image_size)
        self.batch_size, self.device = batch_size, device

    def encode_images(self, cells: Sequence[dict]) -> Tensor:
        """Embeddings of undecoded images, (N, D) float32, L2-normalised. All images must decode."""
        embeddings = [torch.empty(0, self.teacher.projection_dim)]
        for start in range(0, len(cells), self.batch_size):
            part = cells[start : start + self.batch_size]
            chunk = decode_images(part, self.teacher.image_size, squashes(self.teacher.image_processor))
            if causes := [image for image in chunk if isinstance(image, str)]:
                raise ValueError(
                    f"max_pixels: an image that passes it cannot be decoded for the teacher ({causes[0]}). Lower "
                    "max_pixels to Pillow's limit, or leave it out."
                )
            images = torch.stack([image for image in chunk if isinstance(image, Tensor)])
            targets = self.teacher.encode_images(self.normalize(images.to(self.device)))
            embeddings.append(self._unit(targets.embedding))
        return torch.cat(embeddings)

    def score(self, images: Tensor, texts: Sequence[str]) -> np.ndarray:
        """Cosine of each text with its image.

        Args:
            images: (T, D) float32, L2-normalised image embedding of each text.
            texts: T captions.

        Returns:
            (T,) float32 in -1..1.

        Raises:
            ValueError: If the teacher returns values that are not finite.
        """
        # batches of texts of similar length need less padding
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        cosines = np.zeros(len(texts), np.float32)
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            targets = self.teacher.encode_texts(**self.teacher.tokenize([texts[n] for n in chunk]))
            cosines[chunk] = (self._unit(targets.embedding) * images[chunk]).sum(1).numpy()
        if not np.isfinite(cosines).all():
            raise ValueError(f"teacher_dtype: {self.teacher.name!r} returns values that are not finite. Use float32.")
        return cosines

    @staticmethod
    def _unit(embedding: Tensor) -> Tensor:
        return F.normalize(embedding.float(), dim=-1).cpu()
