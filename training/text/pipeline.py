"""A Unigram tokenizer as JSON: read it, tell it from others, cut it, and make a tokenizer of it again."""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

TOKENIZER_FILE = "tokenizer.json"


@contextmanager
def unbounded(tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokenizer]:
    """The backend while it neither pads nor truncates, whatever it was last asked to do."""
    # a copy would not do: the library reads scores with an error in the last bit
    backend = tokenizer.backend_tokenizer
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    try:
        yield backend
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)


def read_pipeline(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """All of `tokenizer.json` but padding and truncation, which only remember the last call."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in pipeline.items() if key not in ("padding", "truncation")}


def read_unigram(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """`read_pipeline` of a tokenizer that can be cut.

    Raises:
        ValueError: it has no `tokenizer.json`, is not Unigram, has no unknown piece, or spells unknown characters in
            bytes.
    """
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"tokenizer: {name!r} ({type(tokenizer).__name__}) is a slow one. Load the fast one of the same model, "
            "which has a tokenizer.json."
        )
    pipeline = read_pipeline(tokenizer)
    model = pipeline["model"]
    if model.get("type") != "Unigram":
        raise ValueError(
            f"tokenizer: {name!r} is of the type {model.get('type')!r}. Only Unigram (XLM-R's kind) can be cut: in "
            "others a piece is made of pieces, and leaving some out changes the rest."
        )
    if model["unk_id"] is None:
        raise ValueError(f"tokenizer: {name!r} has no unknown piece (unk_id) for characters that are cut. Set one.")
    if model.get("byte_fallback"):
        raise ValueError(
            f"tokenizer: {name!r} spells unknown characters in bytes (byte_fallback), which a cut would hide. Set "
            "byte_fallback to false in its tokenizer.json."
        )
    return pipeline


def _comparable(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Scores in single precision, as they were made: a file that is read again may change the last bit of double."""
    model = pipeline["model"]
    if model.get("type") != "Unigram":
        return pipeline
    scores = np.array([score for _, score in model["vocab"]], dtype=np.float32).tolist()
    return pipeline | {"model": model | {"vocab": [[piece for piece, _ in model["vocab"]], scores]}}


def digest(pipeline: dict[str, Any]) -> str:
    """Equal for tokenizers that give the same ids for every text."""
    return hashlib.sha256(json.dumps(_comparable(pipeline), sort_keys=True).encode()).hexdigest()


def id_slots(processor: dict[str, Any] | None) -> Iterator[tuple[list, int]]:
    """Where a post-processor holds ids: lists, and positions in them."""
    if processor is None:
        return
    if processor["type"] == "Sequence":
        for part in processor["processors"]:
            yield from id_slots(part)
    elif processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            yield from ((token["ids"], position) for position in range(len(token["ids"])))
    elif processor["type"] in ("BertProcessing", "RobertaProcessing"):
        yield from ((processor[name], 1) for name in ("sep", "cls"))


def cut_pipeline(pipeline: dict[str, Any], kept_ids: Sequence[int]) -> dict[str, Any]:
    """Leave pieces out.

    Args:
        pipeline: as `read_unigram` gives it.
        kept_ids: new id of each piece, added tokens included, in ascending order; -1 leaves a piece out.
    """
    model, processor = pipeline["model"], copy.deepcopy(pipeline["post_processor"])
    for ids, position in id_slots(processor):
        ids[position] = kept_ids[ids[position]]
    return pipeline | {
        "added_tokens": [token | {"id": kept_ids[token["id"]]} for token in pipeline["added_tokens"]],
        "post_processor": processor,
        # the model's pieces come first, added tokens that it does not have after them
        "model": model
        | {
            "unk_id": kept_ids[model["unk_id"]],
            "vocab": [piece for piece, new in zip(model["vocab"], kept_ids, strict=False) if new >= 0],
        },
    }


def write(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any], folder: str | Path):
    """Save a tokenizer with a pipeline in place of its own, without padding and truncation."""
    tokenizer.save_pretrained(folder)
    content = json.dumps(pipeline | {"padding": None, "truncation": None}, ensure_ascii=False)
    (Path(folder) / TOKENIZER_FILE).write_text(content, encoding="utf-8")


def rebuild(tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The same class with the same settings around another pipeline.

    Raises:
        ValueError: this class does not keep a pipeline when it is loaded, so that a saved one would read other pieces.
    """
    with TemporaryDirectory() as folder:
        write(tokenizer, pipeline, folder)
        rebuilt = AutoTokenizer.from_pretrained(folder)
    rebuilt.name_or_path = ""
    for option in ("is_local", "local_files_only"):  # of this loading
        rebuilt.init_kwargs.pop(option, None)
    wanted, loaded = _comparable(pipeline), _comparable(read_pipeline(rebuilt))
    if different := [key for key in wanted if loaded[key] != wanted[key]]:
        raise ValueError(
            f"tokenizer: {type(tokenizer).__name__} loads {', '.join(different)} otherwise than saved. Load the "
            "source as PreTrainedTokenizerFast, which takes its tokenizer.json as it is."
        )
    return rebuilt
