"""Partial loading of a checkpoint: the weights of a tower that is not needed are neither read nor held in memory.

A model with code of its own is built whole and then loses the towers that are not needed.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import load_torch_model, snapshot_download
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import cached_file

from training.teachers.encoders import BareEncoder
from training.teachers.family import Family

# largest sizes of a config; a damaged one would take all memory before an error names it
MAX_SIZES = {
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "hidden_size": 65_536,
    "intermediate_size": 1_048_576,
    "vocab_size": 4_194_304,
    "max_position_embeddings": 1_048_576,
    "max_text_length": 8192,
    "image_size": 4096,
    "projection_dim": 65_536,
}


def check_sizes(field: str, name: str, config: Mapping[str, Any]):
    """Refuse a config whose sizes cannot be meant.

    Args:
        field: Option that named the checkpoint; the error message starts with it.
        name: Hub id or folder.
        config: Content of config.json.

    Raises:
        ValueError: A size is larger than in `MAX_SIZES`.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(field, name, value)
        elif isinstance(value, int) and value > MAX_SIZES.get(key, value):
            raise ValueError(
                f"{field}: {key} is {value} in the config.json of {name!r}, expected at most {MAX_SIZES[key]}. Copy "
                "the file again."
            )


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
    own_class: Any = family.model_class
    if isinstance(own_class, str):
        return load_remote_model("teacher", name, own_class, dtype, commit, absent)
    if issubclass(own_class, BareEncoder):
        encoder, missing = own_class.load(name, bool(towers), dtype, commit)
        check_complete("teacher", name, own_class, missing)
        return encoder
    model_class: Any = _without(own_class, absent) if absent else own_class
    model, report = model_class.from_pretrained(name, dtype=dtype, revision=commit or "main", output_loading_info=True)
    check_complete("teacher", name, own_class, report["missing_keys"])
    return model


def load_remote_model(
    field: str, name: str, auto_class: str, dtype: torch.dtype, commit: str | None, absent: Collection[str] = ()
) -> PreTrainedModel:
    """Load a model with the code of its checkpoint. The caller makes sure that the code is trusted.

    The model is not built on the meta device: tensors that such code computes in its constructor would be lost.

    Args:
        field: Option that named the checkpoint; error messages start with it.
        name: Hub id or folder.
        auto_class: Name of the model's class in the `auto_map` of the config, such as `AutoModel`.
        dtype: Precision of the weights in memory.
        commit: Commit of the Hub id; None for a folder.
        absent: Names of modules to remove.

    Raises:
        ValueError: The checkpoint lacks the class, safetensors, or weights.
    """
    config = AutoConfig.from_pretrained(name, revision=commit or "main", trust_remote_code=True)
    classes = getattr(config, "auto_map", None) or {}
    if auto_class not in classes:
        raise ValueError(
            f"{field}: {name!r} has no code for {auto_class} in the auto_map of its config.json, which has "
            f"{sorted(classes)}. Name a checkpoint with its code."
        )
    model_class: Any = get_class_from_dynamic_module(classes[auto_class], name, revision=commit or "main")
    model = model_class(config)
    for module in set(absent) & set(model._modules):
        delattr(model, module)
    folder = name if commit is None else snapshot_download(name, revision=commit, allow_patterns=["*.safetensors*"])
    if not list(Path(folder).glob("*.safetensors")):
        raise ValueError(f"{field}: {name!r} has no safetensors. Name a checkpoint with them.")
    report: Any = load_torch_model(model, folder)
    check_complete(field, name, model_class, report.missing_keys)
    return model.to(dtype).eval()


def check_complete(field: str, name: str, model_class: type, missing: Collection[str]):
    """Refuse a checkpoint that lacks weights.

    Args:
        field: Option that named the checkpoint, for the error message.
        name: Hub id or folder.
        model_class: Class of the model.
        missing: Names of the weights that the checkpoint lacks.

    Raises:
        ValueError: A weight is missing.
    """
    if missing:
        raise ValueError(
            f"{field}: {name!r} lacks {len(missing)} weights of a {model_class.__name__}, such as "
            f"{min(missing)!r}: they would be random. Name a finished checkpoint of the whole model."
        )


def check_weights(field: str, name: str, model: PreTrainedModel, report: Mapping[str, Collection[str]]):
    """Refuse a checkpoint of one of our models that would load with other weights than it was saved with.

    Args:
        field: Option that named the checkpoint; the error message starts with it.
        name: Hub id or folder.
        model: The loaded model.
        report: Loading info of `from_pretrained`.

    Raises:
        ValueError: Weights are missing, unknown, stored as integers or not finite.
    """
    check_complete(field, name, type(model), report["missing_keys"])
    weights = {key: tensor for key, tensor in model.state_dict().items() if tensor.is_floating_point()}
    problems = {"has no place in the model": set(report["unexpected_keys"])}
    problems["is not finite"] = {key for key, tensor in weights.items() if not tensor.isfinite().all()}
    if path := cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False):
        with safe_open(path, "pt") as file:
            stored = {key: file.get_slice(key).get_dtype() for key in weights.keys() & set(file.keys())}
        problems["is stored as integers"] = {key for key, dtype in stored.items() if "F" not in dtype}
    for problem, keys in problems.items():
        if keys:
            raise ValueError(
                f"{field}: {min(keys)!r} in the weights of {name!r} {problem} ({len(keys)} weights). Copy the folder "
                "again, or train it again."
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
