"""Stage 2: align a student's two towers on images with captions in several languages.

accelerate launch training/align.py --config training/configs/demo_align.yaml
"""

import math
import sys
from pathlib import Path

from accelerate.logging import get_logger

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import AlignRecipe, parse_recipe
from training.engine.inputs import caption_tokens, open_inputs, open_teacher
from training.engine.loop import TrainingResult, make_accelerator, train
from training.evaluation.scheduled import make_evaluate
from training.hub import PublishError, open_push
from training.hub.hub_model import HubModel
from training.students import build_student, load_student
from training.tasks import AlignTask
from training.teachers import TOWERS, Teacher
from training.teachers.targets import TargetSpec

logger = get_logger(__name__)


def run(recipe: AlignRecipe) -> TrainingResult:
    """Load or build the student, build data and task; train; leave a finished Hub folder in `output_dir`."""
    accelerator = make_accelerator(recipe)
    push = open_push(recipe, accelerator.is_main_process)
    teacher = open_teacher(recipe.teacher, recipe.teacher_dtype) if recipe.teacher else None
    languages = recipe.data.languages
    student, processor = _open_student(recipe, languages, teacher)
    if recipe.gradient_checkpointing:
        student.activation_checkpointing_enable()
    if teacher is not None and teacher.projection_dim != student.config.projection_dim:
        raise ValueError(
            f"teacher: {teacher.name!r} embeds in {teacher.projection_dim} dimensions, the student in "
            f"{student.config.projection_dim}: an anchor cannot compare them. Take the teacher of stage 1, or none."
        )
    evaluate = make_evaluate(recipe.eval, recipe.best_metric, processor)
    tokens = caption_tokens(processor.tokenizer, student.config.max_text_length, teacher)
    inputs = open_inputs(recipe, student, processor, teacher, tokens, TargetSpec(TOWERS), accelerator)
    task = AlignTask(
        student,
        inputs.augment,
        inputs.normalize,
        inputs.targets,
        recipe,
        languages,
        teacher_logit_scale=math.exp(teacher.logit_scale) if teacher is not None else 1.0,
    )
    num_parts = accelerator.num_processes * math.ceil(recipe.batch_size / (recipe.chunk_size or recipe.batch_size))
    if task.follows_batches and num_parts > 1:
        logger.warning(
            "freeze_batch_norm is false, so BatchNorm takes its statistics from each of the %d parts of a batch: "
            "losses and gradients are not those of the whole batch. With freeze_batch_norm: true they are.",
            num_parts,
        )
    hub_model = HubModel(student, processor, recipe)
    result = train(
        task,
        inputs.dataset,
        hub_model,
        accelerator,
        "stage 2: align",
        evaluate=evaluate,
        on_save=push and push.on_save,
    )
    if push is not None:
        push.finish()
    return result


def _open_student(
    recipe: AlignRecipe, languages: list[str], teacher: Teacher | None
) -> tuple[DCCLIPModel, DCCLIPProcessor]:
    """Stage 1's student; a new one where the recipe describes it and stage 1 has not run."""
    if recipe.new_student is None or (recipe.student and Path(recipe.student).exists()):
        return load_student(recipe.student)
    logger.warning(
        "%s does not exist: aligning a new student, which stage 1 has not distilled.", recipe.student or "student"
    )
    return build_student(recipe.new_student, languages, teacher, recipe.seed)


def main(argv: list[str] | None = None):
    """Parse and run."""
    try:
        run(parse_recipe(AlignRecipe, argv, "training/align.py"))
    except PublishError as error:  # the run itself is complete
        sys.exit(f"align: {error}")


if __name__ == "__main__":
    main()
