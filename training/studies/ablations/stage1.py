"""Measure the effect of single choices in stage 1, on the student of the demo, over several seeds.

Examples:
  python -m training.studies.ablations.stage1
  python -m training.studies.ablations.stage1 --seeds 0 --every 40

Every arm starts from the shortened recipes of the demo. An arm with one stage trains it for as many steps as the other
arms train both, so that all arms use the same number of images. All arms share one cache of teacher targets.
"""

from training.studies.ablations.options import Stage1Options, parse_comparison
from training.utils.cli import user_errors

PROGRAM = "python -m training.studies.ablations.stage1"


def main(argv: list[str] | None = None):
    """Parse the options, train and evaluate all arms, write the results, print the table."""
    options = parse_comparison(Stage1Options, argv, PROGRAM, __doc__)
    with user_errors("stage1", extra="demo"):
        # after parsing, so that --help does not load torch and datasets
        from training.studies.ablations.comparison import write_and_print
        from training.studies.ablations.stage1_runs import ARMS, Stage1Ablation

        results = Stage1Ablation(options, ARMS, PROGRAM).run()
        write_and_print(results, options.results_dir, "ablation")


if __name__ == "__main__":
    main()
