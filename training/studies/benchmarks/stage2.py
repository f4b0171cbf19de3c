"""Measure stage 2: its rate against open_clip's trainer, and the memory of gradient caching.

Examples:
  python -m training.studies.benchmarks.stage2

Both trainers alternate on the same machine, with the same timm backbone and transformer, the same batch, precision and
images, from encoded files to the optimizer step; the ratio of the rates is the median over the rounds. Memory is the
peak of a new process minus the loaded model, the uint8 pixels of the batch, and one similarity matrix per language;
the total is reported too.
"""

from training.studies.benchmarks.options import Stage2Options
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.benchmarks.stage2"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(Stage2Options, argv, prog=PROGRAM, description=__doc__)
    with user_errors("stage2", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.benchmarks.measure_stage2 import Stage2Benchmark

        print(Stage2Benchmark(options, PROGRAM).run())


if __name__ == "__main__":
    main()
