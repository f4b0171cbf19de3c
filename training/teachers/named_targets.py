"""Targets that a file states for some texts, such as names of things that the teacher has seen no photograph of."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.data.batch import Batch
from training.teachers.family import Targets
from training.teachers.targets import TargetSource


class NamedTargets:
    """Targets of a teacher, whose embeddings of some texts are replaced by those of a file.

    Args:
        targets: Targets of the teacher.
        path: File that `save_named_targets` wrote.
        captions: The captions of the data, in the order of `caption_ids`.

    Raises:
        ValueError: The file cannot be read, or names none of the captions.
    """

    def __init__(self, targets: TargetSource, path: str, captions: Sequence[str]):
        self.targets = targets
        self.num_views = targets.num_views
        try:
            with safe_open(path, "pt") as file:
                self.embeddings = file.get_tensor("embedding").float()
                texts = json.loads(file.metadata()["texts"])
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"named_targets: {path!r} cannot be read ({error!r}). Expected a safetensors file with `embedding` "
                "and the metadata `texts`. Write it again."
            ) from error
        places = {text: place for place, text in enumerate(texts)}
        self.places = torch.tensor([places.get(text, -1) for text in captions])
        if not (self.places >= 0).any():
            raise ValueError(
                f"named_targets: none of the {len(texts)} texts of {path!r} is a caption of the data. Add them to the "
                "data, or leave named_targets out."
            )

    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of augmented images, the teacher's own."""
        return self.targets.images(images, batch)

    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch that has been `read`; the feature maps are the teacher's own."""
        targets = self.targets.texts(batch)
        found = targets.embedding
        named = batch["named_targets"].to(found)
        is_named = batch["is_named"].to(found.device)[:, None]
        return Targets(targets.feature_map, torch.where(is_named, named, found))

    def read(self, batch: Batch) -> Batch:
        """Read the targets of a batch, for a loader that reads them in its workers.

        Returns:
            Fields of `Batch`: `named_targets`, `is_named`, and those of the teacher's targets if they are cached.
        """
        places = self.places[batch["caption_ids"]]
        named: Batch = {
            "named_targets": self.embeddings[places.clamp_min(0)],
            "is_named": places >= 0,
        }
        return named | self.targets.read(batch)


def save_named_targets(path: Path, texts: Sequence[str], embeddings: Tensor):
    """Write the targets of some texts.

    Args:
        path: Safetensors file to write.
        texts: N texts.
        embeddings: Their targets in the teacher's space, (N, D).
    """
    metadata = {"texts": json.dumps(list(texts), ensure_ascii=False)}
    save_file({"embedding": embeddings.half().contiguous()}, path, metadata)
