"""Other spellings of the same words: capital letters, and traditional Chinese characters.

Captions for training are mostly in lower case and in simplified characters, but people also type DOG, Dog and 貓.
"""

from collections.abc import Sequence
from typing import Any


def ignore_case(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Let the normalizer of a pipeline turn capital letters into small ones, as that of CLIP does.

    Args:
        pipeline: Content of tokenizer.json; it is not changed.

    Returns:
        The pipeline with `Lowercase` at the end of its normalizer. It stays the same if it has one.
    """
    normalizer = pipeline["normalizer"]
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if any(step["type"] == "Lowercase" or step.get("lowercase") for step in steps):
        return pipeline
    return pipeline | {"normalizer": {"type": "Sequence", "normalizers": [*steps, {"type": "Lowercase"}]}}


def simplified_pieces(pieces: Sequence[str]) -> dict[int, int]:
    """Find the pieces in traditional Chinese whose simplified form is a piece, too. OpenCC converts them.

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
