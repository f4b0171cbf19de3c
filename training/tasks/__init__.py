"""The two stages as tasks: a batch in, named losses out. A task knows student, targets and losses; no optimizer."""

from training.tasks.align import AlignTask
from training.tasks.distill import DistillTask
from training.tasks.task import Task

__all__ = ["AlignTask", "DistillTask", "Task"]
