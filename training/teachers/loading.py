"""Partial loading of a checkpoint: the weights of a tower that is not needed are neither read nor held in memory."""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_dcclip.runtime_dcclip import read_tokenizer
from training.teachers.family import TOWER_MODULES, Family
from training.text.tokenizers import load_tokenizer
from training.utils.cli import one_line
from training.utils.reading import check_value, read_mapping, require_regular

# largest sizes of a config, by the first pattern of their name; a damaged one, or a stranger's, would take all memory
# before an error names it. Those that are named whole are at least 1.
MAX_SIZES = {
    "num_hidden_layers": 1024, "num_attention_heads": 1024, "hidden_size": 65_536, "projection_dim": 65_536,
    "intermediate_size": 1_048_576, "vocab_size": 4_194_304, "max_position_embeddings": 1_048_576,
    "max_text_length": 8192, "image_size": 4096,
    r"((n|num|encoder|decoder)_(\w+_)?(layers?|experts)|num_blocks|depths?)": 1024,
    r"num_(labels|classes)": 65_536,
    r"\w+_vocab_size": 4_194_304,
    r"\w+_(size|dim|width|heads|channels)": 65_536,
}  # fmt: skip
# options of from_pretrained: weights that do not fit are in its report, and `check_complete` refuses them
REPORTED: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
TOWER_CONFIGS = ("text_config", "vision_config")
# a parameter takes at least a byte of a file of weights; fewer than these take little memory, and the error for
# missing weights names them
FILES_OF_WEIGHTS, FEW_PARAMETERS = (".safetensors", ".bin"), 2**27
MIN_VOCABULARY = 0.9  # smallest share of a text tower's tokens that its tokenizer has


def read_config(field: str, name: str, commit: str | None = None) -> dict[str, Any]:
    """Read the config.json of a checkpoint.

    Args:
        field: Option that named the checkpoint; the error message starts with it.
        name: Hub id or folder.
        commit: Commit of the Hub id. Default: the newest commit.

    Raises:
        ValueError: There is none, it is damaged, the config of a part is not an object, a size is beyond
            `MAX_SIZES`, or it asks for far more parameters than the weights have.
    """
    check_files(field, name)
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name, revision=commit)
        if not fields:
            raise FileNotFoundError("it has no config.json, or an empty one")
        check_value(str, fields.get("model_type", ""), "model_type")
        _check_sizes(fields)
        _check_parameters(name, commit)
    except OSError as error:
        raise ValueError(
            f"{field}: {name!r} is neither a folder with a config.json nor on the Hub. Name a checkpoint. ({error})"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{field}: the config.json of {name!r} is damaged ({error}). Copy the file again."
        ) from error
    return fields


def check_files(field: str, name: str):
    """Name a damaged file of a checkpoint's folder, for which transformers has no clear error.

    Raises:
        ValueError: A file of JSON holds no mapping, or the tokenizer or the head of the weights cannot be read.
    """
    folder = Path(name)
    for path in folder.glob("*"):
        require_regular(path, field)
    for file in (
        "config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer_config.json",
    ):
        if (folder / file).exists():
            read_mapping(folder / file, field)
    for path in [*folder.glob("tokenizer.json"), *folder.glob("*.safetensors")]:
        try:
            if path.suffix == ".json":
                read_tokenizer(path)
            else:
                with safe_open(path, "pt"):
                    pass
        except Exception as error:  # tokenizers raises Exception itself
            cause = one_line(error)[:200]
            raise ValueError(
                f"{field}: {path} is damaged ({cause}). Copy the file again."
            ) from error


def _check_sizes(config: Mapping[str, Any]):
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check_sizes(value)
            continue
        # null stands for defaults, which no checkpoint of two towers has
        if key in TOWER_CONFIGS or (key.endswith("_config") and value is not None):
            raise ValueError(f"{key} is {value!r}, expected an object")
        largest = next(
            (MAX_SIZES[pattern] for pattern in MAX_SIZES if re.fullmatch(pattern, key)), None
        )
        smallest = 1 if key in MAX_SIZES else -1
        for each in value if isinstance(value, list) else [value]:
            if largest and isinstance(each, int) and not smallest <= each <= largest:
                raise ValueError(f"{key} is {each}, expected {smallest} to {largest}")


def _check_parameters(name: str, commit: str | None):
    """Compare the parameters that a config asks for with the size of the weights, before they take memory."""
    files = {path.name: path.stat().st_size for path in Path(name).glob("*")}
    if not files:
        with suppress(
            OSError, HTTPError
        ):  # offline: what is cached was checked when it was downloaded
            info = HfApi().model_info(name, revision=commit, files_metadata=True)
            files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    stored = sum(files[file] for file in files if file.endswith(FILES_OF_WEIGHTS))
    parameters = 0
    with suppress(Exception), torch.device("meta"):  # loading names what cannot be built
        model = AutoModel.from_config(AutoConfig.from_pretrained(name, revision=commit))
        parameters = sum(parameter.numel() for parameter in model.parameters())
    if stored and parameters > stored + FEW_PARAMETERS:
        raise ValueError(
            f"it asks for {parameters:,} parameters, and the files of weights have {stored:,} bytes"
        )


