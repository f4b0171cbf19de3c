r"""Measure the recall of a model that searches an index of an unrelated model through a map of `dcclip adapt`.

Examples:
  python -m training.studies.search.adapt --models model_cards/dcclip-tiny-photo runs/other/edge \
    --data photos.parquet --sample more.parquet

The map is fitted to photographs that no query describes, and to no text. Every caption is a query, and `recall@10` is
the share of captions whose own photograph is among the ten best results.
"""

from training.studies.search.options import AdaptOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.studies.search.adapt"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(AdaptOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("adapt", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.search.measure_adapt import measure_adapt
        from training.studies.search.tables import adapt_table

        hide_library_bars()
        print(adapt_table(measure_adapt(options, PROGRAM)))


if __name__ == "__main__":
    main()
