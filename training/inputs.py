"""What both stages learn from, built from a recipe: pictures with captions, their views, and the teacher's targets."""

from dataclasses import dataclass

from accelerate import Accelerator

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.config import TrainingRecipe
from training.data import PairDataset, load_source
from training.target_cache import LiveTargets, TargetSource, build_target_cache
from training.teachers import Teacher, same_tokens
from training.transforms import Augment, Normalize


@dataclass(frozen=True)
class Inputs:
    """All that a task and the loop need beside the student.

    Args:
        dataset: decoded pictures and tokenized captions.
        augment: random views of the pictures.
        normalize: the student's own statistics.
        targets: the teacher's answers; None without a teacher.
        shares_tokens: whether teacher and student read the same tokens.
    """

    dataset: PairDataset
    augment: Augment
    normalize: Normalize
    targets: TargetSource | None
    shares_tokens: bool


def open_inputs(
    recipe: TrainingRecipe,
    student: DCCLIPModel,
    processor: DCCLIPProcessor,
    teacher: Teacher | None,
    accelerator: Accelerator,
) -> Inputs:
    """Open the data, and the teacher's targets: cached where the recipe names a folder, live otherwise."""
    shares_tokens = teacher is None or same_tokens(processor.tokenizer, teacher.tokenizer)
    dataset = PairDataset(
        load_source(recipe.data.train),
        recipe.data,
        processor.tokenizer,
        picture_size=max(student.config.image_size, teacher.image_size if teacher else 0),
        max_text_length=student.config.max_text_length,
        teacher_tokenizer=None if shares_tokens else teacher.tokenizer,
    )
    # stored views are the same for every seed, so that runs can share them
    augment = Augment(recipe.augment, recipe.seed if recipe.teacher_cache is None else 0)
    grid = student.config.vision_grid
    targets: TargetSource | None = None
    if teacher is not None and recipe.teacher_cache is None:
        targets = LiveTargets(teacher, grid)
    elif teacher is not None:
        with accelerator.main_process_first():
            targets = build_target_cache(
                recipe.teacher_cache,
                teacher,
                dataset,
                augment,
                grid,
                recipe.teacher_views,
                device=accelerator.device,
            )
    normalize = Normalize.from_processor(processor.image_processor, student.config.image_size)
    return Inputs(dataset, augment, normalize, targets, shares_tokens)
