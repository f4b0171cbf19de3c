r"""Filter raw image-text pairs into a clean Chinese and English data set.

Examples:
  python -m training.prepare.curate --data pairs.parquet --output_dir runs/curated
  python -m training.prepare.curate --data pairs.parquet --output_dir runs/curated --exclude test.parquet \
      --teacher BAAI/AltCLIP --drop_share '{"en": 0.3, "zh": 0.3}'

The output folder holds the curated set (data/), and report.json with counts and samples of each filter. The paper
(arXiv 2404.11249) recommends such a set; the filters and thresholds are ours.
"""

from training.prepare.curation_options import PROGRAM, CurateOptions
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors


def main(argv: list[str] | None = None):
    """Parse the options, curate, print the table."""
    options = parse_options(CurateOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("curate", extra="train"):
        # after parsing, so that --help does not load torch
        from training.prepare.curation import curate, report_table

        hide_library_bars()
        report = curate(options)
    print(report_table(report))
    written = {
        f"{options.output_dir}/data": "captioned images that were kept, as parquet files",
        f"{options.output_dir}/report.json": "counts and samples of each filter",
    }
    print_ending(written)


if __name__ == "__main__":
    main()
