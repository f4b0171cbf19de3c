"""Measure stage 1 with a full-size AltCLIP as the teacher: rates and peak memory.

Examples:
  python -m training.studies.benchmarks.stage1

The rate from cached targets is compared with that of the live teacher, and the rate of the training loop with that of
a bare loop. Peak memory is measured for one tower. The teacher has AltCLIP's config and random weights, which cost as
much as trained ones; nothing is downloaded.
"""

from training.studies.benchmarks.options import Stage1Options
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.benchmarks.stage1"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(Stage1Options, argv, prog=PROGRAM, description=__doc__)
    with user_errors("stage1", extra="demo"):
        # after parsing, so that --help does not load torch
        from training.studies.benchmarks.measure_stage1 import Stage1Benchmark

        print(Stage1Benchmark(options, PROGRAM).run())


if __name__ == "__main__":
    main()
