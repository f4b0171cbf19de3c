"""Stage 1: distil the teacher's feature maps into a light student.

accelerate launch training/distill.py --config training/configs/demo_distill.yaml
"""

from accelerate import Accelerator

from training.checkpoint import Artefact
from training.config import DistillRecipe, parse_recipe
from training.data import PairDataset, load_source
from training.loop import TrainingResult, train
from training.students import build_student
from training.target_cache import open_targets
from training.tasks import DistillTask
from training.teachers import Teacher, same_tokens
from training.transforms import Augment, Normalize


def run(recipe: DistillRecipe) -> TrainingResult:
    """Build teacher, student, data and task; train; leave a finished Hub folder in `output_dir`."""
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, step_scheduler_with_optimizer=False)
    teacher = Teacher.from_pretrained(recipe.teacher).to(accelerator.device)
    languages = list(recipe.data.caption_columns)
    student, processor = build_student(recipe.student, languages, teacher, recipe.seed)
    if recipe.gradient_checkpointing:
        student.gradient_checkpointing_enable()
    shares_tokens = same_tokens(processor.tokenizer, teacher.tokenizer)
    dataset = PairDataset(
        load_source(recipe.data.train),
        recipe.data,
        processor.tokenizer,
        picture_size=max(student.config.image_size, teacher.image_size),
        max_text_length=student.config.max_text_length,
        teacher_tokenizer=None if shares_tokens else teacher.tokenizer,
    )
    augment = Augment(recipe.augment, recipe.seed)
    task = DistillTask(
        student,
        augment,
        Normalize.from_processor(processor.image_processor, student.config.image_size),
        open_targets(recipe, teacher, dataset, augment, student.config.vision_grid, accelerator),
        recipe,
        vision_width=teacher.vision_width,
        text_width=teacher.text_width if shares_tokens else None,
    )
    return train(task, dataset, Artefact(student, processor, recipe), accelerator, "stage 1: distil")


def main(argv: list[str] | None = None):
    """Parse and run."""
    run(parse_recipe(DistillRecipe, argv, "training/distill.py"))


if __name__ == "__main__":
    main()
