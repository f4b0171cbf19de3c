"""What a model is, read off its folder, or off the recipe of one that is not trained yet."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What stands in the card's first table, and where the weights come from.

    Args:
        parameters: learnt numbers.
        bytes: of `model.safetensors`; None before training.
        image_size: edge of the square input in pixels.
        max_text_length: in tokens.
        projection_dim: width of the embedding.
        languages: ISO 639-1 codes.
        teacher: Hub id or name of the model it was distilled from.
        teacher_license: licence of the teacher's weights.
    """

    parameters: int
    bytes: int | None
    image_size: int
    max_text_length: int
    projection_dim: int
    languages: tuple[str, ...]
    teacher: str | None
    teacher_license: str | None

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelFacts":
        """Read a finished Hub folder."""
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        teacher = config["teacher"]
        return cls(
            parameters=count_parameters(folder),
            bytes=(folder / WEIGHTS_FILE).stat().st_size,
            image_size=config["image_size"],
            max_text_length=config["max_text_length"],
            projection_dim=config["projection_dim"],
            languages=tuple(config["languages"]),
            teacher=Path(teacher).name if teacher and Path(teacher).is_absolute() else teacher,
            teacher_license=config["teacher_license"],
        )


def count_parameters(folder: str | Path) -> int:
    """Parameters in `model.safetensors`, read off its header; running statistics of BatchNorm are none."""
    with safe_open(Path(folder) / WEIGHTS_FILE, framework="pt") as weights:
        names = [name for name in weights.keys() if "running_" not in name and "num_batches_tracked" not in name]  # noqa: SIM118
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
