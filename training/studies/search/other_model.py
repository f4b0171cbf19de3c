"""Make a model of an unrelated embedding space, with which `training.studies.search.adapt` measures maps.

Examples:
  python -m training.demo.packaged_weights --output_dir runs/efficientnet_lite0
  python -m training.studies.search.other_model --data pairs.parquet --output_dir runs/other
  python training/export.py runs/other --output_dir runs/other --variants fp32

Its image tower is the EfficientNet-Lite0 of ImageNet, which no teacher has changed. Its text tower has the layers of
`model`. Both projections are new: a canonical correlation analysis of images and captions, without any gradient step.
"""

from training.studies.search.options import OtherModelOptions
from training.utils.cli import parse_options, user_errors
from training.utils.process import keep_freed_memory
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.studies.search.other_model"


def main(argv: list[str] | None = None):
    """Parse the options, fit, save."""
    options = parse_options(OtherModelOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("other_model", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.search.make_other_model import make_other_model

        hide_library_bars()
        keep_freed_memory()  # halves the time of the image tower
        make_other_model(options)


if __name__ == "__main__":
    main()
