"""What each size costs on this machine beside its baselines: bytes, cold start, memory, milliseconds, in one run.

python -m training.studies.budget                                     every size and baseline, every backend
python -m training.studies.budget --models tiny clip-vit-b-32 --repeats 3 --output_dir runs/budget
python -m training.studies.budget --models altclip --model runs/mine/aligned --output_dir runs/budget
"""

import json
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from training.students import SIZES
from training.studies.budget.models import NAMES, check_folder
from training.studies.budget.options import BACKENDS, BATCH_SIZES, THREADS, BudgetOptions
from training.studies.budget.plot import plot
from training.studies.budget.report import derived_rows, table
from training.studies.budget.run import Run, subjects
from training.studies.budget.texts import TEMPLATES
from training.utils.cli import command_of
from training.utils.files import write_text
from training.utils.results import RESULTS_FILE, Results, make_meta

LISTS: dict[str, tuple[type, list, dict, str]] = {
    "models": (str, list(NAMES), {"choices": NAMES}, "sizes and baselines, with random weights"),
    "model": (str, [], {}, "folders of finished students, measured too"),
    "backends": (
        str,
        list(BACKENDS),
        {"choices": BACKENDS},
        "PyTorch eager or compiled, ONNX in fp32 or int8",
    ),
    "threads": (int, list(THREADS), {}, "CPU threads; each count gets a process of its own"),
    "batch_sizes": (int, list(BATCH_SIZES), {}, "images or texts a call"),
}


def parse(argv: list[str] | None, parser: ArgumentParser) -> tuple[BudgetOptions, dict | None]:
    """The options, and the quality that they name.

    Raises:
        ValueError: one of them cannot be used.
    """
    for name, (kind, default, choices, meaning) in LISTS.items():
        nargs = "*" if name in ("models", "model") else "+"
        parser.add_argument(f"--{name}", nargs=nargs, type=kind, default=default, help=meaning, **choices)
    parser.add_class_arguments(BudgetOptions, skip=set(LISTS))
    options = BudgetOptions(**vars(parser.parse_args(argv)))
    for name in ("threads", "batch_sizes", "repeats"):
        values = getattr(options, name)
        if min(values if isinstance(values, list) else [values]) < 1:
            raise ValueError(f"{name}: {values} is less than one. Give at least 1.")
    for folder in options.model:
        check_folder(folder)
    if not subjects(options):
        raise ValueError("models: there is nothing to measure. Name a size or a baseline, or a folder with --model.")
    return options, read_quality(options.quality)


def read_quality(path: str | None) -> dict | None:
    """The vertical axis of the plot.

    Raises:
        ValueError: it is of another form.
    """
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return {"name": str(found["name"]), "values": {name: float(value) for name, value in found["values"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'quality: {path!r} must hold {{"name": ..., "values": {{model: share in 0..1}}}} ({error!r}).'
        ) from error


def main(argv: list[str] | None = None):
    """Parse, measure, write, print the table."""
    parser = ArgumentParser(
        prog="python -m training.studies.budget",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
        exit_on_error=False,
    )
    try:
        options, quality = parse(argv, parser)
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"budget: {error}\n")
    run = Run(options)
    rows = run.measure()
    meta = make_meta(
        data=f"noise for images; class names of ELEVATER in {' and '.join(map(repr, TEMPLATES.values()))}",
        seed=0,
        command=command_of("python -m training.studies.budget", options),
        weights="random, but those of --model",
        failures=run.failures,
    )
    results = Results(meta, rows)
    results.rows += derived_rows(results)
    folder = results.write(options.output_dir).parent
    text = table(results, options)
    write_text(folder / "table.txt", text)
    plot(results, {*SIZES, *(Path(name).resolve().name for name in options.model)}, quality, folder / "budget.png")
    print(text)
    for what, reason in run.failures.items():
        print(f"not measured: {what}: {reason}")
    print(f"{folder / RESULTS_FILE}\n{folder / 'table.txt'}\n{folder / 'budget.png'}")


if __name__ == "__main__":
    main()
