"""Where a student's tower can get its weights from: the teacher, or a checkpoint of one tower or of a whole model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedTokenizerBase

from training.teachers import Teacher
from training.text.tokenizers import load_tokenizer

TEACHER = "teacher"
PROJECTIONS = {"vision": "visual_projection.weight", "text": "text_projection.weight"}

# towers that exist inside a dual encoder alone, and the class of its own that computes the same
_STAND_INS = {
    "altclip_vision_model": "clip_vision_model",
    "altclip_text_model": "xlm-roberta",
    "chinese_clip_text_model": "bert",
}
# what a checkpoint's config says of its classes and its file, and not of its tower
_NOT_THE_TOWERS = {
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "label_names",
    "num_classes",
    "problem_type",
    "transformers_version",
}


@dataclass(frozen=True)
class SourceTower:
    """One pretrained tower.

    Args:
        name: Hub id or folder.
        tower: `vision` or `text`.
        config: its transformers config.
        weights: by the names that the tower itself gives them.
        projection: (projection_dim, width), where the source is a dual encoder.
        tokenizer: of a text tower.
    """

    name: str
    tower: str
    config: PreTrainedConfig
    weights: dict[str, Tensor]
    projection: Tensor | None = None
    tokenizer: PreTrainedTokenizerBase | None = None


def open_source(init: str, tower: str, teacher: Teacher | None = None) -> SourceTower:
    """Load the weights of one tower.

    Args:
        init: `teacher`, or the Hub id or folder of a tower or of a dual encoder.
        tower: `vision` or `text`.
        teacher: the one that `teacher` stands for; a teacher that holds no tower loads this one for the time being.

    Raises:
        ValueError: there is no such checkpoint, it has no tokenizer, or no teacher is given.
    """
    config = _read_config(init, tower, teacher)
    if init == TEACHER or _is_dual_encoder(config):
        owner = _given(teacher, tower) if init == TEACHER else Teacher.from_pretrained(init, towers=(tower,))
        weights = owner.with_towers((tower,)).state_dict()
        return SourceTower(
            name=owner.name,
            tower=tower,
            config=_tower_of(config, tower),
            weights=_below(f"{tower}_model.", weights),
            projection=weights.get(PROJECTIONS[tower]),
            tokenizer=owner.tokenizer,
        )
    tokenizer = load_tokenizer(init, "student.text_init") if tower == "text" else None
    weights = AutoModel.from_pretrained(init, dtype=torch.float32).state_dict()
    return SourceTower(init, tower, config, weights, tokenizer=tokenizer)


def source_config(init: str, tower: str, teacher: Teacher | None = None) -> dict[str, Any]:
    """The config of a source's tower with its `model_type`, as a student can be built from it.

    Raises:
        ValueError: there is no such checkpoint, or no teacher is given.
    """
    config = _tower_of(_read_config(init, tower, teacher), tower)
    model_type = _STAND_INS.get(config.model_type, config.model_type)
    known = AutoConfig.for_model(model_type).to_dict().keys() - _NOT_THE_TOWERS
    return {key: value for key, value in config.to_dict().items() if key in known} | {"model_type": model_type}


def _read_config(init: str, tower: str, teacher: Teacher | None) -> PreTrainedConfig:
    if init == TEACHER:
        return _given(teacher, tower).config
    try:
        return AutoConfig.from_pretrained(init)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"student.{tower}_init: {init!r} is neither 'random', 'teacher', a folder with a config.json nor on the "
            f"Hub. Name the checkpoint of a tower or of a whole model. ({error})"
        ) from error


def _given(teacher: Teacher | None, tower: str) -> Teacher:
    if teacher is None:
        raise ValueError(
            f"student.{tower}_init is 'teacher', but no teacher is given. Name one, or set student.{tower}_init to "
            "'random'."
        )
    return teacher


def _is_dual_encoder(config: PreTrainedConfig) -> bool:
    return hasattr(config, "vision_config") and hasattr(config, "text_config")


def _tower_of(config: PreTrainedConfig, tower: str) -> PreTrainedConfig:
    return getattr(config, f"{tower}_config") if _is_dual_encoder(config) else config


def _below(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
