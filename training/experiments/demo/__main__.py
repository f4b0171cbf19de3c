"""Run the full pipeline end to end on emoji: data, teacher, student, stage 1, stage 2, evaluation, model card.

Examples:
  python -m training.demo
  python -m training.demo --every 40 --max_steps 20 --output_dir runs/trial
"""

from pathlib import Path

from training.experiments.demo.options import PROGRAM, DemoOptions, make_plan
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors
from training.utils.results import PLOT_FILE, RESULTS_FILE, Results


def main(argv: list[str] | None = None):
    """Parse, print the plan, run, print the tables."""
    options = parse_options(DemoOptions, argv, prog=PROGRAM, description=__doc__ or "")
    with user_errors("demo", extra="demo"):
        print(make_plan(options), flush=True)
        # torch, transformers and datasets take seconds to import
        from training.experiments.demo.run import CROSS_MODEL_FILE, Demo, claim_demo_folder
        from training.hub.cards.tables import size_table

        hide_library_bars()
        folder = Path(options.output_dir)
        with claim_demo_folder(folder):
            results = Demo(options).run()
    cross = Results.read(folder / CROSS_MODEL_FILE)
    cross.rows = [row for row in cross.rows if row.stage == "aligned"]
    tables = [results.table(), size_table(results), "Student and teacher together:", cross.table()]
    print("\n" + "\n\n".join(filter(None, tables)))
    print(f"\nFinished in {results.meta['seconds']} s.")
    written = {
        f"{folder}/model": "Hub folder with model, code and card",
        f"{folder}/{RESULTS_FILE}": "all numbers",
        f"{folder}/{PLOT_FILE}": "plot of the table",
    }
    print_ending(written)


if __name__ == "__main__":
    main()
