r"""Measure what each stored type of vectors costs in recall, on photographs with captions in both languages.

Examples:
  python -m training.studies.search.recall --data photos.parquet
  python -m training.studies.search.recall --data photos.parquet --others more.parquet

`recall_at_10` is the share of captions whose own photograph is among the ten best results. `nearest_at_10` is the
share of the ten best results by float32 vectors that the type finds too. Float32 is the reference, and no type of an
index.
"""

from training.studies.search.options import RecallOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.studies.search.recall"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(RecallOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("recall", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.search.measure_recall import measure_recall
        from training.studies.search.tables import recall_table

        hide_library_bars()
        print(recall_table(measure_recall(options, PROGRAM)))


if __name__ == "__main__":
    main()
