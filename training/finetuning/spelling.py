r"""Make a finished model ignore letter case, and read guide_dog, guide-dog and traditional Chinese, without training.

Examples:
  python -m training.finetuning.spelling --model runs/mine/aligned --output_dir runs/mine/model

A model trained on lowercase captions does not recognize DOG, and one trained on simplified Chinese hardly recognizes
貓. The command lets the tokenizer lowercase texts and read guide_dog and guide-dog as "guide dog", and gives each
traditional piece of the vocabulary the embedding of its simplified form. Pieces in upper case or with a hyphen, which
no text has any more, are removed. Embeddings of other texts stay the same.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.utils.cli import commands_of_model, hide_library_bars, parse_options, print_ending, user_errors

if TYPE_CHECKING:
    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor

PROGRAM = "python -m training.finetuning.spelling"
WORD_START = "\u2581"  # of Unigram pieces, in place of a space
SEPARATORS = ("_", "-")


@dataclass(frozen=True, kw_only=True)
class SpellingOptions:
    """Options of the command.

    Args:
        model: Folder of a finished model.
        output_dir: Folder for the changed model. Exports and results of the old weights are not copied.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    model: str
    output_dir: str
    overwrite: bool = False


def run(options: SpellingOptions) -> int:
    """Write the changed model.

    Args:
        options: Where to read and write.

    Returns:
        Number of traditional pieces that have the embedding of their simplified form.

    Raises:
        ValueError: There is no finished model, or files of the user would be replaced.
    """
    from training.engine.checkpoint import WEIGHTS_FILE
    from training.hub import DERIVED, is_publishable
    from training.students import load_student
    from training.utils.files import scratch_folder
    from training.utils.output import claim_folder

    source, target = Path(options.model), Path(options.output_dir)
    student, processor = load_student(options.model, "model")
    if not (source / WEIGHTS_FILE).is_file():
        raise ValueError(f"model: {options.model!r} is no folder with {WEIGHTS_FILE}. Download the model first.")
    card = (source / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in source.iterdir() if path.is_file() and is_publishable(path.name, card)]
    names = sorted({*files} - {*DERIVED})
    inputs = {"model": source}
    with (
        claim_folder(target, names, command="spelling", inputs=inputs, overwrite=options.overwrite),
        scratch_folder(target) as scratch,
    ):
        for name in names:
            shutil.copyfile(source / name, scratch / name)
        count = unify_spelling(scratch, student, processor)
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == WEIGHTS_FILE):
            path.replace(target / path.name)
    return count


def unify_spelling(folder: Path, student: "DCCLIPModel", processor: "DCCLIPProcessor") -> int:
    """Change tokenizer and weights of a model in place, and refresh its card.

    Args:
        folder: Finished model without exports and results.
        student: The model in this folder.
        processor: The processor in this folder.

    Returns:
        Number of traditional pieces that have the embedding of their simplified form.
    """
    from safetensors.torch import load_file, save_file

    from training.engine.checkpoint import WEIGHTS_FILE
    from training.hub import write_card
    from training.text.pipeline import cut_pipeline, read_pipeline
    from training.utils.files import atomic_write

    table = student.text_model.get_input_embeddings().weight
    (name,) = (name for name, weight in student.named_parameters() if weight is table)
    vocabulary = processor.tokenizer.get_vocab()
    pairs = simplified_pieces(sorted(vocabulary, key=vocabulary.__getitem__))
    tensors = load_file(folder / WEIGHTS_FILE)  # in their own precision
    tensors[name][[*pairs]] = tensors[name][[*pairs.values()]]
    pipeline = space_separators(ignore_case(read_pipeline(processor.tokenizer)))
    if pipeline["model"]["type"] == "Unigram":  # other models build pieces from pieces that no text has
        rows = reachable_ids(pipeline)
        pipeline, tensors[name] = cut_pipeline(pipeline, rows), tensors[name][rows]
    write_tokenizer(folder, pipeline, len(tensors[name]))
    with atomic_write(folder / WEIGHTS_FILE) as scratch:
        save_file(tensors, scratch, {"format": "pt"})
    write_card(folder)
    return len(pairs)


def write_tokenizer(folder: Path, pipeline: dict[str, Any], num_pieces: int):
    """Write a tokenizer of the same class, and the size of its vocabulary, to a model's folder.

    Args:
        folder: Folder of the model.
        pipeline: Content of tokenizer.json, without call state.
        num_pieces: Number of rows of the embedding table.
    """
    from transformers import CONFIG_NAME

    from training.text.pipeline import TOKENIZER_FILE, file_content
    from training.utils.files import write_text

    write_text(folder / TOKENIZER_FILE, file_content(pipeline))
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    config["text_config"]["vocab_size"] = num_pieces
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")


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
    """Replace underscores and hyphens by spaces in a tokenizer pipeline: labels often are names of files and folders.

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
    from opencc import OpenCC

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
    from tokenizers import Tokenizer

    normalizer = Tokenizer.from_str(json.dumps(pipeline)).normalizer
    words = [piece.replace(WORD_START, "") for piece, _ in pipeline["model"]["vocab"]]
    kept = {
        number for number, word in enumerate(words) if normalizer is None or normalizer.normalize_str(word) == word
    }
    return sorted({*kept, pipeline["model"]["unk_id"], *(token["id"] for token in pipeline["added_tokens"])})


def _normalizers(pipeline: dict[str, Any]) -> list[dict[str, Any]]:
    normalizer = pipeline["normalizer"]
    return [] if normalizer is None else normalizer.get("normalizers", [normalizer])


def main(argv: list[str] | None = None):
    """Parse the options, write the model, and name the next commands."""
    options = parse_options(SpellingOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("spelling", extra="finetune"):
        hide_library_bars()
        count = run(options)
        meaning = f"the model; {count:,} traditional pieces have the embedding of their simplified form"
        print_ending({options.output_dir: meaning}, commands_of_model(options.output_dir))


if __name__ == "__main__":
    main()
