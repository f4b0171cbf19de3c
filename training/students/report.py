"""How large and how fast each size is, beside its rivals. Random weights serve: both depend on the shapes alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from modeling_dcclip import DCCLIPConfig, DCCLIPModel
from training.config import StudentConfig
from training.students.build import RANDOM, tower_config
from training.students.sizes import SIZES, load_size
from training.studies.budget.baselines import RIVALS, DualEncoder, split
from training.utils.timing import median_ms, on_threads

NUM_TOKENS = 16
REPEATS = 11
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Budget:
    """What one model takes.

    Args:
        name: of a size or a rival.
        parameters: in all; buffers are not counted.
        image_parameters: of the image tower with its projection.
        text_parameters: of the text tower with its projection and its embedding tables.
        embedding_parameters: of the table of the tokens alone.
        bytes: of all parameters by number format; int8 without its scales.
        ms_per_picture: median milliseconds of the image tower at batch 1; None where it was not timed.
        ms_per_text: likewise for a text of `NUM_TOKENS` tokens.
        threads: of the timing.
    """

    name: str
    parameters: int
    image_parameters: int
    text_parameters: int
    embedding_parameters: int
    bytes: dict[str, int]
    ms_per_picture: float | None = None
    ms_per_text: float | None = None
    threads: int | None = None


def student_model(config: StudentConfig) -> DCCLIPModel:
    """A student from its config alone, with random weights.

    Args:
        config: with its towers, vocabulary, image size and projection width spelt out.

    Raises:
        ValueError: one of these is left to a teacher.
    """
    if config.image_size is None or config.projection_dim is None:
        raise ValueError(
            f"student.image_size is {config.image_size}, student.projection_dim is {config.projection_dim}: without "
            "a teacher both must be given."
        )
    return DCCLIPModel(
        DCCLIPConfig(
            vision_config=tower_config(config, "vision"),
            text_config=tower_config(config, "text"),
            projection_dim=config.projection_dim,
            vision_pooling=config.vision_pooling,
            text_pooling=config.text_pooling,
            image_size=config.image_size,
            max_text_length=config.max_text_length,
        )
    )


def student_encoder(config: StudentConfig) -> DualEncoder:
    """The two halves of such a student; see `student_model`."""
    model = student_model(config)
    return split(model, model.config.image_size)


def _size(name: str) -> Callable[[], DualEncoder]:
    return lambda: student_encoder(load_size(name, vision_init=RANDOM, text_init=RANDOM))


MODELS: dict[str, Callable[[], DualEncoder]] = {name: _size(name) for name in SIZES} | RIVALS


def measure(name: str, threads: int = 2, timing: bool = True) -> Budget:
    """Build one model and measure it.

    Args:
        name: one of `MODELS`.
        threads: of the timing.
        timing: without it nothing is allocated, and the times are None.
    """
    with torch.device("cpu" if timing else "meta"):
        encoder = MODELS[name]()
    image, text = _count(encoder.image_tower), _count(encoder.text_tower)
    embedding = encoder.embedding_table.weight.numel()
    per_picture, per_text = _time(encoder, threads) if timing else (None, None)
    return Budget(
        name=name,
        parameters=image + text,
        image_parameters=image,
        text_parameters=text,
        embedding_parameters=embedding,
        bytes={number: size * (image + text) for number, size in BYTES.items()},
        ms_per_picture=per_picture,
        ms_per_text=per_text,
        threads=threads if timing else None,
    )


def _count(tower: nn.Module) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


@torch.inference_mode()
def _time(encoder: DualEncoder, threads: int) -> tuple[float, float]:
    """Median milliseconds of a picture and of a text."""
    picture = torch.rand(1, 3, encoder.image_size, encoder.image_size)
    ids = torch.arange(100, 100 + NUM_TOKENS).unsqueeze(0)  # (1, L), none of them special
    image_tower, text_tower = encoder.image_tower.eval(), encoder.text_tower.eval()
    with on_threads(threads):
        return median_ms(lambda: image_tower(picture), REPEATS), median_ms(lambda: text_tower(ids), REPEATS)


def header() -> str:
    """The first line of the table."""
    return (
        f"{'model':22}{'parameters':>12}{'image':>9}{'text':>9}{'tokens':>9}"
        + "".join(f"{f'{number} MB':>10}" for number in BYTES)
        + f"{'ms/picture':>12}{'ms/text':>10}"
    )


def row(budget: Budget) -> str:
    """One line of the table: parameters in millions, bytes in megabytes (10**6)."""
    counts = (budget.image_parameters, budget.text_parameters, budget.embedding_parameters)
    times = (budget.ms_per_picture, budget.ms_per_text)
    return (
        f"{budget.name:22}{budget.parameters / 1e6:>10.1f} M"
        + "".join(f"{count / 1e6:>7.1f} M" for count in counts)
        + "".join(f"{size / 1e6:>10.1f}" for size in budget.bytes.values())
        + "".join(f"{'-' if ms is None else f'{ms:.1f}':>{width}}" for ms, width in zip(times, (12, 10), strict=True))
    )
