"""The sizes of students. A size is a recipe in `training/configs/students/`, no code."""

from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from training.config import CONFIGS, StudentConfig

FOLDER = CONFIGS / "students"
SIZES = ("tiny", "small", "base")


def load_size(name: str, **overrides: Any) -> StudentConfig:
    """Load the student of a size.

    Args:
        name: Size, one of `SIZES`.
        overrides: Fields of `StudentConfig` that replace those of the size, such as `vision_init="random"`.

    Raises:
        ValueError: There is no such size, or a field is unknown or of a wrong type.
    """
    if name not in SIZES:
        raise ValueError(f"there is no student size {name!r}; choose one of {', '.join(SIZES)}.")
    fields = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) | overrides
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(StudentConfig, "student")
    try:
        return parser.instantiate(parser.parse_object({"student": fields})).student
    except ArgumentError as error:
        raise ValueError(f"student size {name!r}: {error} See training/config.py for the fields.") from error
