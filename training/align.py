"""Stage 2: align the two towers of a student on images with captions in several languages.

accelerate launch training/align.py --config training/configs/demo_align.yaml
python training/align.py --config training/configs/demo_align.yaml --max_steps 100 --output_dir runs/try
"""

# torch, transformers and what needs them are imported after the options are parsed, so that `--help` is fast
import math
import sys
from typing import TYPE_CHECKING

from training.config import AlignRecipe, recipe_from_args
from training.engine.command import stage_errors
from training.utils.ending import commands_of_stage_2, print_ending
from training.utils.process import end_process_group
from training.utils.quiet import hide_library_bars

if TYPE_CHECKING:
    from accelerate import Accelerator

    from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
    from training.data import Pairs
    from training.engine.inputs import Models
    from training.engine.loop import TrainingResult
    from training.tasks import Task
    from training.teachers.ensemble import Ensemble


def run(recipe: AlignRecipe) -> "TrainingResult":
    """Align a student, and write it as a complete Hub folder to `output_dir`."""
    from training.engine.stage import Stage, run_stage
    from training.hub import MODEL_FILES, open_push
    from training.hub.hub_model import HubModel, earlier_recipes

    new, teachers = recipe.new_student, [entry.teacher for entry in recipe.all_teachers]
    inits = [new.vision_init, new.text_init] if new is not None else []
    # the training of a teacher is no stage of a student that inherits from it
    earlier = earlier_recipes([recipe.student, *(init for init in inits if init not in teachers)])
    stage = Stage[AlignRecipe](
        command="align",
        title="stage 2: align",
        files=MODEL_FILES,
        open_student=open_student,
        make_task=make_task,
        make_finished=lambda student, processor, recipe: HubModel(student, processor, recipe, earlier),
        open_push=open_push,
    )
    return run_stage(stage, recipe)


def open_student(recipe: AlignRecipe, teachers: "Ensemble | None") -> tuple["DCCLIPModel", "DCCLIPProcessor"]:
    """Load the student of stage 1, or build the recipe's `new_student` if it names none.

    Args:
        recipe: Recipe of stage 2.
        teachers: Teachers of the student; None trains without a teacher.

    Raises:
        ValueError: There is no such student, or its embeddings and those of the teachers differ in width.
    """
    from training.students import build_student, load_student, set_image_size
    from training.teachers.classifier import find_classifier
    from training.teachers.lineage import read_license
    from training.utils.licenses import UNKNOWN, join_licenses

    if recipe.new_student is None:
        student, processor = load_student(recipe.student)
        if recipe.image_size is not None:
            processor = set_image_size(student, processor, recipe.image_size)
        student.config.languages = list(dict.fromkeys([*student.config.languages, *recipe.data.languages]))
    else:
        student, processor = build_student(recipe.new_student, recipe.data.languages, teachers, recipe.seed)
    if teachers is not None and teachers.projection_dim != student.config.projection_dim:
        raise ValueError(
            f"teacher: {teachers.name!r} embeds in {teachers.projection_dim} dimensions, the student in "
            f"{student.config.projection_dim}, so their embeddings cannot be compared. Use the teacher of stage 1, or "
            "none."
        )
    if teachers is not None and student.config.teacher != teachers.name:
        earlier = [student.config.teacher_license] if student.config.teacher else []
        student.config.teacher_license = join_licenses([*earlier, teachers.license])
    if recipe.classifier is not None:
        config = student.config
        earlier = [config.teacher_license] if config.teacher or config.teacher_license else []
        license = read_license(recipe.classifier, find_classifier(recipe.classifier))
        config.teacher_license = join_licenses([*earlier, license]) or UNKNOWN
    return student, processor


def make_task(recipe: AlignRecipe, models: "Models", accelerator: "Accelerator") -> tuple["Task", "Pairs"]:
    """Make the alignment task and open its data.

    Args:
        recipe: Recipe of stage 2.
        models: Student, processor and teachers.
        accelerator: Accelerator of this process.

    Returns:
        The task, and the data to train it on.
    """
    from accelerate.logging import get_logger

    from training.engine.beyond_data import class_targets, general_photos, general_texts
    from training.engine.inputs import caption_tokens, open_inputs
    from training.tasks import AlignTask
    from training.teachers import TOWERS
    from training.teachers.targets import TargetSpec

    student, processor, teachers = models.student, models.processor, models.teachers
    if recipe.loss == "infonce" and recipe.contrastive_weight and recipe.batch_size * accelerator.num_processes == 1:
        raise ValueError(
            "batch_size: is 1, but InfoNCE compares the pairs of a batch with each other, so nothing would be "
            "learned. Set at least 2."
        )
    tokens = caption_tokens(processor.tokenizer, student.config.max_text_length, teachers)
    inputs = open_inputs(recipe, models, tokens, TargetSpec(TOWERS), accelerator)
    task = AlignTask(
        student,
        inputs.augment,
        inputs.normalize,
        inputs.targets,
        recipe,
        recipe.data.languages,
        teacher_logit_scale=math.exp(teachers.logit_scale) if teachers is not None else 1.0,
        general=general_texts(recipe, models, accelerator),
        photos=general_photos(recipe, models, inputs.targets, accelerator),
        classes=class_targets(recipe, models, accelerator),
    )
    num_parts = accelerator.num_processes * math.ceil(recipe.batch_size / (recipe.chunk_size or recipe.batch_size))
    if task.follows_batches and num_parts > 1:
        get_logger(__name__).warning(
            "freeze_batch_norm is false, so BatchNorm takes its statistics from each of the %d parts of a batch: "
            "losses and gradients are not those of the whole batch. With freeze_batch_norm: true they are.",
            num_parts,
        )
    return task, inputs.dataset


def main(argv: list[str] | None = None):
    """Parse the recipe and run the stage."""
    with stage_errors("align"):
        recipe = recipe_from_args(AlignRecipe, argv, "python training/align.py", __doc__)
        from training.hub import PublishError

        hide_library_bars()
        try:
            run(recipe)
        except PublishError as error:
            sys.exit(f"align: {error}")
    written = {recipe.output_dir: "Hub folder of the finished student, with log and checkpoints"}
    print_ending(written, commands_of_stage_2(recipe.output_dir))


if __name__ == "__main__":
    main()
    end_process_group()
