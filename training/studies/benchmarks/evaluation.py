"""Measure how much of a model's bare speed remains when images are decoded and prepared.

Examples:
  python -m training.studies.benchmarks.evaluation --data images.parquet

Ready tensors are what the whole pipeline produces; the bare rate is that of the forward pass on these tensors, in the
same batches.
"""

from training.studies.benchmarks.options import EvaluationOptions
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.benchmarks.evaluation"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(EvaluationOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("evaluation", extra="eval"):
        # after parsing, so that --help does not load torch
        from training.studies.benchmarks.measure_evaluation import EvaluationBenchmark

        path = EvaluationBenchmark(options, PROGRAM).run()
        if path is not None:
            print(path)


if __name__ == "__main__":
    main()
