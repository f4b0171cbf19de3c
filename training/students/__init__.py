"""Students: small models built from a recipe or the name of a size.

- `build.py`: a student with its processor, from a recipe, a size, a config alone or a saved folder
- `sources.py`: the pretrained towers that a student can inherit weights from
- `inherit.py`: weights copied or cut from such a tower
- `average.py`: weighted means of weights
"""

from training.students.build import SIZES, build_student, load_size, load_student
from training.students.inherit import inherit_weights
from training.students.sources import SourceTower, open_source_tower
