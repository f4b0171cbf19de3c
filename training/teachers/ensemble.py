"""Several teachers as one: which teacher gives which targets, the joint space of their embeddings, and its targets.

Each teacher's part is its normalized embedding times a factor, and the joint embedding is the concatenation of all
parts. Cosine similarities in the joint space are a weighted mean of the teachers' similarities. The factors are chosen
such that joint logits are the mean of the teachers' logits, each with its own temperature, weighted by `weight`.

A teacher without targets for a tower or language has zeros there. So the similarities of an image and a caption come
from the spaces that have both.

Source: Vasu et al., MobileCLIP, arXiv 2311.17049, section 3 (concatenated embeddings of several CLIP models, each with
its own temperature). This is the mean before the softmax, which its code has too (apple/ml-mobileclip,
training/open_clip.patch); the runs of the paper take the mean after it, which has no joint space.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.config import TeacherConfig
from training.data.batch import Batch, teacher_tokens
from training.teachers.family import Targets
from training.teachers.lineage import join_licenses
from training.teachers.targets import TargetSource, encode_bank
from training.teachers.teacher import Teacher

CLIP_FACTOR = 1 / 0.07  # CLIP's initial factor on cosines
TEXT_FIELDS = ("input_ids", "attention_mask", "teacher_input_ids", "teacher_attention_mask", "caption_ids")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One teacher of an ensemble.

    Args:
        number: Number of the teacher in the recipe, from 0.
        teacher: The teacher; no tower needs to be loaded.
        config: Its entry in the recipe.
        columns: Dimensions of the joint embedding that are its part.
        factor: Length of its part of the joint embedding; None for a single teacher, whose embeddings do not change.
    """

    number: int
    teacher: Teacher
    config: TeacherConfig
    columns: slice
    factor: float | None

    @property
    def towers(self) -> tuple[str, ...]:
        """Towers whose targets it gives."""
        return tuple(tower for tower in self.config.towers if tower in self.teacher.family.towers)

    def part(self, embedding: Tensor) -> Tensor:
        """Its part of the joint embedding, (N, D) float32, from its embeddings, (N, D), of any norm."""
        embedding = embedding.float()
        return embedding if self.factor is None else self.factor * F.normalize(embedding, dim=-1)


