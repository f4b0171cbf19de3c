"""Zero-shot classification after ELEVATER, in English and in Chinese, or of labelled sets of your own.

python training/eval.py --model runs/demo/model --protocol elevater-en elevater-zh --data cifar-10=CIFAR.parquet
--output_dir out
python training/eval.py --model runs/demo/model --class_names NAMES.json --data unseen=TEST.parquet --language zh
--output_dir out
python training/eval.py --model runs/demo/model --retrieval flickr=PAIRS.parquet --output_dir out
"""

from jsonargparse import ArgumentError, ArgumentParser

from training.evaluation.embedding_cache import EmbeddingCache, find_processes
from training.evaluation.options import EvalOptions
from training.evaluation.report.files import write_report
from training.evaluation.run import Runner
from training.utils.results import Results

LISTS = ("model", "data", "protocol", "sets", "language", "label_names", "retrieval")
FLAGS = ("published", "per_class", "confusion", "trust_remote_code")


def make_parser() -> ArgumentParser:
    """The command line: the fields of `EvalOptions`."""
    parser = ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="config", help="options in YAML")
    for name in LISTS:  # several values, or the option several times
        parser.add_argument(f"--{name}", nargs="+", action="extend", type=str, default=[])
    for name in FLAGS:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_class_arguments(EvalOptions, skip={*LISTS, *FLAGS})
    return parser


def main(argv: list[str] | None = None) -> Results | None:
    """Parse, measure, write, print the table; None in all processes but the first."""
    parser = make_parser()
    try:
        values = vars(parser.instantiate(parser.parse_args(argv)))
        values.pop("config")
        options = EvalOptions(**values)
        eval_tasks = options.eval_tasks()
        pair_sets = options.pair_sets()
        sets, missing = options.open_sets(eval_tasks)
        state = find_processes()
        cache = EmbeddingCache(options.cache_folder, state)
        runner = Runner(
            eval_tasks,
            sets,
            cache,
            options.stage,
            options.seed,
            options.trust_remote_code,
            options.keeps_details,
            pair_sets,
        )
        outcome = runner.run(options.model, options.text_model)
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"eval: {error}\n")
    if not state.is_main_process:
        return None
    results, text = write_report(options, eval_tasks, sets, missing, outcome, pair_sets)
    print(text)
    return results


if __name__ == "__main__":
    main()
