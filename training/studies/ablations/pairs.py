"""Measure how stage 2 depends on the number of pairs, with and without stage 1, over several seeds.

Examples:
  python -m training.studies.ablations.pairs
  python -m training.studies.ablations.pairs --seeds 0 --every 40

Stage 1 trains on images and captions separately, and uses all of them in every arm that has it. Stage 2 uses the pairs
of all concepts, of a quarter, or of a sixteenth of them. All other settings are those of the stage 2 ablation; the
candidates are the names of all concepts.
"""

from training.studies.ablations.options import PairsOptions, parse_comparison
from training.utils.cli import user_errors

PROGRAM = "python -m training.studies.ablations.pairs"


def main(argv: list[str] | None = None):
    """Parse the options, train and evaluate all arms, write the results, print the table."""
    options = parse_comparison(PairsOptions, argv, PROGRAM, __doc__)
    with user_errors("pairs", extra="demo"):
        # after parsing, so that --help does not load torch and datasets
        from training.studies.ablations.comparison import write_and_print
        from training.studies.ablations.pairs_arms import ARMS
        from training.studies.ablations.stage2_runs import Stage2Ablation

        results = Stage2Ablation(options, ARMS, PROGRAM).run()
        write_and_print(results, options.results_dir, "pairs")


if __name__ == "__main__":
    main()
