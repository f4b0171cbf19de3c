"""Targets of several teachers, as those of one teacher with the joint embedding."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.captions import teacher_tokens
from training.teachers.cache import cached_bank
from training.teachers.ensemble import Ensemble, Member
from training.teachers.family import Targets
from training.teachers.targets import TargetSource

TEXT_FIELDS = ("input_ids", "attention_mask", "teacher_input_ids", "teacher_attention_mask", "caption_ids")


class JointTargets:
    """Targets of several teachers, and of teachers that encode the captions of some languages only.

    The feature maps are those of the one teacher whose source returns them.

    Args:
        sources: Source of targets of each member that runs.
        projection_dim: Width of the joint embedding.
        languages: Languages of the captions, ISO 639-1 codes; the batch's `language` is an index into this list.
    """

    def __init__(self, sources: Sequence[tuple[Member, TargetSource]], projection_dim: int, languages: Sequence[str]):
        self.sources, self.projection_dim, self.languages = sources, projection_dim, languages
        self.num_views = max(source.num_views for _, source in sources)

    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of augmented images; zeros in the parts of teachers without an image tower.

        Args:
            images: Augmented images of the batch, (B, 3, S, S), 0..255.
            batch: Batch on the device.
        """
        return self._join(
            (member, source.images(images, batch)) for member, source in self.sources if "vision" in member.towers
        )

    def texts(self, batch: Batch) -> Targets:
        """Targets of the captions of a batch; zeros in the parts of teachers that have none for a caption."""
        return self._join(
            (member, self._texts_of(member, source, batch))
            for member, source in self.sources
            if "text" in member.towers
        )

    def _texts_of(self, member: Member, source: TargetSource, batch: Batch) -> Targets:
        batch = teacher_tokens(batch, member.number)
        if member.config.languages is None:
            return source.texts(batch)
        encoded = self._is_in(batch, member.config.languages)
        embedding = torch.zeros(len(encoded), member.teacher.projection_dim, device=encoded.device)
        if encoded.any():
            fields = cast(dict[str, Tensor], batch)
            part = {name: fields[name][encoded] for name in TEXT_FIELDS if name in fields}
            embedding[encoded] = source.texts(cast(Batch, part)).embedding.float()
        giver = translations(batch["owner"], encoded).masked_fill(self._is_in(batch, member.others), -1)
        return Targets(None, embedding[giver] * (giver >= 0)[:, None])

    def _is_in(self, batch: Batch, languages: Collection[str]) -> Tensor:
        """Whether each caption is in one of some languages, (T,) bool."""
        numbers = [number for number, language in enumerate(self.languages) if language in languages]
        return torch.isin(batch["language"], torch.tensor(numbers, dtype=torch.int64, device=batch["language"].device))

    def _join(self, targets: Iterable[tuple[Member, Targets]]) -> Targets:
        feature_map: Tensor | None = None
        joint: Tensor | None = None
        for member, given in targets:
            part = member.part(given.embedding)
            if joint is None:
                joint = part.new_zeros(len(part), self.projection_dim)
            joint[:, member.columns] += part
            feature_map = given.feature_map if feature_map is None else feature_map
        assert joint is not None  # `Ensemble.check` makes sure that each tower has a teacher
        return Targets(feature_map, joint)


def translations(owner: Tensor, encoded: Tensor) -> Tensor:
    """For each caption of a batch, find the one whose target it takes.

    Args:
        owner: Index of the image that each caption belongs to, (T,) int64.
        encoded: Whether the teacher encodes the caption, (T,) bool.

    Returns:
        (T,) int64: the caption itself if the teacher encodes it; otherwise the first caption of the same image that it
        encodes; -1 if there is none.
    """
    own = torch.arange(len(owner), device=owner.device)
    same = (owner[:, None] == owner) & encoded  # (T, T)
    first = same.int().argmax(1).masked_fill(~same.any(1), -1) if len(owner) else own
    return torch.where(encoded, own, first)


def joint_bank(
    folder: str | Path | None, ensemble: Ensemble, texts: Sequence[str], device: torch.device, option: str
) -> Tensor:
    """Joint embeddings of a bank of texts, from the cache if they are stored there.

    Args:
        folder: Folder of the cache; None to store nothing.
        ensemble: Teachers. A text tower is loaded only if its embeddings are not stored, and then released.
        texts: The bank.
        device: Device of the teachers and of the embeddings.
        option: Option that needs the bank, for the error message.

    Returns:
        (N, D) float32, not normalized.

    Raises:
        ValueError: A teacher encodes some languages only. The language of a text is not known.
    """
    banks = []
    for member in ensemble.with_tower("text"):
        if member.config.languages is not None:
            raise ValueError(
                f"teachers.languages: is {member.config.languages} for {member.teacher.name!r}, but {option} needs "
                "embeddings of texts in all languages. Leave languages out, or the option."
            )
        banks.append((member, cached_bank(folder, member.teacher, texts, device)))
    if len(ensemble.members) == 1:
        return banks[0][1]
    joint = torch.zeros(len(banks[0][1]), ensemble.projection_dim, device=device)
    for member, bank in banks:
        joint[:, member.columns] += member.part(bank)
    return joint
