"""Facts about a model that come from its folder."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from training.teachers.lineage import split_licenses

WEIGHTS_FILE = "model.safetensors"
BUFFERS = re.compile(r"running_|num_batches_tracked|^rotation$")
OWN_LICENSE = "apache-2.0"
# between the names of several teachers in a config
TEACHER_SEPARATOR = " + "


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The values of the card's first table, and the origin of the weights.

    Args:
        parameters: Number of learnt parameters.
        bytes: Size of `model.safetensors` in bytes; None before training.
        image_size: Edge of the square input in pixels.
        max_text_length: Longest text in tokens.
        projection_dim: Width of the embeddings.
        prefixes: Widths at which truncated embeddings were trained too.
        rotation: Digest of the rotation of the teacher's embedding space; None if there is none.
        languages: Languages of the training texts, as ISO 639-1 codes.
        teacher: Hub id or name of the teacher; None if there was none.
        teacher_license: Licence identifier of the teacher's weights; None if unknown.
        base_model: Hub id or name of the model that it was fine-tuned from; None if it was not fine-tuned.
        base_model_license: Licence identifier of that model's weights; None if unknown.
    """

    parameters: int
    bytes: int | None
    image_size: int
    max_text_length: int
    projection_dim: int
    languages: tuple[str, ...]
    teacher: str | None
    teacher_license: str | None
    prefixes: tuple[int, ...] = ()
    rotation: str | None = None
    base_model: str | None = None
    base_model_license: str | None = None

    @property
    def license(self) -> str:
        """Licence identifier of the weights: that of their origin, if it is another one than ours."""
        origins = [name for name in (self.teacher_license, self.base_model_license) if name]
        if not origins and (self.teacher or self.base_model):
            return "other"  # nobody has stated the terms of the origin
        others = {part for name in origins for part in split_licenses(name)} - {OWN_LICENSE}
        # the Hub has one identifier for a model; the notice names all licences
        return OWN_LICENSE if not others else others.pop() if len(others) == 1 else "other"

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelFacts":
        """Read the facts of a finished Hub folder."""
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(
            parameters=count_parameters(folder),
            bytes=(folder / WEIGHTS_FILE).stat().st_size,
            image_size=config["image_size"],
            max_text_length=config["max_text_length"],
            projection_dim=config["projection_dim"],
            languages=tuple(config["languages"]),
            teacher=_without_folder(config["teacher"]),
            teacher_license=config["teacher_license"],
            prefixes=tuple(config.get("prefixes", ())),
            rotation=config.get("rotation"),
            base_model=_without_folder(config.get("base_model")),
            base_model_license=config.get("base_model_license"),
        )


def split_teachers(teacher: str) -> list[str]:
    """Names of the teachers of a model, from the field of its config; each with its weight if these differ."""
    return teacher.split(TEACHER_SEPARATOR)


def _without_folder(name: str | None) -> str | None:
    names = split_teachers(name) if name else []
    return TEACHER_SEPARATOR.join(Path(part).name if Path(part).is_absolute() else part for part in names) or name


def count_parameters(folder: str | Path) -> int:
    """Number of parameters in `model.safetensors`, from its header. BatchNorm's running statistics and the rotation of
    the teacher's space do not count.
    """
    with safe_open(Path(folder) / WEIGHTS_FILE, framework="pt") as weights:
        names = [name for name in weights.keys() if not BUFFERS.search(name)]  # noqa: SIM118
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
