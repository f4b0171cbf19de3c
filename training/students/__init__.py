"""Students: small models built from a recipe or the name of a size.

- `build.py`: a student with its processor, from a recipe, from a config alone or from a saved folder
- `sources.py`: the pretrained towers that a student can inherit weights from
- `inherit.py`: weights copied or cut from such a tower
- `factors.py`: token embeddings as a narrow table and a projection
- `image_size.py`: another image size for a saved student
- `sizes.py`: the sizes tiny, small and base
"""

from training.students.build import build_student, load_student, student_from_config
from training.students.image_size import set_image_size
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
    "set_image_size",
    "student_from_config",
]
