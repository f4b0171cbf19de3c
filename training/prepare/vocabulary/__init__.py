"""Cut a multilingual Unigram tokenizer, and with it the embedding table, down to what English and Chinese need.

In a small text tower the vocabulary is the memory: 250,002 pieces of 384 numbers are 96 M parameters, twelve layers
of that width 21 M. A cut keeps scores and order, so that a text whose pieces are all kept is read in the same pieces
as before, only under new ids: a teacher's ids are one lookup away, and a student can learn its token states.

    python -m training.prepare.vocabulary --tokenizer xlm-roberta-base --corpus captions.parquet --size 32000
"""

from training.prepare.vocabulary.coverage import Coverage, coverage, table_mib
from training.prepare.vocabulary.cut import PieceCounts, count_pieces, cut_counted, cut_vocabulary

__all__ = [
    "Coverage",
    "PieceCounts",
    "count_pieces",
    "coverage",
    "cut_counted",
    "cut_vocabulary",
    "table_mib",
]
