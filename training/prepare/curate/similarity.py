"""How well captions fit their images: cosines by a teacher of any family."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import decode_images, tokenize
from training.data.transforms import Normalize
from training.teachers import Teacher


class Scorer:
    """Cosines between images and captions.

    Args:
        name: Hub id or folder of the teacher.
        dtype: of its weights.
        batch_size: images or captions that it sees at once.

    Raises:
        ValueError: there is no such teacher.
    """

    def __init__(self, name: str, dtype: str, batch_size: int):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.teacher = Teacher.from_pretrained(name, dtype=getattr(torch, dtype), device=device)
        self.normalize = Normalize.from_processor(self.teacher.image_processor, self.teacher.image_size)
        self.batch_size, self.device = batch_size, device

    def encode_images(self, cells: Sequence[dict]) -> Tensor:
        """(N, D) float32, L2-normalised, of images that decode."""
        embeddings = [torch.empty(0, self.teacher.projection_dim)]
        for start in range(0, len(cells), self.batch_size):
            chunk = decode_images(cells[start : start + self.batch_size], self.teacher.image_size)
            images = torch.stack([image for image in chunk if isinstance(image, Tensor)])
            targets = self.teacher.encode_images(self.normalize(images.to(self.device)))
            embeddings.append(self._unit(targets.embedding))
        return torch.cat(embeddings)

    def score(self, images: Tensor, texts: Sequence[str]) -> np.ndarray:
        """(T,) float32 cosines in -1..1 between texts and the images (T, D) beside them.

        Raises:
            ValueError: the teacher's numbers are not finite.
        """
        # texts of like length are encoded together, which saves padding
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        cosines = np.zeros(len(texts), np.float32)
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            tokens = tokenize(self.teacher.tokenizer, [texts[n] for n in chunk], self.teacher.max_text_length)
            targets = self.teacher.encode_texts(*(value.to(self.device) for value in tokens.values()))
            cosines[chunk] = (self._unit(targets.embedding) * images[chunk]).sum(1).numpy()
        if not np.isfinite(cosines).all():
            raise ValueError(f"teacher_dtype: {self.teacher.name!r} gives numbers that are not finite. Give float32.")
        return cosines

    @staticmethod
    def _unit(embedding: Tensor) -> Tensor:
        return F.normalize(embedding.float(), dim=-1).cpu()
