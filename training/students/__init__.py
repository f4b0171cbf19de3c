"""Students: built from a recipe or a size's name, with weights that are random, the teacher's, or a checkpoint's."""

from training.students.build import build_student, load_student
from training.students.inherit import Inheritance, evenly_spaced, inherit_weights
from training.students.sizes import SIZES, load_size
from training.students.sources import SourceTower, open_source

__all__ = [
    "SIZES",
    "Inheritance",
    "SourceTower",
    "build_student",
    "evenly_spaced",
    "inherit_weights",
    "load_size",
    "load_student",
    "open_source",
]
