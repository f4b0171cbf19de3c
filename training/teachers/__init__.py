"""Frozen dual encoders: one class over all model families, for distillation and evaluation.

- `families.py`: the table of families, one row each
- `family.py`: the fields of a row, and the targets that it gives
- `preparation.py`: how a family turns texts into tokens; image processors of models with a square input
- `images.py`: images decoded, resized and normalized in threads
- `dual_encoder.py`: a frozen dual encoder, whole or one tower at a time
- `loading.py`: partial loading of a checkpoint
- `lineage.py`: revision, weight fingerprint and license
- `targets.py`: the targets that a run needs, computed at every step
- `cache.py`: targets computed once and stored
- `named_targets.py`: targets of some captions from a file
"""

from training.teachers.dual_encoder import DualEncoder
from training.teachers.families import FAMILIES
from training.teachers.family import TOWERS, Family, Targets
from training.teachers.lineage import weights_fingerprint
from training.teachers.preparation import TextPreparation
