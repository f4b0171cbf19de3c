"""Checkpoints read in part: a tower that is not wanted takes no memory, and its weights are not read."""

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from training.teachers.families import Family

# what belongs to a tower, in every family; not every family has projections
PARTS = {"vision": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}


def load_model(
    name: str, family: Family, towers: Collection[str], dtype: torch.dtype, commit: str | None
) -> PreTrainedModel:
    """Load the logit scale and the wanted towers of a checkpoint.

    Args:
        name: Hub id or folder.
        family: of the checkpoint.
        towers: some of `vision` and `text`.
        dtype: of the weights in memory, whatever they are stored in.
        commit: of the Hub id; None for a folder.

    Raises:
        ValueError: the checkpoint lacks weights, so that a part of the model would be random.
    """
    absent = [part for tower, parts in PARTS.items() if tower not in towers for part in parts]
    model_class: Any = _without(family.model, absent) if absent else family.model
    model, report = model_class.from_pretrained(name, dtype=dtype, revision=commit or "main", output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"teacher: the checkpoint {name!r} lacks {len(missing)} weights of a {family.model.__name__}, such as "
            f"{missing[0]!r}: they would be random. Name a finished checkpoint of the whole model."
        )
    return model


def _without(model_class: type[PreTrainedModel], absent: Collection[str]) -> type[PreTrainedModel]:
    """The class, less some of its modules.

    `from_pretrained` builds on the meta device and then reads what the model has: a module that is removed at the end
    of the constructor was never in memory.
    """

    class Partial(model_class):  # type: ignore[misc, valid-type]
        _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 (as transformers declares it)
            *(model_class._keys_to_ignore_on_load_unexpected or []),
            *(rf"^{re.escape(part)}\." for part in absent),
        ]

        def __init__(self, config):
            super().__init__(config)
            for part in set(absent) & set(self._modules):
                delattr(self, part)

        def _init_weights(self, module: nn.Module):
            # a whole model initialises its projections by name; here all that there is comes from the checkpoint
            if module is not self:
                super()._init_weights(module)

    # transformers renames the weights of old checkpoints by the class's name, and only for classes of its own
    Partial.__name__, Partial.__qualname__, Partial.__module__ = (
        model_class.__name__,
        model_class.__qualname__,
        model_class.__module__,
    )
    return Partial
