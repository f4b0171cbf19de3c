"""Measure the effect of each loss term of stage 2, on the student of the demo, over several seeds.

Examples:
  python -m training.studies.ablations.stage2
  python -m training.studies.ablations.stage2 --seeds 0 --every 40

All arms of a seed start from the same distilled student, which is an arm of its own. An arm with one stage trains it
for as many steps as the other arms train both, so that all arms use the same number of images. All arms share one
cache of teacher targets. Each student is also evaluated with the teacher's text embeddings of the class names, which
shows whether student and teacher still share an embedding space.
"""

from training.studies.ablations.options import Stage2Options, parse_comparison
from training.utils.cli import user_errors

PROGRAM = "python -m training.studies.ablations.stage2"


def main(argv: list[str] | None = None):
    """Parse the options, train and evaluate all arms, write the results, print the table."""
    options = parse_comparison(Stage2Options, argv, PROGRAM, __doc__)
    with user_errors("stage2", extra="demo"):
        # after parsing, so that --help does not load torch and datasets
        from training.studies.ablations.comparison import write_and_print
        from training.studies.ablations.stage2_runs import ARMS, Stage2Ablation

        results = Stage2Ablation(options, ARMS, PROGRAM).run()
        write_and_print(results, options.results_dir, "alignment")


if __name__ == "__main__":
    main()
