"""The pipeline of a fast tokenizer: the content of `tokenizer.json` as a dict.

A pipeline holds everything that turns a text into ids: normalizer, pre-tokenizer, model (the vocabulary), added
tokens and post-processor. `read_pipeline` gets it from a tokenizer, `digest` compares pipelines, `cut_pipeline`
removes pieces of a Unigram vocabulary, and `rebuild` makes a tokenizer of the result.

Padding and truncation are in `tokenizer.json` too, but they are call state: a fast tokenizer stores the options of its
last call there. All functions here ignore them.
"""

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
CALL_STATE = ("padding", "truncation")  # keys of tokenizer.json that the last call has set
# options of from_pretrained that transformers would save
LOADING_OPTIONS = ("is_local", "local_files_only")


@contextmanager
def untruncated(tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokenizer]:
    """Switch off padding and truncation of a fast tokenizer within the `with` block.

    Args:
        tokenizer: Fast tokenizer; its call state is restored at the end.

    Yields:
        The backend of the tokenizer. It is not a copy, because a copied Unigram model has scores with a rounding error
        in the last bit.
    """
    backend = tokenizer.backend_tokenizer
    padding = backend.padding
    truncation = backend.truncation
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
    """Return the pipeline of a fast tokenizer, without call state."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in pipeline.items() if key not in CALL_STATE}


def read_unigram(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the pipeline of a tokenizer that can be cut.

    Raises:
        ValueError: The tokenizer has no `tokenizer.json`, is not Unigram, has no unknown piece, encodes unknown
            characters as bytes, or adds special tokens by anything but a template.
    """
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"tokenizer: {name!r} ({type(tokenizer).__name__}) is not a fast tokenizer but a slow one. Load the fast "
            "tokenizer of the same model, which has a tokenizer.json."
        )
    pipeline = read_pipeline(tokenizer)
    model = pipeline["model"]
    processor = pipeline["post_processor"] or {}
    problems = {
        f"has a model of type {model.get('type')!r}, not Unigram": model.get("type") != "Unigram",
        "has no unknown piece (unk_id)": model.get("unk_id") is None,
        "encodes unknown characters as bytes (byte_fallback)": model.get("byte_fallback"),
        "has a post-processor that is no template": processor.get("special_tokens") is None,
    }
    for problem, is_found in problems.items():
        if is_found:
            raise ValueError(
                f"tokenizer: {name!r} {problem}, so it cannot be cut. Choose a tokenizer in the layout of XLM-R."
            )
    return pipeline


def _comparable(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Round Unigram scores to single precision: loading a file can change their last bit in double precision."""
    model = pipeline["model"]
    if model.get("type") != "Unigram":
        return pipeline
    pieces, scores = zip(*model["vocab"], strict=True)
    rounded = np.array(scores, dtype=np.float32).tolist()
    return pipeline | {"model": model | {"vocab": [pieces, rounded]}}


def digest(pipeline: dict[str, Any]) -> str:
    """Return a SHA-256 digest of a pipeline. Tokenizers with equal digests return the same ids for every text."""
    text = json.dumps(_comparable(pipeline), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def cut_pipeline(pipeline: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Remove pieces from a Unigram pipeline.

    Args:
        pipeline: Pipeline that `read_unigram` returned; it is not changed.
        kept: Ids of the pieces to keep, ascending, with all added tokens and the unknown piece.

    Returns:
        The pipeline with these pieces. The new id of a piece is its place in `kept`.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    model = dict(pipeline["model"])
    model["unk_id"] = new_ids[model["unk_id"]]
    # the pieces of the model come first; added tokens that are not in the model follow
    model["vocab"] = [piece for number, piece in enumerate(model["vocab"]) if number in new_ids]
    processor = copy.deepcopy(pipeline["post_processor"])
    for token in processor["special_tokens"].values():
        token["ids"] = [new_ids[number] for number in token["ids"]]
    added = [token | {"id": new_ids[token["id"]]} for token in pipeline["added_tokens"]]
    return pipeline | {"added_tokens": added, "post_processor": processor, "model": model}


def save_with_pipeline(
    tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any], folder: str | Path
):
    """Save a tokenizer with a given pipeline and without call state.

    Args:
        tokenizer: Tokenizer whose settings, such as special tokens, are saved.
        pipeline: Pipeline to save instead of the tokenizer's own.
        folder: Folder to write to.
    """
    tokenizer.save_pretrained(folder)
    stored = pipeline | dict.fromkeys(CALL_STATE)
    content = json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
    (Path(folder) / TOKENIZER_FILE).write_text(content, encoding="utf-8")


def rebuild(
    tokenizer: PreTrainedTokenizerBase, pipeline: dict[str, Any]
) -> PreTrainedTokenizerBase:
    """Make a tokenizer with the class and settings of a given tokenizer and a new pipeline.

    Args:
        tokenizer: Tokenizer that provides class and settings; it is not changed.
        pipeline: Pipeline of the new tokenizer.

    Raises:
        ValueError: The class changes the pipeline when it loads one, so a saved tokenizer would return wrong ids.
    """
    with TemporaryDirectory() as folder:
        save_with_pipeline(tokenizer, pipeline, folder)
        rebuilt = AutoTokenizer.from_pretrained(folder)
    rebuilt.name_or_path = ""
    for option in LOADING_OPTIONS:
        rebuilt.init_kwargs.pop(option, None)
    expected = _comparable(pipeline)
    loaded = _comparable(read_pipeline(rebuilt))
    different = [key for key in expected if loaded[key] != expected[key]]
    if different:
        raise ValueError(
            f"tokenizer: {type(tokenizer).__name__} changes {', '.join(different)} when it loads a tokenizer.json. "
            "Load the source as PreTrainedTokenizerFast, which keeps all of it."
        )
    return rebuilt
