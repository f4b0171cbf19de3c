"""Measure the rate of indexing with an exported model.

Examples:
  python -m training.studies.search --model runs/demo/edge --data pairs.parquet

The images are stored as JPEG files and indexed. The bare loop decodes the same files in draft mode
and encodes a ready tensor for each, in as many threads. `decoding` decodes, resizes and normalizes them, and encodes
nothing: that is the work of the CPU if a GPU encodes. Processor time counts the work of all threads; other load on
the machine hardly changes it.
"""

from training.studies.search.options import SearchOptions
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.search"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(SearchOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("search", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.search.measure import SearchStudy

        SearchStudy(options, PROGRAM).run()


if __name__ == "__main__":
    main()
