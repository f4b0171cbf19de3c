r"""Caption images with a captioner of your choice, and drop captions that do not fit their image.

Examples:
  python -m training.prepare.captions --model Salesforce/blip-image-captioning-base --data images.parquet \
      --output_dir runs/captioned
  python -m training.prepare.captions --model microsoft/git-base-coco --data pairs.parquet --column en \
      --num_captions 4 --teacher runs/photo_teacher --min_similarity 0.2 --output_dir runs/reinforced

The output folder has the rows of the source with one more column of captions (data/), and counts of written and
dropped captions (captions.json). Run the same command again to resume an interrupted run.
"""

from training.prepare.captions.options import PROGRAM, CaptionsOptions
from training.utils.cli import parse_options, print_ending, user_errors
from training.utils.quiet import hide_library_bars


def main(argv: list[str] | None = None):
    """Parse the options, caption, print the counts."""
    with user_errors("captions", extra="train"):
        options = parse_options(CaptionsOptions, argv, prog=PROGRAM, description=__doc__)
        # after parsing, so that --help does not load torch
        from training.prepare.captions.run import COUNTS_FILE, caption

        hide_library_bars()
        counts = caption(options)
    for cause, number in sorted(counts.items()):
        print(f"{number:8d}  {cause}")
    written = {
        f"{options.output_dir}/data": "rows with captions, as parquet files",
        f"{options.output_dir}/{COUNTS_FILE}": "counts of written and dropped captions",
    }
    pattern = f"{options.output_dir}/data/*.parquet"
    print_ending(written, [f"accelerate launch training/align.py --config RECIPE --data.train '{pattern}'"])


if __name__ == "__main__":
    main()
