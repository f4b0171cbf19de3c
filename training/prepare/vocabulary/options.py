"""Options of the vocabulary command."""

from dataclasses import dataclass, field

PROGRAM = "python -m training.prepare.vocabulary"


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """Options of the vocabulary command.

    Args:
        tokenizer: Hub id or folder of the source tokenizer.
        corpus: Files to count pieces on: `FILE.parquet[:COLUMN]` (default: columns en and zh), `FILE.txt[:LANGUAGE]`,
            or `module:function[:COLUMN]`.
        output_dir: Folder for the cut tokenizer with its ids, and for results.json and curve.png.
        size: Number of pieces to keep; null writes no tokenizer.
        curve: Sizes to measure for results.json and curve.png; without any, neither file is written.
        held_out: Files with sentences to measure on, in the forms of `corpus`; default: a part of the corpus.
        held_out_share: Share (0..1) of the corpus that is held out if `held_out` names no file.
        width: Width of the embedding table, for its size in MiB.
        ideograph_share: Largest share (0..1) of the kept pieces for Chinese characters that do not occur in the
            corpus.
        max_other_script: Largest share (0..1) of the letters of the corpus that may be neither Latin nor Chinese.
        attribution: Authors and licence of the corpus, written to results.json.
        seed: Key of the hash that selects the held-out sentences.
        overwrite: Replace files in `output_dir` that this command has not written.
    """

    tokenizer: str
    corpus: list[str]
    output_dir: str
    size: int | None = None
    curve: list[int] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    held_out_share: float = 0.05
    width: int = 384
    ideograph_share: float = 0.25
    max_other_script: float = 0.2
    attribution: str = ""
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self):
        if self.size is None and not self.curve:
            raise ValueError(
                "size: neither --size nor --curve is given. Give --size to write a tokenizer, --curve to measure."
            )
        if not self.held_out and not 0 < self.held_out_share < 1:
            raise ValueError(
                f"held_out_share: {self.held_out_share} is not between 0 and 1. Set a share such as 0.05."
            )
