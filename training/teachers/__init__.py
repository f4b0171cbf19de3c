"""One interface over the teacher families: feature maps, embeddings, tokenizer, image statistics. Always frozen."""

from training.teachers.families import FAMILIES, TOWERS, Family, Targets
from training.teachers.lineage import weights_fingerprint
from training.teachers.teacher import Teacher

__all__ = ["FAMILIES", "TOWERS", "Family", "Targets", "Teacher", "weights_fingerprint"]
