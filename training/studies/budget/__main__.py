r"""Measure size and speed of our models and of baselines in one run: bytes, cold start, memory, milliseconds.

Examples:
  python -m training.studies.budget
  python -m training.studies.budget --models tiny clip-vit-b-32 --repeats 3 --output_dir runs/quick_budget
  python -m training.studies.budget --models altclip runs/mine/aligned

By default all sizes and baselines run behind all backends. Ratios in the table are relative to altclip. Run the same
command again to resume an interrupted run.
"""

from training.studies.budget.options import PROGRAM, BudgetOptions, Quality, measured_models
from training.utils.cli import command_of, parse_options, user_errors


def main(argv: list[str] | None = None):
    """Parse the options, measure, write results, table and plot, print the table."""
    options = parse_options(BudgetOptions, argv, prog=PROGRAM, description=__doc__)
    with user_errors("budget", extra="studies"):
        # after parsing, so that --help does not load torch, transformers and matplotlib
        from training.studies.budget.models import check_folder
        from training.studies.budget.plot import plot
        from training.studies.budget.run import Run
        from training.studies.budget.tables import derived_rows, text_table
        from training.studies.budget.texts import TEMPLATES
        from training.utils.files import write_text
        from training.utils.results import RESULTS_FILE, Results, make_meta

        quality = None if options.quality is None else Quality.read(options.quality)
        for model in measured_models(options.models):
            if model.folder is not None:
                check_folder(model.folder)

        run = Run(options)
        rows = run.measure()
        meta = make_meta(
            data=f"random noise as images; class names of ELEVATER in {' and '.join(map(repr, TEMPLATES.values()))}",
            seed=0,
            command=command_of(PROGRAM, options),
            weights="random, except for folders of finished students",
            failures=run.failures,
        )
        results = Results(meta, rows)
        results.rows += derived_rows(results)
        folder = results.write(options.output_dir).parent
        table = text_table(results, options.backends, options.threads)
        write_text(folder / "table.txt", table)
        plot(results, quality, folder / "budget.png")
        print(table)
        for what, reason in run.failures.items():
            print(f"not measured: {what}: {reason}")
        print(f"{folder / RESULTS_FILE}\n{folder / 'table.txt'}\n{folder / 'budget.png'}")


if __name__ == "__main__":
    main()
