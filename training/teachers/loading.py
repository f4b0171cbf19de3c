"""Partial loading of a checkpoint: the weights of a tower that is not needed are neither read nor held in memory."""

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from training.teachers.family import Family


def load_model(
    name: str, family: Family, towers: Collection[str], dtype: torch.dtype, commit: str | None
) -> PreTrainedModel:
    """Load the logit scale and some towers of a checkpoint.

    Args:
        name: Hub id or folder.
        family: Family of the checkpoint.
        towers: Towers to load, some of `vision` and `text`.
        dtype: Precision of the weights in memory, whatever the precision of the file.
        commit: Commit of the Hub id; None for a folder.

    Raises:
        ValueError: The checkpoint lacks weights, so that a part of the model would be random.
    """
    absent = [module for tower, modules in family.tower_modules.items() if tower not in towers for module in modules]
    model_class: Any = _without(family.model_class, absent) if absent else family.model_class
    model, report = model_class.from_pretrained(name, dtype=dtype, revision=commit or "main", output_loading_info=True)
    check_complete("teacher", name, family.model_class, report["missing_keys"])
    return model


def check_complete(field: str, name: str, model_class: type, missing: Collection[str]):
    """Refuse a checkpoint that lacks weights.

    Args:
        field: Option that named the checkpoint, for the error message.
        name: Hub id or folder.
        model_class: Class of the model.
        missing: Names of the weights that the checkpoint lacks.

    Raises:
        ValueError: There is a missing weight.
    """
    if missing:
        raise ValueError(
            f"{field}: {name!r} lacks {len(missing)} weights of a {model_class.__name__}, such as "
            f"{min(missing)!r}: they would be random. Name a finished checkpoint of the whole model."
        )


def _without(model_class: type[PreTrainedModel], absent: Collection[str]) -> type[PreTrainedModel]:
    """The class without some of its modules.

    `from_pretrained` builds the model on the meta device and then reads the weights of the modules that it has. A
    module that the constructor removes at its end never takes memory.
    """
    base: Any = model_class

    class Partial(base):
        _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 (as transformers declares it)
            *(base._keys_to_ignore_on_load_unexpected or []),
            *(rf"^{re.escape(name)}\." for name in absent),
        ]

        def __init__(self, config):
            super().__init__(config)
            for name in set(absent) & set(self._modules):
                delattr(self, name)

        def _init_weights(self, module: nn.Module):
            # a whole model initializes its projections by name; in a partial one all weights are from the checkpoint
            if module is not self:
                super()._init_weights(module)

    # transformers renames weights of old checkpoints by the name of the class, and only for its own classes
    Partial.__name__, Partial.__qualname__, Partial.__module__ = (
        model_class.__name__,
        model_class.__qualname__,
        model_class.__module__,
    )
    return Partial
