"""Options of the benchmark commands."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Stage1Options:
    """What to measure.

    Args:
        data: Images and captions, as `data.train` in a recipe.
        num_images: Images per epoch in the comparison of cached targets with the live teacher.
        batch_size: Batch size of that comparison.
        loop_batch_size: Batch size in the comparison with a bare loop.
        loop_steps: Optimizer steps per run of that comparison.
        memory_batch_size: Batch size of the memory measurement.
        output_dir: Folder for results.json and for the teacher, which is deleted at the end.
    """

    data: str = "training.corpus.emoji:load_train"
    num_images: int = 16
    batch_size: int = 8
    loop_batch_size: int = 64
    loop_steps: int = 4
    memory_batch_size: int = 32
    output_dir: str = "runs/stage1"


@dataclass(frozen=True, kw_only=True)
class Stage2Options:
    """What to measure.

    Args:
        data: Images and captions, as `data.train` in a recipe.
        image_size: Edge of the images in pixels, in the comparison of rates.
        batch_size: Batch size in the comparison of rates.
        steps: Optimizer steps per run in the comparison of rates.
        rounds: Runs of each trainer; the trainers alternate.
        memory_batches: Batch sizes of the memory measurement; memory growth compares the last with the first.
        memory_image_size: Edge of the images in pixels, in the memory measurement. Smaller images give more weight to
            memory that does not depend on the chunk.
        chunk_size: Images per chunk of gradient caching in the memory measurement.
        memory_steps: Optimizer steps of the memory measurement.
        output_dir: Folder for results.json and for the runs, which are deleted at the end.
    """

    data: str = "training.corpus.emoji:load_train"
    image_size: int = 224
    batch_size: int = 64
    steps: int = 6
    rounds: int = 3
    memory_batches: list[int] = field(default_factory=lambda: [256, 4096])
    memory_image_size: int = 96
    chunk_size: int = 64
    memory_steps: int = 2
    output_dir: str = "runs/stage2"


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """What to measure.

    Args:
        data: Images with captions in the columns `en` and `zh`, as `data.train` in a recipe; null renders the embedded
            corpus at the image size of each student.
        num_images: Number of images per round.
        num_shards: Number of tar shards that hold them.
        batch_size: Batch size of all measurements.
        steps: Optimizer steps of stage 2 per round.
        rounds: Number of rounds; the median counts.
        workers: Processes that decode images, as `data.workers` in a recipe; 0 decodes in the training process.
        students: Students to train: `tiny` at 224 pixels, and `demo`, the student of the demo.
        output_dir: Folder for results.json and for the images, which are deleted at the end.
    """

    data: str | None = None
    num_images: int = 1024
    num_shards: int = 4
    batch_size: int = 32
    steps: int = 4
    rounds: int = 15
    workers: int = 0
    students: list[Literal["tiny", "demo"]] = field(default_factory=lambda: ["tiny", "demo"])
    output_dir: str = "runs/loading"


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What to time.

    Args:
        data: Images: parquet file, folder, Hub id, or `module:function`.
        model: Models to time: `clip-vit-b-32` or `chinese-clip-vit-b-16` at full size with random weights, or a folder
            or Hub id.
        images: Number of images, from the start of the data.
        batch_size: Images per forward pass.
        repeats: Number of rounds; each times both ways, and the median of the ratios counts.
        split: Split of the data.
        image_column: Column of the images.
        output_dir: Folder for results.json; null prints the results only.
    """

    data: str
    model: list[str] = field(default_factory=lambda: ["clip-vit-b-32", "chinese-clip-vit-b-16"])
    images: int = 512
    batch_size: int = 64
    repeats: int = 3
    split: str = "test"
    image_column: str = "image"
    output_dir: str | None = None
