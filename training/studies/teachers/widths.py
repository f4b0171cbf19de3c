r"""Measure truncated embeddings of a model: as they are, rotated, and aligned at each width.

Examples:
  python -m training.studies.teachers.widths --train TRAIN.parquet --validation VALIDATION.parquet \
      --class_images TINY_IMAGENET.parquet

The rotation is to the principal axes of the embeddings of training images and captions. The alignment trains a square
matrix for each modality, which a projection could take up, by InfoNCE at each width.
"""

from training.studies.teachers.options import WidthsOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.studies.teachers.widths"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(WidthsOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("widths", extra="photos"):
        # after parsing, so that --help does not load torch
        from training.studies.teachers.measure_widths import measure_widths
        from training.studies.teachers.tables import widths_table

        hide_library_bars()
        print(widths_table(measure_widths(options, PROGRAM)))


if __name__ == "__main__":
    main()
