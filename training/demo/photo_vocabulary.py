"""The vocabulary of the shipped model of photographs, related to the tokenizer of a teacher again.

A finished model keeps its tokenizer and drops the ids that relate it to the teacher's. They follow from the pieces.
The teacher's normalizer is taken, since the shipped model ignores case: texts are then divided as the teacher does.
"""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from training.text.pipeline import digest, read_pipeline, rebuild
from training.text.tokenizers import load_tokenizer
from training.text.vocabulary import Vocabulary


def relate_vocabulary(folder: str | Path, source: PreTrainedTokenizerBase) -> Vocabulary | None:
    """Relate the tokenizer of a finished model to the tokenizer that it was cut from.

    Args:
        folder: Folder of the finished model.
        source: Tokenizer of a teacher.

    Returns:
        The cut vocabulary; None if its pieces are not a part of the source's, in the same order.
    """
    tokenizer = load_tokenizer(str(folder), "tokenizer")
    known = source.get_vocab()
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    ids = [known.get(piece, -1) for piece, _ in pieces]
    if min(ids) < 0 or ids != sorted(set(ids)):
        return None
    source_ids = torch.tensor(ids)
    kept_ids = torch.full((len(source),), -1, dtype=torch.int64)
    kept_ids[source_ids] = torch.arange(len(ids))
    name = Path(folder).name
    normalizer = {"normalizer": read_pipeline(source)["normalizer"]}
    return Vocabulary(
        rebuild(tokenizer, read_pipeline(tokenizer) | normalizer),
        source_ids,
        kept_ids,
        source=source.name_or_path,
        source_digest=digest(read_pipeline(source)),
        corpus=f"that of {name}",
        counts={"pieces": len(ids)},
    )
