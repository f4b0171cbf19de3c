r"""Test the paper's claims on photographs: what stage 1 should match, and what the stages are worth with few pairs.

Examples:
  python -m training.studies.photographs.claims --train flickr8k_train.parquet \
      --validation flickr8k_validation.parquet --output_dir runs/photographs/claims

Stage 1 matches feature maps, embeddings or logits of the teacher, from all images and captions. Stage 2 is InfoNCE
without a teacher, on all pairs, a quarter or a sixteenth, after stage 1 or from pretrained towers with as many steps
as both stages. The student, its vocabulary and its towers are those of the model of photographs (training/README.md).
An interrupted study goes on with the same command.
"""

from training.studies.photographs.claims_options import ClaimsOptions
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.photographs.claims"


def main(argv: list[str] | None = None):
    """Parse the options, train and measure all arms, print the table."""
    options = parse_options(ClaimsOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("claims", extra="photos"):
        # after parsing, so that --help does not load torch
        from training.studies.photographs.claims_runs import ClaimsStudy
        from training.studies.photographs.tables import arms_table
        from training.utils.quiet import hide_library_bars

        hide_library_bars()
        print(f"\n{arms_table(ClaimsStudy(options, PROGRAM).run())}")


if __name__ == "__main__":
    main()
