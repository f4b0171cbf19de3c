"""Run the full pipeline end to end: corpus, teacher, student, stage 1, stage 2, evaluation, model card.

python -m training.demo                      writes runs/demo/model, results.json and two figures, in minutes
python -m training.demo --full               with longer recipes
python -m training.demo --compare            also trains the same student without a teacher
python -m training.demo --teacher BAAI/AltCLIP
python -m training.demo --photos pairs.parquet        your own captioned photographs: columns image, en and zh
"""

from pathlib import Path

from training.demo.options import DemoOptions, Plan, next_commands
from training.utils.cli import parse_options, user_errors
from training.utils.ending import commands_of_export, print_ending
from training.utils.quiet import hide_library_bars, hide_torchao_messages
from training.utils.results import RESULTS_FILE, Results

PROGRAM = "python -m training.demo"


def main(argv: list[str] | None = None):
    """Parse, print the plan, run, print the tables and the next commands."""
    options = parse_options(DemoOptions, argv, prog=PROGRAM, description=__doc__ or "")
    if options.photos is not None:
        _run_photos(options)
        return
    with user_errors("demo", extra="demo"):
        plan = Plan(options)
        print(plan, flush=True)
        hide_torchao_messages()
        # imported after the plan is printed: torch, transformers and datasets take seconds to import
        from training.demo import report
        from training.demo.run import CROSS_MODEL_FILE, Demo

        hide_library_bars()
        demo = Demo(options, plan)
        results = demo.run()
    output_dir = Path(options.output_dir)
    print(f"\n{report.summary(results)}")
    print(f"\n{report.cross_model(Results.read(output_dir / CROSS_MODEL_FILE))}")
    print(f"\nFinished in {results.meta['seconds']} s.")
    written = {
        f"{output_dir}/model": "Hub folder with model, code and card",
        f"{output_dir}/{RESULTS_FILE}": "all numbers",
        f"{output_dir}/contact_sheet.png, {output_dir}/curves.png": "figures",
    }
    print_ending(written, next_commands(output_dir, demo.held_out.corpus))


def _run_photos(options: DemoOptions):
    """Run the pipeline on the user's photographs, print the table, the exported files and the next commands."""
    with user_errors("demo", extra="photos,edge"):
        from training.demo.photo_plan import PhotoPlan, check_packages

        plan = PhotoPlan(options)
        print(plan, flush=True)
        check_packages()
        hide_torchao_messages()
        from training.demo.photo_run import PhotoDemo

        hide_library_bars()
        results, verdicts = PhotoDemo(options, plan).run()
    print(f"\n{results.table()}\n")
    print("\n".join(verdict.line() for verdict in verdicts))
    print(f"\nFinished in {results.meta['seconds']} s.")
    model = f"{plan.output_dir}/model"
    written = {
        model: "Hub folder with model, code, card and exported files",
        f"{plan.output_dir}/{RESULTS_FILE}": "all numbers",
    }
    print_ending(written, commands_of_export(model, "onnx"))


if __name__ == "__main__":
    main()
