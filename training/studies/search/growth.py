"""Measure how memory and time grow with the number of photographs in an index.

Examples:
  python -m training.studies.search.growth --model model_cards/dcclip-tiny-photo --data pairs.parquet

JPEG files are written and indexed with `dcclip index`, more of them in each step, in one index. After each step, the
same command runs over the unchanged files, and `dcclip search` answers a query, each several times in a new process.
"""

from training.studies.search.options import GrowthOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.studies.search.growth"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(GrowthOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("growth", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.search.measure_growth import measure_growth
        from training.studies.search.tables import growth_table

        hide_library_bars()
        print(growth_table(measure_growth(options, PROGRAM)))


if __name__ == "__main__":
    main()
