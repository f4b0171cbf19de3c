"""Run the full pipeline end to end: data, teacher, student, stage 1, stage 2, evaluation, model card.

python -m training.demo                      writes runs/demo/model and results.json, in minutes
python -m training.demo --photos DATA        trains teacher and student on captioned photographs, in hours

A run on photographs that was interrupted continues when you run the same command again.
"""

from training.demo.options import DemoOptions, emoji_plan, photo_plan
from training.utils.cli import hide_library_bars, parse_options, print_ending, user_errors
from training.utils.results import PLOT_FILE, RESULTS_FILE, Results, aligned


def main(argv: list[str] | None = None):
    """Parse, print the plan, run, print the tables."""
    options = parse_options(
        DemoOptions, argv, prog="python -m training.demo", description=__doc__ or ""
    )
    _run_emoji(options) if options.photos is None else _run_photos(options)


# torch, transformers and datasets take seconds to import, so the runs are imported after the plan is printed


def _run_emoji(options: DemoOptions):
    with user_errors("demo", extra="demo"):
        plan = emoji_plan(options)
        print(plan, flush=True)
        from training.demo.run import CROSS_MODEL_FILE, Demo
        from training.hub.cards.tables import size_table

        hide_library_bars()
        demo = Demo(options, plan)
        results = demo.run()
    cross = Results.read(plan.output_dir / CROSS_MODEL_FILE)
    cross.rows = [row for row in cross.rows if row.stage == "aligned"]
    tables = f"{results.table()}\n\n{size_table(results)}\n\nStudent and teacher together:\n\n{cross.table()}"
    print(f"\n{aligned(tables)}")
    print(f"\nFinished in {results.meta['seconds']} s.")
    written = {
        f"{plan.output_dir}/model": "Hub folder with model, code and card",
        f"{plan.output_dir}/{RESULTS_FILE}": "all numbers",
        f"{plan.output_dir}/{PLOT_FILE}": "plot of the table",
    }
    print_ending(written)


def _run_photos(options: DemoOptions):
    with user_errors("demo", extra="photos,edge"):
        plan = photo_plan(options)
        print(plan, flush=True)
        from training.demo.photos import PhotoDemo

        hide_library_bars()
        results = PhotoDemo(options, plan).run()
    print(f"\n{aligned(results.table())}")
    print(f"\nSeconds of each step: {results.meta['seconds']}")
    written = {
        f"{plan.output_dir}/model": "Hub folder with model, code, card and exported files",
        f"{plan.output_dir}/{RESULTS_FILE}": "all numbers",
        f"{plan.output_dir}/{PLOT_FILE}": "plot of the table",
    }
    print_ending(written)


if __name__ == "__main__":
    main()
