"""Teachers: one interface over all model families, for distillation and evaluation.

- `families.py`: the table of families, one row each
- `family.py`: the fields of a row, and the targets that it gives
- `encoders.py`: encoders of images or texts alone
- `image_processors.py`: the image processor of a model with a square input
- `text_preparation.py`: how a family turns texts into tokens
- `teacher.py`: a frozen teacher, whole or one tower at a time
- `loading.py`: partial loading of a checkpoint
- `lineage.py`: revision, weight fingerprint and licence
- `targets.py`: the targets that a run needs, computed at every step
- `ensemble.py`: several teachers as one: who gives which target, and their joint space
- `joint_targets.py`: their targets, joined
- `batching.py`: texts encoded in batches of similar length
- `cache/`: targets computed once and stored
"""

from training.teachers.families import FAMILIES
from training.teachers.family import TOWERS, Family, Targets
from training.teachers.lineage import weights_fingerprint
from training.teachers.teacher import Teacher
from training.teachers.text_preparation import TextPreparation

__all__ = ["FAMILIES", "TOWERS", "Family", "Targets", "Teacher", "TextPreparation", "weights_fingerprint"]
