r"""Measure zero-shot classification and image-text retrieval in English and Chinese.

python training/eval.py --model runs/demo/model --protocol elevater-en elevater-zh \
    --data cifar-10=CIFAR.parquet --output_dir out
python training/eval.py --model runs/demo/model --class_names NAMES.json --language zh \
    --data mine=TEST.parquet --output_dir out
python training/eval.py --model runs/demo/model --retrieval flickr=PAIRS.parquet --output_dir out
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from training.evaluation.options import EvalOptions
from training.utils.cli import hide_library_bars, parse_options, user_errors
from training.utils.process import end_process_group

if TYPE_CHECKING:
    from training.utils.results import Results

PROG = "python training/eval.py"


def main(argv: list[str] | None = None) -> "Results | None":
    """Parse, measure, write the results and print the table.

    Args:
        argv: Command-line arguments. Default: `sys.argv[1:]`.

    Returns:
        The results in the first process, None in all others.
    """
    options = parse_options(EvalOptions, argv, prog=PROG, description=__doc__)
    with user_errors("eval", extra="train"):
        return _run(options)


def _run(options: EvalOptions) -> "Results | None":
    # imported after parsing: torch and transformers take seconds, and --help needs neither
    from training.evaluation.run import REPORT_FILES, Evaluation
    from training.utils.output import claim_folder
    from training.utils.process import find_processes

    hide_library_bars()
    evaluation = Evaluation.open(options)
    state = find_processes()
    with ExitStack() as claimed:
        if state.is_main_process:
            claim = claim_folder(
                options.output_dir, REPORT_FILES, command="eval", overwrite=options.overwrite
            )
            claimed.enter_context(claim)
        results = evaluation.measure_all(state)
        if not state.is_main_process:
            return None
        print(evaluation.write(results))
    return results


if __name__ == "__main__":
    main()
    end_process_group()
