"""Spelling variants of the same words: letter case, underscores and hyphens, and traditional Chinese characters.

Training captions are mostly lowercase and in simplified characters, but people also type DOG, Dog, guide_dog,
guide-dog and 貓.
"""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

WORD_START = "\u2581"  # of Unigram pieces, in place of a space
SEPARATORS = ("_", "-")


def ignore_case(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Add lowercasing to a tokenizer pipeline, as in CLIP's tokenizer.

    Args:
        pipeline: Content of tokenizer.json; it is not changed.

    Returns:
        The pipeline with `Lowercase` at the end of its normalizer, or the pipeline itself if it lowercases already.
    """
    steps = _normalizers(pipeline)
    if any(step["type"] == "Lowercase" or step.get("lowercase") for step in steps):
        return pipeline
    return pipeline | {"normalizer": {"type": "Sequence", "normalizers": [*steps, {"type": "Lowercase"}]}}


def space_separators(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Let a tokenizer pipeline read underscores and hyphens as spaces: labels often are names of files and folders.

    Args:
        pipeline: Content of tokenizer.json; it is not changed.

    Returns:
        The pipeline with these replacements as the first steps of its normalizer, or the pipeline itself if it has
        them.
    """
    steps = _normalizers(pipeline)
    replacements = [{"type": "Replace", "pattern": {"String": each}, "content": " "} for each in SEPARATORS]
    missing = [replacement for replacement in replacements if replacement not in steps]
    if not missing:
        return pipeline
    return pipeline | {"normalizer": {"type": "Sequence", "normalizers": [*missing, *steps]}}


def simplified_pieces(pieces: Sequence[str]) -> dict[int, int]:
    """Find the pieces in traditional Chinese whose simplified form, by OpenCC, is also a piece.

    Args:
        pieces: Pieces of a vocabulary, by id.

    Returns:
        Id of the simplified piece by id of the traditional one.
    """
    from opencc import OpenCC  # not at the top, because only this needs the package

    ids = {piece: number for number, piece in enumerate(pieces)}
    convert = OpenCC("t2s").convert
    simplified = {number: ids.get(convert(piece), number) for number, piece in enumerate(pieces)}
    return {number: other for number, other in simplified.items() if other != number}


def reachable_ids(pipeline: dict[str, Any]) -> list[int]:
    """Find the pieces that a text can be split into: the normalizer changes all others, such as Dog if it lowercases.

    Args:
        pipeline: Content of tokenizer.json with a Unigram model.

    Returns:
        Ids of these pieces, of the unknown piece and of all added tokens, ascending.
    """
    normalizer = Tokenizer.from_str(json.dumps(pipeline)).normalizer
    words = [piece.replace(WORD_START, "") for piece, _ in pipeline["model"]["vocab"]]
    kept = {
        number for number, word in enumerate(words) if normalizer is None or normalizer.normalize_str(word) == word
    }
    return sorted({*kept, pipeline["model"]["unk_id"], *(token["id"] for token in pipeline["added_tokens"])})


def _normalizers(pipeline: dict[str, Any]) -> list[dict[str, Any]]:
    normalizer = pipeline["normalizer"]
    return [] if normalizer is None else normalizer.get("normalizers", [normalizer])
