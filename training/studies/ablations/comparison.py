"""Training, collecting and writing, shared by the ablation commands."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import align, distill
from training.config import AlignRecipe, DistillRecipe
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.held_out import HeldOut
from training.studies.ablations.arms import plot, table
from training.studies.ablations.options import ComparisonOptions
from training.utils.cli import command_of
from training.utils.quiet import hide_library_bars
from training.utils.results import Results, Row, make_meta


def open_held_out(every: int) -> HeldOut:
    """Open the test sets, and switch off progress bars other than those of the training.

    Args:
        every: Keep only each `every`-th concept of the corpus.
    """
    hide_library_bars()
    return HeldOut.open(every)


def train_stages(
    distil_recipe: DistillRecipe | None, align_recipe: AlignRecipe | None, folders: Sequence[Path]
) -> ZeroShotModel:
    """Run one stage or both, and load the student of the last one.

    Args:
        distil_recipe: Recipe of stage 1; None skips it.
        align_recipe: Recipe of stage 2; None skips it. At least one recipe is required.
        folders: Output folders of earlier runs, which are deleted first.
    """
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    output_dir = ""
    if distil_recipe is not None:
        distill.run(distil_recipe)
        output_dir = distil_recipe.output_dir
    if align_recipe is not None:
        align.run(align_recipe)
        output_dir = align_recipe.output_dir
    return ZeroShotModel.from_pretrained(output_dir)


def print_arm(seed: int, label: str, rows: Sequence[Row]):
    """Print the top-5 accuracy of one arm in one line.

    Args:
        seed: Training seed.
        label: Name of the arm.
        rows: Result rows of the arm.
    """
    shares = ", ".join(f"{100 * row.value:.0f}" for row in rows if row.metric == "top5")
    print(f"seed {seed}, {label}: top-5 {shares} %", flush=True)


def collect(
    options: ComparisonOptions, program: str, rows: list[Row], held_out: HeldOut, began: float, steps: int | str
) -> Results:
    """Delete the training runs, and add the provenance to the rows.

    Args:
        options: Options of the comparison.
        program: Command as users type it, without options.
        rows: Result rows of all arms and seeds.
        held_out: Test sets of the rows.
        began: Value of `time.perf_counter()` at the start.
        steps: Optimizer steps of an arm.
    """
    shutil.rmtree(options.output_dir, ignore_errors=True)
    provenance: dict[str, Any] = held_out.meta()
    meta = make_meta(
        seed=None,
        command=command_of(program, options),
        seeds=options.seeds,
        seconds=round(time.perf_counter() - began),
        steps=steps,
        **provenance,
    )
    return Results(meta, rows)


def write_and_print(results: Results, results_dir: str, name: str):
    """Write `name`.json and `name`.png, and print the table.

    Args:
        results: Results of the comparison.
        results_dir: Folder of the two files.
        name: Name of the two files without suffix.
    """
    folder = Path(results_dir)
    path = results.write(folder, f"{name}.json")
    plot(results, folder / f"{name}.png")
    print(f"\n{table(results)}\n\n{path}")
