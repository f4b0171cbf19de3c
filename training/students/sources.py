"""Sources of a tower's weights: the teacher, or a checkpoint of one tower or of a dual encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedTokenizerBase

from training.teachers import FAMILIES, DualEncoder
from training.teachers.loading import open_config
from training.text.tokenizers import load_tokenizer

TEACHER = "teacher"
# config fields that describe the checkpoint's classes and file, not the tower
_NOT_OF_THE_TOWER = {"_name_or_path", "architectures", "dtype", "id2label", "label2id", "label_names", "num_classes",
                     "problem_type", "transformers_version"}  # fmt: skip


@dataclass(frozen=True)
class SourceTower:
    """One pretrained tower.

    Args:
        name: Hub id or folder.
        tower: Kind of tower, `vision` or `text`.
        config: Transformers config of the tower.
        weights: Weights by the names that the tower itself uses.
        projection: Matrix of the projection, (projection_dim, width), if the source is a dual encoder.
        tokenizer: Tokenizer of a text tower.
    """

    name: str
    tower: str
    config: PreTrainedConfig
    weights: Mapping[str, Tensor]
    projection: Tensor | None = None
    tokenizer: PreTrainedTokenizerBase | None = None


def open_source_tower(init: str, tower: str, teacher: DualEncoder | None = None) -> SourceTower:
    """Load the weights of one tower.

    Args:
        init: Source of the weights: `teacher`, or the Hub id or folder of a tower or of a dual encoder.
        tower: Kind of tower, `vision` or `text`.
        teacher: Teacher that `teacher` refers to. If its tower is not loaded, it is loaded for this call.

    Raises:
        ValueError: The checkpoint, its tokenizer or the teacher is missing.
    """
    config = _read_config(init, tower, teacher)
    if init == TEACHER or _is_dual_encoder(config):
        if init == TEACHER:
            # a teacher in half precision would round the student's initial weights
            owner = _require(teacher, tower).with_towers((tower,), torch.float32)
        else:
            owner = DualEncoder.from_pretrained(init, (tower,), field=f"student.{tower}_init")
        weights, projection = owner.tower_weights(tower)
        rotation = owner.state_dict().get("rotation")
        if init != TEACHER and rotation is not None and projection is not None:
            projection = rotation @ projection  # from a student's space back to its teacher's
        return SourceTower(
            name=owner.name,
            tower=tower,
            config=_tower_of(config, tower),
            weights=weights,
            projection=projection,
            tokenizer=owner.tokenizer if tower == "text" else None,
        )
    tokenizer = load_tokenizer(init, "student.text_init") if tower == "text" else None
    weights = AutoModel.from_pretrained(init, dtype=torch.float32).state_dict()
    return SourceTower(init, tower, config, weights, tokenizer=tokenizer)


def source_config(init: str, tower: str, teacher: DualEncoder | None = None) -> dict[str, Any]:
    """Read the config of a source's tower, in the form that builds a student.

    Returns:
        Fields of the transformers config, with `model_type`.

    Raises:
        ValueError: The checkpoint or the teacher is missing.
    """
    source = _read_config(init, tower, teacher)
    config = _tower_of(source, tower)
    model_type = config.model_type
    for family in FAMILIES.values():
        model_type = family.standalone_towers.get(config.model_type, model_type)
    known = AutoConfig.for_model(model_type).to_dict().keys() - _NOT_OF_THE_TOWER
    fields = {key: value for key, value in config.to_dict().items() if key in known}
    fields["model_type"] = model_type
    return fields


def _read_config(init: str, tower: str, teacher: DualEncoder | None) -> PreTrainedConfig:
    if init == TEACHER:
        return _require(teacher, tower).config
    return open_config(f"student.{tower}_init", init)


def _require(teacher: DualEncoder | None, tower: str) -> DualEncoder:
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
