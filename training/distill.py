"""Stage 1: distil the teacher's feature maps into a light student.

accelerate launch training/distill.py --config training/configs/demo_distill.yaml
"""

import math
import sys

from accelerate.logging import get_logger

from training.config import DistillRecipe, parse_recipe
from training.engine.inputs import caption_tokens, open_bank, open_inputs, open_teacher
from training.engine.loop import TrainingResult, make_accelerator, train
from training.evaluation.scheduled import make_evaluate
from training.hub import PublishError, open_push
from training.hub.hub_model import HubModel
from training.students import build_student
from training.tasks import DistillTask
from training.teachers.cache import cached_bank
from training.teachers.targets import TargetSpec

logger = get_logger(__name__)


def run(recipe: DistillRecipe) -> TrainingResult:
    """Build teacher, student, data and task; train; leave a finished Hub folder in `output_dir`."""
    accelerator = make_accelerator(recipe)
    push = open_push(recipe, accelerator.is_main_process)
    teacher = open_teacher(recipe.teacher, recipe.teacher_dtype)
    student, processor = build_student(recipe.student, recipe.data.languages, teacher, recipe.seed)
    if recipe.gradient_checkpointing:
        student.activation_checkpointing_enable()
    evaluate = make_evaluate(recipe.eval, recipe.best_metric, processor)
    tokens = None  # images alone need none, and a large vocabulary takes long to compare
    if "text" in recipe.towers:
        tokens = caption_tokens(
            processor.tokenizer, student.config.max_text_length, teacher, folder=recipe.student.tokenizer
        )
    maps = recipe.target == "feature_map"
    spec = TargetSpec(
        towers=recipe.towers,
        grid=tuple(student.config.vision_grid) if maps else None,
        token_maps=maps and tokens is not None and tokens.have_maps,
    )
    if maps and tokens is not None and not tokens.have_maps:
        logger.warning(
            "The teacher reads other tokens than the student, so the text tower learns pooled targets only. A "
            "vocabulary cut from the teacher's (python -m training.prepare.vocabulary) would keep the maps."
        )
    inputs = open_inputs(
        recipe,
        student,
        processor,
        teacher,
        tokens,
        spec,
        accelerator,
        images="vision" in recipe.towers,
    )
    bank = None
    if recipe.target == "logits":
        texts = open_bank(recipe.text_bank, inputs.dataset)
        bank = cached_bank(recipe.teacher_cache, teacher, texts, accelerator.device)
    task = DistillTask(
        student,
        inputs.augment,
        inputs.normalize,
        inputs.targets,
        recipe,
        vision_width=teacher.vision_width,
        text_width=teacher.text_width if spec.token_maps else None,
        bank=bank,
        logit_scale=math.exp(teacher.logit_scale),
    )
    hub_model = HubModel(student, processor, recipe)
    result = train(
        task,
        inputs.dataset,
        hub_model,
        accelerator,
        "stage 1: distil",
        evaluate=evaluate,
        on_save=push and push.on_save,
    )
    if push is not None:
        push.finish()
    return result


def main(argv: list[str] | None = None):
    """Parse and run."""
    try:
        run(parse_recipe(DistillRecipe, argv, "training/distill.py"))
    except PublishError as error:  # the run itself is complete
        sys.exit(f"distill: {error}")


if __name__ == "__main__":
    main()
