r"""Cut a tokenizer to English and Chinese, and measure the loss on held-out sentences.

Examples:
  python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet --size 32000 \
      --output_dir runs/cut
  python -m training.prepare.vocabulary --tokenizer BAAI/AltCLIP --corpus captions.parquet \
      --curve 8000 16000 32000 --output_dir runs/curve
"""

from training.prepare.vocabulary.options import PROGRAM, VocabularyOptions
from training.utils.cli import parse_options, user_errors
from training.utils.quiet import hide_library_bars


def main(argv: list[str] | None = None):
    """Parse the options, count, cut, print the table, write."""
    options = parse_options(VocabularyOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("vocabulary", extra="eval"):
        # after parsing, so that --help does not load torch
        from training.prepare.vocabulary.run import Run, written_names
        from training.utils.output import claim_folder

        hide_library_bars()
        with claim_folder(
            options.output_dir,
            written_names(options),
            command="vocabulary",
            inputs={"tokenizer": options.tokenizer},
            overwrite=options.overwrite,
        ):
            run = Run(options)
            if options.size is not None:
                vocabulary, _ = run.cut(options.size)
                vocabulary.save(options.output_dir)
                print(f"\n{options.output_dir}: kept {vocabulary.counts}")
            if options.curve:
                run.measure_curve()


if __name__ == "__main__":
    main()
