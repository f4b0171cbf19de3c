r"""Give a finished image tower a bilingual text tower, and never train the image tower.

Examples:
  python -m training.studies.photographs.text_only --train flickr8k_train.parquet \
      --validation flickr8k_validation.parquet --labelled tiny_imagenet.parquet

The image tower is the teacher's. The text tower starts from pretrained layers and learns the teacher's embeddings of
parallel sentences, or of captions too, of which the teacher encodes the English ones alone or both languages. Pairs of
photographs and captions follow, or are all there is. The recipes are those of training/configs/photographs/text_only,
and training/README.md tells how to make what they name. An interrupted study goes on with the same command.
"""

from training.studies.photographs.text_only_options import TextOnlyOptions
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.photographs.text_only"


def main(argv: list[str] | None = None):
    """Parse the options, train and measure all arms, print the table."""
    options = parse_options(TextOnlyOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("text_only", extra="photos"):
        # after parsing, so that --help does not load torch
        from training.studies.photographs.tables import arms_table
        from training.studies.photographs.text_only_runs import TextOnlyStudy
        from training.utils.process import keep_freed_memory
        from training.utils.quiet import hide_library_bars

        hide_library_bars()
        keep_freed_memory()
        print(f"\n{arms_table(TextOnlyStudy(options, PROGRAM).run())}")


if __name__ == "__main__":
    main()