def open_config(field: str, name: str) -> PreTrainedConfig:
    """Open the config of a checkpoint as transformers does, with the arguments and errors of `read_config`."""
    read_config(field, name)
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # a config may be wrong in many ways
        cause = one_line(error)[:300]
        raise ValueError(
            f"{field}: the config.json of {name!r} cannot be used ({cause})."
        ) from error


def load_model(
    name: str,
    family: Family,
    towers: Collection[str],
    dtype: torch.dtype,
    commit: str | None,
    field: str = "model",
) -> PreTrainedModel:
    """Load the logit scale and some towers of a checkpoint.

    Raises:
        ValueError: The checkpoint has no weights, or lacks some, so that a part of the model would be
            random.
    """
    absent = {
        name for tower, names in TOWER_MODULES.items() if tower not in towers for name in names
    }
    model_class: Any = _without(family.model_class, absent) if absent else family.model_class
    revision = commit or "main"
    try:
        model, report = model_class.from_pretrained(
            name, dtype=dtype, revision=revision, **REPORTED
        )
    except Exception as error:  # a config may be wrong in many ways
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{field}: {name!r} cannot be loaded ({cause}).") from error
    check_complete(field, name, family.model_class, report)
    return model


def load_processor(
    name: str, config: PreTrainedConfig, commit: str | None, field: str
) -> SimpleNamespace:
    """Load `image_processor` and `tokenizer` of a checkpoint; a missing tokenizer is None.

    Raises:
        ValueError: The checkpoint lacks the image processor.
    """
    revision = commit or "main"
    try:
        image_processor: Any = AutoImageProcessor.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{field}: {name!r} has no image processor. Save it next to the weights. ({error})"
        ) from error
    tokenizer = None
    with suppress(ValueError):
        tokenizer = load_tokenizer(name, field, revision)
    if tokenizer is not None:
        check_vocabulary(field, name, tokenizer, config)
    return SimpleNamespace(image_processor=image_processor, tokenizer=tokenizer)


def load_any_model(
    name: str, dtype: torch.dtype, commit: str | None, trust_remote_code: bool, field: str
) -> tuple[PreTrainedModel, Any]:
    """Load a model of a family without a row, and its processor, as transformers' Auto classes do.

    Raises:
        ValueError: It cannot be loaded, lacks weights or a tower, or comes with code that is not trusted.
    """
    fields: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": commit or "main"}
    try:
        model, report = AutoModel.from_pretrained(name, dtype=dtype, **REPORTED, **fields)
        processor = AutoProcessor.from_pretrained(name, **fields)
        if not hasattr(processor, "image_processor"):  # that of one tower alone
            processor = SimpleNamespace(
                tokenizer=AutoTokenizer.from_pretrained(name, **fields),
                image_processor=AutoImageProcessor.from_pretrained(name, **fields),
            )
    except (OSError, ValueError) as error:
        if "trust_remote_code" not in str(error):
            raise ValueError(f"{field}: {name!r} cannot be loaded ({error}).") from error
        raise ValueError(
            f"{field}: {name!r} comes with its own code. Read it, then pass --trust_remote_code; for a Hub id, add "
            f"the revision that you read: {name}@COMMIT."
        ) from error
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(
            f"{field}: {name!r} ({type(model).__name__}) lacks a tower; zero-shot needs both."
        )
    check_vocabulary(field, name, processor.tokenizer, model.config)
    parameters = {key for key, _ in model.named_parameters()}
    missing = {"missing_keys": parameters & report["missing_keys"]}
    check_complete(field, name, type(model), report | missing)
    return model, processor


def check_vocabulary(
    field: str, name: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
):
    """Refuse a tokenizer of a different model, whose ids would stand for other tokens.

    Raises:
        ValueError: It has more tokens than the text tower, or far fewer. Some towers have a few unused ones.
    """
    size = getattr(getattr(config, "text_config", config), "vocab_size", None)
    if not isinstance(size, int):
        return
    if tokenizer.vocab_size > size or len(tokenizer) < MIN_VOCABULARY * size:
        raise ValueError(
            f"{field}: the tokenizer of {name!r} has {len(tokenizer):,} tokens, its text tower {size:,}. It belongs "
            "to a different model. Copy the tokenizer files of this one."
        )


def check_complete(field: str, name: str, model_class: type, report: Mapping[str, Any]):
    """Refuse a checkpoint that lacks weights.

    Raises:
        ValueError: The report of `from_pretrained` has a weight that is missing or has a different shape.
    """
    missing = {*report["missing_keys"]}
    missing.update(key for key, *_ in report["mismatched_keys"])
    if missing:
        raise ValueError(
            f"{field}: {name!r} lacks {len(missing)} weights of a {model_class.__name__}, such as "
            f"{min(missing)!r}: they would be random. Name a finished checkpoint of the whole model."
        )


def check_weights(
    field: str, name: str, model: PreTrainedModel, report: Mapping[str, Collection[str]]
):
    """Refuse a checkpoint of one of our models that would load with other weights than it was saved with.

    Raises:
        ValueError: Weights are missing, unknown or not finite.
    """
    check_complete(field, name, type(model), report)
    damaged = {key for key, weight in model.state_dict().items() if not weight.isfinite().all()}
    problems = {"has no place in the model": report["unexpected_keys"], "is not finite": damaged}
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
    Partial.__name__ = model_class.__name__
    Partial.__qualname__ = model_class.__qualname__
    Partial.__module__ = model_class.__module__
    return Partial
