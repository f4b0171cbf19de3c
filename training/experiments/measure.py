"""Measure the throughput of a recipe on this machine's device: images/s, share of a bare loop, MFU, data wait.

python -m training.experiments.measure align --config RECIPE --max_steps 50 --peak_tflops 989
python -m training.experiments.measure distill --config RECIPE --max_steps 50

The recipe runs in a scratch folder. The bare loop repeats forward, backward and optimizer step on one batch that is on
the device. MFU is the share of `--peak_tflops`, the device's peak, that the floating-point operations of the loop use,
with the teacher's; 989 is an H100's in bf16.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.config import AlignRecipe, DistillRecipe, TrainingRecipe, parse_recipe
from training.data import BatchPlan, make_loader
from training.engine.inputs import open_teacher
from training.engine.loop import Run, make_optimizer, train
from training.engine.stage import make_accelerator
from training.tasks import Models
from training.tasks.task import batches_on, forward_backward
from training.utils.cli import user_errors


def measure(stage: Any, recipe: TrainingRecipe) -> dict[str, float]:
    """Train with a recipe, then repeat one of its batches.

    Args:
        stage: Module with `open_student` and `make_task`, `training.distill` or `training.align`.
        recipe: Recipe of this stage.

    Returns:
        `images_per_s` of this process, `share_of_bare_loop`, `data_wait` in 0..1, and `tflop_per_s`.
    """
    accelerator = make_accelerator(recipe)
    teacher = open_teacher(recipe)
    student, processor = stage.open_student(recipe, teacher)
    task, dataset = stage.make_task(recipe, Models(student, processor, teacher), accelerator)
    result = train(task, dataset, processor, Run(recipe, accelerator, "measure"))
    plan = BatchPlan(recipe.batch_size, recipe.seed, task.num_views, 0, 1, augment=task.augment)
    batch = next(batches_on(make_loader(dataset, plan), accelerator.device))
    model, optimizer = accelerator.prepare(task.train(), make_optimizer(task, recipe))

    def step():
        optimizer.zero_grad()
        forward_backward(model, task, task.augmented(batch), accelerator)
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    wait_for(accelerator.device)
    start = time.perf_counter()
    for _ in range(recipe.max_steps):
        step()
    wait_for(accelerator.device)  # once, because the loop of a run waits at no step either
    bare = recipe.max_steps * recipe.batch_size / (time.perf_counter() - start)
    images_per_s = result.images_per_s / accelerator.num_processes
    return {
        "images_per_s": images_per_s,
        "share_of_bare_loop": images_per_s / bare,
        "data_wait": result.data_wait,
        "tflop_per_s": counter.get_total_flops() / recipe.batch_size * images_per_s / 1e12,
    }


def wait_for(device: torch.device):
    """Wait until a GPU has computed all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(argv: list[str] | None = None):
    """Parse the stage, its recipe and the peak, and print the figures as JSON."""
    from training import align, distill

    parser = argparse.ArgumentParser(
        prog="python -m training.experiments.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other options are those of the recipe: see training/distill.py --help and align.py --help.",
    )
    parser.add_argument("stage", choices=["distill", "align"], help="stage whose recipe follows")
    parser.add_argument("--peak_tflops", type=float, help="peak of the device, to print its MFU")
    options, arguments = parser.parse_known_args(argv)
    with user_errors("measure", extra="train"), tempfile.TemporaryDirectory() as folder:
        recipe: TrainingRecipe
        if options.stage == "distill":
            recipe = parse_recipe(DistillRecipe, arguments)
        else:
            recipe = parse_recipe(AlignRecipe, arguments)
        stage = {"distill": distill, "align": align}[options.stage]
        found = measure(stage, replace(recipe, output_dir=folder, save_every=0, eval_every=0))
    if options.peak_tflops:
        found["mfu"] = found["tflop_per_s"] / options.peak_tflops
    print(json.dumps({name: float(f"{value:.3g}") for name, value in found.items()}))


if __name__ == "__main__":
    main()
