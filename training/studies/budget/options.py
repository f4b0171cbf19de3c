"""Options of the budget command."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from training.studies.budget.names import NAMES

PROGRAM = "python -m training.studies.budget"
Backend = Literal["eager", "compiled", "onnx-fp32", "onnx-int8"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What to measure.

    Args:
        models: Sizes and baselines by name, with random weights, and folders of finished students. Names: tiny, small,
            base, altclip, clip-vit-b-32, chinese-clip-vit-b-16, chinese-clip-rn50, mobileclip-s0, mobileclip2-s0,
            tinyclip-39m-16, tinyclip-40m-32, metaclip2-s-16.
        backends: Backends to measure: PyTorch eager or compiled, ONNX Runtime in fp32 or int8.
        threads: Numbers of CPU threads; each number gets a process of its own.
        batch_sizes: Images or texts per call.
        repeats: Calls of each kind, unless they exceed `seconds`.
        seconds: Time limit for one kind of call; at least three calls are made.
        quality: JSON file `{"name": "top-1 of ...", "values": {model: share}}` for the vertical axis of the plot; by
            default it shows parameters.
        output_dir: Folder for results.json, table.txt and budget.png.
    """

    models: list[str] = field(default_factory=lambda: list(NAMES))
    backends: list[Backend] = field(default_factory=lambda: list(BACKENDS))
    threads: list[int] = field(default_factory=lambda: [1, 2])
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8])
    repeats: int = 32
    seconds: float = 5.0
    quality: str | None = None
    output_dir: str = "runs/budget"

    def __post_init__(self):
        for name, values in (
            ("threads", self.threads),
            ("batch_sizes", self.batch_sizes),
            ("repeats", [self.repeats]),
        ):
            if min(values) < 1:
                raise ValueError(f"{name}: {min(values)} is less than 1. Set at least 1.")
        for name in self.models:
            if name not in NAMES and not Path(name).is_dir():
                raise ValueError(
                    f"models: {name!r} is neither the name of a size or baseline nor a folder. Name the folder of a "
                    f"finished student, or one of {', '.join(NAMES)}."
                )
        measured_models(self.models)


@dataclass(frozen=True)
class MeasuredModel:
    """A model to measure.

    Args:
        name: Name of a size or a baseline, or the name of the folder.
        folder: Folder of a finished student; None for a size or a baseline with random weights.
    """

    name: str
    folder: str | None = None


def measured_models(names: list[str]) -> list[MeasuredModel]:
    """The models that names and folders stand for, in their order.

    Raises:
        ValueError: If two of them have the same name.
    """
    models = [
        MeasuredModel(name) if name in NAMES else MeasuredModel(Path(name).resolve().name, name) for name in names
    ]
    unique = {model.name for model in models}
    if len(unique) < len(models):
        raise ValueError(
            f"models: two models have the same name in {' '.join(names)}. Remove one or rename its folder."
        )
    return models


@dataclass(frozen=True)
class Quality:
    """Accuracy of the models, for the vertical axis of the plot.

    Args:
        name: Label of the axis.
        values: Accuracy in 0..1, by model.
    """

    name: str
    values: dict[str, float]

    @classmethod
    def read(cls, path: str | Path) -> "Quality":
        """Read a JSON file `{"name": ..., "values": {model: share}}`.

        Raises:
            ValueError: If the file is missing or has another structure.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(str(content["name"]), {name: float(value) for name, value in content["values"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'quality: {str(path)!r} must contain {{"name": ..., "values": {{model: share in 0..1}}}} ({error!r}).'
            ) from error
