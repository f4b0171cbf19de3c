"""Stage 1: distill the teacher's feature maps into a small student.

python training/distill.py --config training/configs/demo_distill.yaml --max_steps 100 --output_dir runs/try
accelerate launch training/distill.py --config training/configs/demo_distill.yaml   (several processes)
"""

# torch, transformers and what needs them are imported after the options are parsed, so that `--help` is fast
import math
from typing import TYPE_CHECKING

from training.config import DistillRecipe
from training.engine.script import run_script
from training.utils.cli import print_ending
from training.utils.process import end_process_group

if TYPE_CHECKING:
    from accelerate import Accelerator

    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
    from training.data import Pairs
    from training.engine.log import Log
    from training.tasks import Models, Task
    from training.teachers import DualEncoder

STATISTICS_ROWS = 1024  # rows of the data that `map_whitening: data` takes its statistics from


def run(recipe: DistillRecipe) -> "Log":
    """Distill a student, and write it as a complete Hub folder to `output_dir`."""
    from training.engine.stage import run_stage

    new = recipe.student
    inits = {"student.vision_init": new.vision_init, "student.text_init": new.text_init}
    inputs = {"student.tokenizer": new.tokenizer, **inits}
    # a teacher's own training is not a stage of a new student
    starts = [name for name in inits.values() if name != recipe.teacher]
    return run_stage(recipe, "distill", inputs, starts, open_student, make_task)


def open_student(
    recipe: DistillRecipe, teacher: "DualEncoder | None"
) -> tuple["DCCLIPModel", "DCCLIPProcessor"]:
    """Build the student of the recipe."""
    from training.students import build_student

    return build_student(recipe.student, recipe.data.languages, teacher, recipe.seed)


def make_task(
    recipe: DistillRecipe, models: "Models", accelerator: "Accelerator"
) -> tuple["Task", "Pairs"]:
    """Make the distillation task and open its data."""
    from accelerate.logging import get_logger

    from training.data import PairStream
    from training.engine.inputs import caption_tokens, open_inputs
    from training.tasks.distill import DistillTask, distill_losses
    from training.tasks.task import first_batches
    from training.teachers.named_targets import NamedTargets
    from training.teachers.targets import TargetSpec, encode_bank

    student, processor, teacher = models.student, models.processor, models.teacher
    assert teacher is not None  # `DistillRecipe` requires one
    tokens, has_text = None, "text" in recipe.towers
    if (
        has_text or recipe.logits_weight
    ):  # else captions are not needed, and comparing large vocabularies takes long
        tokens = caption_tokens(
            processor.tokenizer,
            student.config.max_text_length,
            teacher,
            folder=recipe.student.tokenizer,
        )
    losses = distill_losses(recipe)
    maps = any(loss.needs_map for loss in losses)
    token_maps = maps and has_text and tokens is not None and tokens.has_token_targets
    if maps and has_text and not token_maps:
        get_logger(__name__).warning(
            "Student and teacher have different tokenizers, so the text tower learns pooled targets only. A "
            "vocabulary cut from the teacher's (python -m training.prepare.vocabulary) would keep the feature maps."
        )
    if maps and "vision" in recipe.towers and not teacher.vision_width:
        raise ValueError(
            f"map_weight: the image tower of {teacher.name!r} gives no feature map. Set map_weight to 0."
        )
    grid = student.config.vision_grid if maps else None
    spec = TargetSpec(
        towers=recipe.towers, grid=(grid[0], grid[1]) if grid else None, token_maps=token_maps
    )
    inputs = open_inputs(
        recipe, models, tokens, spec, accelerator, images="vision" in recipe.towers
    )
    targets = inputs.targets
    assert targets is not None  # because there is a teacher
    weight = next((loss.weight for loss in losses if loss.needs_bank), None)
    captions: list[str] = []
    if (weight or recipe.named_targets) and not isinstance(inputs.dataset, PairStream):
        captions = list(inputs.dataset.captions or ())
    if recipe.named_targets is not None:
        targets = NamedTargets(targets, recipe.named_targets, captions)
    bank = None
    if weight:
        if len(captions) < 2:
            raise ValueError(
                f"{weight}: its loss compares with the captions of the data, but the data are a stream or have fewer "
                f"than two captions. Set {weight} to 0, or add captions."
            )
        bank = encode_bank(teacher.with_towers(("text",)).to(accelerator.device), captions)
    map_widths = {"vision": teacher.vision_width} | (
        {"text": teacher.text_width} if token_maps else {}
    )
    task = DistillTask(
        student,
        inputs.augment,
        inputs.normalize,
        targets,
        recipe,
        map_widths,
        bank,
        logit_scale=math.exp(teacher.logit_scale),
    )
    if recipe.map_whitening == "data" and task.adapters:
        task.measure_maps(
            first_batches(task, inputs.dataset, recipe, STATISTICS_ROWS, accelerator.device)
        )
    return task, inputs.dataset


def main(argv: list[str] | None = None):
    """Parse the recipe and run the stage."""
    recipe = run_script(DistillRecipe, run, argv, "python training/distill.py", __doc__)
    print_ending(
        {recipe.output_dir: "Hub folder of the student after stage 1, with log and checkpoints"}
    )


if __name__ == "__main__":
    main()
    end_process_group()
