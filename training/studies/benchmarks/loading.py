"""Measure data loading: streams of tar shards and parquet against plain Pillow and against ready tensors.

Examples:
  python -m training.studies.benchmarks.loading

The same images are stored as tar shards, as a parquet file and as plain files. The rates of the loaders cover whole
batches, including the tokens of the captions. Plain Pillow opens each image, converts it to RGB, resizes, crops and
makes a tensor; it reads the plain files, and the tar shards with Python's tarfile. These rates are on one thread. The
steps are those of stage 2 (forward, backward, optimizer) on all threads, on batches in a list and on batches from the
stream. Each ratio is the median over rounds in which both alternate.

The embedded corpus is rendered at 256 pixels for tiny, which trains at 224, and at 96 pixels for the student of the
demo. On small images, costs other than decoding have the largest weight.
"""

from training.studies.benchmarks.options import LoadingOptions
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.benchmarks.loading"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(LoadingOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("loading", extra="demo"):
        # after parsing, so that --help does not load torch
        from training.studies.benchmarks.measure_loading import LoadingBenchmark

        print(LoadingBenchmark(options, PROGRAM).run())


if __name__ == "__main__":
    main()
