r"""Compare one teacher, another, both and none, on stored features of photographs.

Examples:
  python -m training.demo.photo_teacher.towers --output_dir runs/towers
  python -m training.demo.packaged_weights --output_dir runs/efficientnet_lite0
  python -m training.studies.teachers.targets --train TRAIN.parquet --validation VALIDATION.parquet

The teachers are two heads each, over the same image encoder and another text encoder, trained by InfoNCE. A student is
a head over a smaller image encoder, and a text tower over token ids from random weights.
"""

from training.studies.teachers.options import TargetsOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.studies.teachers.targets"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(TargetsOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("targets", extra="photos"):
        # after parsing, so that --help does not load torch
        from training.studies.teachers.measure_targets import measure_targets
        from training.studies.teachers.tables import targets_table

        hide_library_bars()
        print(targets_table(measure_targets(options, PROGRAM)))


if __name__ == "__main__":
    main()
