"""From raw pairs to a high-quality Chinese and English image-text set.

python -m training.prepare.curate --data pairs.parquet --output_dir runs/curated
python -m training.prepare.curate --data pairs.parquet --output_dir runs/curated --exclude test.parquet
--teacher BAAI/AltCLIP --drop_share '{"en": 0.3, "zh": 0.3}' --max_language_ratio 1.5
"""

import datasets
import transformers
from jsonargparse import ArgumentError, ArgumentParser

from training.prepare.curate.options import CurateOptions
from training.prepare.curate.run import curate


def main(argv: list[str] | None = None):
    """Parse, curate, print the table."""
    parser = ArgumentParser(
        prog="python -m training.prepare.curate",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--exclude", nargs="+", type=str, default=[], help="sources whose images must not be in it")
    parser.add_class_arguments(CurateOptions, skip={"exclude"})
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        options = CurateOptions(**vars(parser.instantiate(parser.parse_args(argv))))
        report = curate(options)
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"curate: {error}\n")
    print(f"{report.table()}\n\n{options.output_dir}/data, {options.output_dir}/report.md")


if __name__ == "__main__":
    main()