class Ensemble:
    """One or several teachers.

    Args:
        teachers: Teachers, at least one; no tower needs to be loaded.
        configs: Entry of each teacher in the recipe.

    Attributes:
        members: The teachers with their parts of the joint space.
        projection_dim: Width of the joint embedding.
        logit_scale: Logarithm of the factor on cosines of joint embeddings.
    """

    def __init__(self, teachers: Sequence[Teacher], configs: Sequence[TeacherConfig]):
        weights = [config.weight for config in configs]
        scales = _logit_factors(teachers, weights)
        total = sum(weight * scale for weight, scale in zip(weights, scales, strict=True))
        self.members: list[Member] = []
        self.projection_dim = 0
        for number, (teacher, config, scale) in enumerate(zip(teachers, configs, scales, strict=True)):
            columns = slice(self.projection_dim, self.projection_dim + teacher.projection_dim)
            # a joint embedding has length 1; a cosine times the joint scale is the weighted mean of the logits
            factor = math.sqrt(config.weight * scale / total) if len(teachers) > 1 else None
            self.members.append(Member(number=number, teacher=teacher, config=config, columns=columns, factor=factor))
            self.projection_dim = columns.stop
        is_single = len(teachers) == 1 and teachers[0].has_logit_scale  # its value to the bit
        self.logit_scale = teachers[0].logit_scale if is_single else math.log(total / sum(weights))

    def with_tower(self, tower: str) -> list[Member]:
        """The members that give targets of a tower, in the order of the recipe; none for some ensembles."""
        return [member for member in self.members if tower in member.towers]

    def check(self, towers: Sequence[str], languages: Sequence[str]):
        """Check that there are targets for a run.

        Args:
            towers: Towers that the run trains.
            languages: Languages of its captions, ISO 639-1 codes.

        Raises:
            ValueError: A tower has no teacher, a teacher lacks a tower that it should teach, or a teacher is for a
                language that the data do not have.
        """
        for member in self.members:
            if missing := set(member.config.towers) & set(towers) - set(member.teacher.family.towers):
                (own,) = member.teacher.family.towers
                kinds = {"vision": "images", "text": "captions"}
                raise ValueError(
                    f"teachers.tower: is {member.config.tower!r}, but {member.teacher.name!r} encodes {kinds[own]} "
                    f"alone. Set `tower: {own}` for it under teachers, and add a teacher of {kinds[min(missing)]}; or "
                    f"train the {own} tower alone."
                )
        for tower in towers:
            if not self.with_tower(tower):
                raise ValueError(
                    f"teachers: none of {self.name} gives targets of the {tower} tower. Add a teacher that does, or "
                    "change its tower."
                )
        for member in self.members:
            if unknown := set(member.config.languages or ()) - set(languages):
                raise ValueError(
                    f"teachers.languages: {member.teacher.name!r} has {sorted(unknown)}, but data.caption_columns "
                    f"has {sorted(languages)}. Name languages of the data."
                )

    def lead(self, tower: str) -> Teacher:
        """The first teacher of a tower, which provides what a student does not state itself."""
        return next(iter(self.with_tower(tower)), self.members[0]).teacher

    @property
    def image_map_member(self) -> Member | None:
        """The first member that gives image feature maps."""
        return next((member for member in self.with_tower("vision") if member.teacher.vision_width), None)

    @property
    def name(self) -> str:
        """Names of all teachers."""
        return " + ".join(member.teacher.name for member in self.members)

    @property
    def license(self) -> str | None:
        """Licences of all teachers, joined by `and`; None if no teacher states one."""
        return join_licenses([member.teacher.license for member in self.members])

    @property
    def rotation(self) -> str | None:
        """Digest of the rotation of a single teacher's space. A joint space is not rotated."""
        return getattr(self.members[0].teacher.config, "rotation", None) if len(self.members) == 1 else None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the first text teacher."""
        return self.lead("text").tokenizer

    @property
    def image_processor(self) -> Any:
        """Image processor of the first image teacher."""
        return self.lead("vision").image_processor

    @property
    def image_size(self) -> int:
        """Edge of the square image of the first image teacher in pixels."""
        return self.lead("vision").image_size


def _logit_factors(teachers: Sequence[Teacher], weights: Sequence[float]) -> list[float]:
    """Factor on cosines of each teacher; a teacher of one tower has none and gets the weighted mean of the others."""
    factors = [math.exp(teacher.logit_scale) if teacher.has_logit_scale else None for teacher in teachers]
    known = [(factor, weight) for factor, weight in zip(factors, weights, strict=True) if factor is not None]
    total = sum(weight for _, weight in known)
    mean = sum(factor * weight for factor, weight in known) / total if known else CLIP_FACTOR
    return [mean if factor is None else factor for factor in factors]


class JointTargets:
    """Targets of several teachers, and of teachers that encode the captions of some languages only.

    The feature maps come from the one teacher whose source returns them.

    Args:
        sources: Source of targets of each member that runs.
        projection_dim: Width of the joint embedding.
        languages: Languages of the captions, ISO 639-1 codes; the batch's `language` is an index into this list.
    """

    def __init__(self, sources: Sequence[tuple[Member, TargetSource]], projection_dim: int, languages: Sequence[str]):
        self.sources, self.projection_dim, self.languages = sources, projection_dim, languages
        self.num_views = max(source.num_views for _, source in sources)

    def images(self, images: Tensor, batch: Batch) -> Targets:
        """Targets of augmented images, (B, 3, S, S), 0..255; zeros in the parts of teachers without an image tower."""
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
        numbers = [number for number, name in enumerate(self.languages) if name in member.config.languages]
        encoded = torch.isin(batch["language"], torch.tensor(numbers, device=batch["language"].device))
        embedding = torch.zeros(len(encoded), member.teacher.projection_dim, device=encoded.device)
        if encoded.any():
            fields = cast(dict[str, Tensor], batch)
            part = {name: fields[name][encoded] for name in TEXT_FIELDS if name in fields}
            embedding[encoded] = source.texts(cast(Batch, part)).embedding.float()
        giver = translations(batch["owner"], encoded)
        return Targets(None, embedding[giver] * (giver >= 0)[:, None])

    def _join(self, targets: Iterable[tuple[Member, Targets]]) -> Targets:
        feature_map: Tensor | None = None
        joint: Tensor | None = None
        for member, given in targets:
            part = member.part(given.embedding)
            if joint is None:
                joint = part.new_zeros(len(part), self.projection_dim)
            joint[:, member.columns] = part
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


def joint_bank(ensemble: Ensemble, texts: Sequence[str], device: torch.device, option: str) -> Tensor:
    """Joint embeddings of a bank of texts.

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
        banks.append((member, encode_bank(member.teacher.with_towers(("text",)).to(device), texts)))
    if len(ensemble.members) == 1:
        return banks[0][1]
    joint = torch.zeros(len(banks[0][1]), ensemble.projection_dim, device=device)
    for member, bank in banks:
        joint[:, member.columns] = member.part(bank)
    return joint
