r"""Compare the default of `training/finetune.py` with plain fine-tuning and with LoRA.

Examples:
  python -m training.studies.finetuning --data stamps.parquet words.parquet \
      --photographs flickr8k.parquet --labelled tiny_imagenet.parquet

All arms train on the same pairs, for as many steps. `plain` trains all weights, without anchors, early stopping and
interpolation. `lora` trains low-rank adapters and merges them. The test split is in no training set. An interrupted
study goes on with the same command.
"""

from training.studies.finetuning.options import FinetuningOptions
from training.utils.cli import parse_options, user_errors

PROGRAM = "python -m training.studies.finetuning"


def main(argv: list[str] | None = None):
    """Parse the options, train, measure, print the table."""
    options = parse_options(FinetuningOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("finetuning", extra="bench"):
        # after parsing, so that --help does not load torch
        from training.studies.finetuning.measure import FinetuningStudy
        from training.studies.finetuning.tables import finetuning_table
        from training.utils.process import keep_freed_memory
        from training.utils.quiet import hide_library_bars

        hide_library_bars()
        keep_freed_memory()
        print(f"\n{finetuning_table(FinetuningStudy(options, PROGRAM).run())}")


if __name__ == "__main__":
    main()
