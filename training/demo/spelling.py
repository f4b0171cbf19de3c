"""Make a finished model ignore letter case and read guide_dog, guide-dog and 貓 without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CONFIG_NAME

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.engine.checkpoint import WEIGHTS_FILE
from training.hub import write_card
from training.text.pipeline import TOKENIZER_FILE, cut_pipeline, file_content, read_pipeline
from training.utils.files import atomic_write, write_text

WORD_START = "\u2581"  # of Unigram pieces, in place of a space
SEPARATORS = ("_", "-")


def unify_spelling(folder: Path, student: DCCLIPModel, processor: DCCLIPProcessor) -> int:
    """Change tokenizer and weights of a model in place, and refresh its card.

    A model trained on lowercase captions does not recognize DOG, and one trained on simplified Chinese hardly
    recognizes 貓. The tokenizer lowercases texts and reads guide_dog and guide-dog as "guide dog", and each
    traditional piece of the vocabulary gets the embedding of its simplified form. Pieces in upper case or with a
    hyphen, which no text has any more, are removed. Embeddings of other texts stay the same.

    Args:
        folder: Finished model with a Unigram tokenizer, without exports and results.
        student: The model in this folder.
        processor: The processor in this folder.

    Returns:
        Number of traditional pieces that have the embedding of their simplified form.
    """
    table = student.text_model.get_input_embeddings().weight
    (name,) = (name for name, weight in student.named_parameters() if weight is table)
    vocabulary = processor.tokenizer.get_vocab()
    pairs = simplified_pieces(sorted(vocabulary, key=vocabulary.__getitem__))
    tensors = load_file(folder / WEIGHTS_FILE)  # in their own precision
    tensors[name][[*pairs]] = tensors[name][[*pairs.values()]]
    pipeline = read_pipeline(processor.tokenizer)
    pipeline |= {"normalizer": extended(pipeline["normalizer"])}
    normalizer = Tokenizer.from_str(json.dumps(pipeline)).normalizer
    words = [piece.replace(WORD_START, "") for piece, _ in pipeline["model"]["vocab"]]
    reachable = {number for number, word in enumerate(words) if normalizer.normalize_str(word) == word}
    rows = sorted({*reachable, pipeline["model"]["unk_id"], *(token["id"] for token in pipeline["added_tokens"])})
    tensors[name] = tensors[name][rows]
    write_text(folder / TOKENIZER_FILE, file_content(cut_pipeline(pipeline, rows)))
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    config["text_config"]["vocab_size"] = len(rows)
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")
    with atomic_write(folder / WEIGHTS_FILE) as scratch:
        save_file(tensors, scratch, {"format": "pt"})
    write_card(folder)
    return len(pairs)


def extended(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """A tokenizer's normalizer with the replacements of separators as its first steps and lowercasing as the last.

    Labels often are names of files and folders, hence the separators. Steps that are there are not repeated.
    """
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    replacements = [{"type": "Replace", "pattern": {"String": each}, "content": " "} for each in SEPARATORS]
    lowercase = [{"type": "Lowercase"}]
    if any(step["type"] == "Lowercase" or step.get("lowercase") for step in steps):
        lowercase = []
    missing = [replacement for replacement in replacements if replacement not in steps]
    return {"type": "Sequence", "normalizers": [*missing, *steps, *lowercase]}


def simplified_pieces(pieces: Sequence[str]) -> dict[int, int]:
    """Find the pieces in traditional Chinese whose simplified form, by OpenCC, is also a piece.

    Args:
        pieces: Pieces of a vocabulary, by id.

    Returns:
        Id of the simplified piece by id of the traditional one.
    """
    from opencc import OpenCC  # of the extra `photos`

    ids = {piece: number for number, piece in enumerate(pieces)}
    convert = OpenCC("t2s").convert
    simplified = {number: ids.get(convert(piece), number) for number, piece in enumerate(pieces)}
    return {number: other for number, other in simplified.items() if other != number}
