"""Stage 1: distil the teacher's feature maps into a light student.

accelerate launch training/distill.py --config training/configs/demo_distill.yaml
"""

from accelerate import Accelerator

from training.checkpoint import Artefact
from training.config import DistillRecipe, parse_recipe
from training.inputs import open_inputs
from training.loop import TrainingResult, train
from training.students import build_student
from training.tasks import DistillTask
from training.teachers import Teacher


def run(recipe: DistillRecipe) -> TrainingResult:
    """Build teacher, student, data and task; train; leave a finished Hub folder in `output_dir`."""
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, step_scheduler_with_optimizer=False)
    teacher = Teacher.from_pretrained(recipe.teacher).to(accelerator.device)
    languages = list(recipe.data.caption_columns)
    student, processor = build_student(recipe.student, languages, teacher, recipe.seed)
    if recipe.gradient_checkpointing:
        student.activation_checkpointing_enable()
    inputs = open_inputs(recipe, student, processor, teacher, accelerator)
    task = DistillTask(
        student,
        inputs.augment,
        inputs.normalize,
        inputs.targets,
        recipe,
        vision_width=teacher.vision_width,
        text_width=teacher.text_width if inputs.shares_tokens else None,
    )
    return train(task, inputs.dataset, Artefact(student, processor, recipe), accelerator, "stage 1: distil")


def main(argv: list[str] | None = None):
    """Parse and run."""
    run(parse_recipe(DistillRecipe, argv, "training/distill.py"))


if __name__ == "__main__":
    main()
