# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate>=1.15", "datasets>=5.2", "detect-secrets>=1.5", "docstring-parser", "evaluate>=0.4.6", "filelock>=4",
#     "fsspec[http]", "holidays>=0.80", "huggingface_hub>=2", "jinja2", "matplotlib", "numpy", "onnxruntime>=1.32",
#     "pandas", "pillow-heif", "pillow>=11.3", "psutil", "pydantic>=2.10", "python-multipart", "pyyaml", "safetensors",
#     "sentencepiece", "starlette>=1", "timm>=1.0.31", "tokenizers>=0.21", "torch>=2.10", "torchvision>=0.25", "tqdm",
#     "transformers>=5.23,<6", "uvicorn>=0.30",
# ]
# ///
"""Stage 2: align the two towers of a student on images with captions in several languages.

python training/align.py --config training/configs/demo_align.yaml --max_steps 100 --output_dir runs/try
accelerate launch training/align.py --config training/configs/demo_align.yaml   (several processes)
"""

# torch, transformers and what needs them are imported after the options are parsed, so that `--help` is fast
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import AlignRecipe
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

DEMO_STUDENT = Path("runs/demo/distilled/config.json")  # `student` of configs/demo_align.yaml


def run(recipe: AlignRecipe) -> "Log":
    """Align a student, and write it as a complete Hub folder to `output_dir`."""
    from training.engine.stage import run_stage

    inputs = {"student": recipe.student, "classifier": recipe.classifier}
    return run_stage(recipe, "align", inputs, [recipe.student], open_student, make_task)


def open_student(
    recipe: AlignRecipe, teacher: "DualEncoder | None"
) -> tuple["DCCLIPModel", "DCCLIPProcessor"]:
    """Load the student of stage 1.

    Args:
        recipe: Recipe of stage 2.
        teacher: Teacher of the student; None trains without a teacher.

    Raises:
        ValueError: The student cannot be opened.
    """
    from training.students import load_student
    from training.teachers.lineage import join_licenses

    student, processor = load_student(recipe.student)
    student.config.languages = list(
        dict.fromkeys([*student.config.languages, *recipe.data.languages])
    )
    student.config.fit = None  # it was calibrated for other weights
    if not recipe.anchor_weight:
        student.config.teacher_weights = None  # nothing keeps its embeddings in the teacher's space
    if teacher is not None and student.config.teacher != teacher.name:
        earlier = (
            [student.config.teacher_license]
            if student.config.teacher or student.config.teacher_license
            else []
        )
        student.config.teacher_license = join_licenses([*earlier, teacher.license])
        if recipe.anchor_weight and not recipe.starts_from_teacher:
            student.config.teacher, student.config.teacher_weights = teacher.name, teacher.revision
    if recipe.image_size is not None:
        set_image_size(student, processor, recipe.image_size)
    return student, processor


def set_image_size(student: "DCCLIPModel", processor: "DCCLIPProcessor", size: int):
    """Change the size of a student's images, and of its feature map with it.

    Args:
        student: Student, whose config is changed.
        processor: Its processor, which gets an image processor of this size.
        size: Height and width in pixels.

    Raises:
        ValueError: The image tower does not take images of this size.
    """
    import torch

    from modeling_dcclip.image_dcclip import squashes
    from training.teachers.preparation import square_image_processor

    try:
        with torch.no_grad():
            blank = torch.zeros(1, 3, size, size)
            grid = student.eval().get_image_features(blank).feature_map.shape[-2:]
    except (RuntimeError, ValueError, AssertionError) as error:  # each library has its own
        raise ValueError(
            f"image_size: the image tower of the student does not take images of {size} pixels ({error}). Its own "
            f"size is {student.config.image_size}. Leave image_size out."
        ) from error
    student.config.image_size, student.config.vision_grid = size, list(grid)
    old = processor.image_processor
    processor.image_processor = square_image_processor(
        size, old.image_mean, old.image_std, squashes(old)
    )


def make_task(
    recipe: AlignRecipe, models: "Models", accelerator: "Accelerator"
) -> tuple["Task", "Pairs"]:
    """Make the alignment task and open its data."""
    from training.data import PairDataset
    from training.engine.inputs import caption_tokens, open_inputs
    from training.tasks import AlignTask
    from training.tasks.align import active_losses
    from training.teachers.targets import TargetSpec

    student, processor, teacher = models.student, models.processor, models.teacher
    if teacher is not None and teacher.projection_dim != student.config.projection_dim:
        raise ValueError(
            f"teacher: {teacher.name!r} embeds in {teacher.projection_dim} dimensions, the student in "
            f"{student.config.projection_dim}, so their embeddings cannot be compared. Use the teacher of stage 1, "
            "without `truncate_dim` in its config, or none."
        )
    tokens = caption_tokens(processor.tokenizer, student.config.max_text_length, teacher)
    losses: list[Any] = active_losses(recipe, teacher is not None)
    pools = any(loss.needs_map for loss in losses) or recipe.shares_image_tower
    spec = TargetSpec(recipe.teacher_towers, (1, 1) if pools else None)
    inputs = open_inputs(recipe, models, tokens, spec, accelerator)
    num_pairs = recipe.batch_size * accelerator.num_processes
    most = len(inputs.dataset) if isinstance(inputs.dataset, PairDataset) else math.inf
    compares = recipe.contrastive_weight or recipe.text_text_weight
    if compares and not 2 <= num_pairs <= most:
        raise ValueError(
            f"batch_size: the processes have batches of {num_pairs} rows, expected 2 to {most}. InfoNCE compares the "
            "pairs of a batch with each other, so nothing would be learned of one, and none may occur twice. Change "
            "batch_size, or add data."
        )
    own_inputs = {
        loss.name: loss.function.prepare(recipe, models, inputs.targets, accelerator.device)
        for loss in losses
        if hasattr(loss.function, "prepare") and inputs.targets is not None
    }
    task = AlignTask(
        student,
        inputs.augment,
        inputs.normalize,
        inputs.targets,
        recipe,
        own_inputs,
    )
    return task, inputs.dataset


def main(argv: list[str] | None = None):
    """Parse the recipe and run the stage. Without options, the demo's stage 1 runs first if its student is missing."""
    if not (sys.argv[1:] if argv is None else argv) and not DEMO_STUDENT.exists():
        from training import distill

        print(f"align: {DEMO_STUDENT.parent} is missing, so stage 1 of the demo comes first")
        distill.main([])
    recipe = run_script(AlignRecipe, run, argv, "python training/align.py", __doc__)
    print_ending(
        {recipe.output_dir: "Hub folder of the finished student, with log and checkpoints"}
    )


if __name__ == "__main__":
    main()
    end_process_group()
