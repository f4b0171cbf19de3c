r"""Measure indexing and a query beside the program rclip, on the same photographs and in one run.

Examples:
  python -m venv /tmp/rclip && /tmp/rclip/bin/pip install rclip
  python -m training.studies.search.rclip --rclip /tmp/rclip/bin/rclip --model model_cards/dcclip-tiny-photo \
    --data pairs.parquet

rclip loads its model from the Hub. Here it gets a ViT-B-32-256 of random weights in the same format, so that the load
is that of its own model, and nothing is downloaded. Its results mean nothing.
"""

from training.studies.search.options import RclipOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars

PROGRAM = "python -m training.studies.search.rclip"


def main(argv: list[str] | None = None):
    """Parse the options, measure, write."""
    options = parse_options(RclipOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("rclip", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.search.measure_rclip import measure_rclip
        from training.studies.search.tables import rclip_table

        hide_library_bars()
        print(rclip_table(measure_rclip(options, PROGRAM)))


if __name__ == "__main__":
    main()
