"""Measure a search in many vectors by exact scan on one core, beside FAISS and USearch.

Examples:
  python -m training.studies.search.scan
  python -m training.studies.search.scan --num_vectors 100000 --dimension 512

The vectors are random, of unit length. A query is a vector plus noise, so that it has a nearest neighbour. All
programs find the ten best vectors, one query at a time. `recall@10` is the share of the ten best by float32.
"""

import os

from training.studies.search.options import ScanOptions
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.search.scan"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(ScanOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("scan", extra="bench"):
        # numpy's BLAS takes as many threads as the process has cores when it is loaded
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            from training.studies.search.measure_scan import measure_scan
            from training.studies.search.tables import scan_table

            print(scan_table(measure_scan(options, PROGRAM)))
        finally:
            os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
