"""The two training stages as tasks: a batch in, named losses out. A task knows no optimizer.

task.py        what both stages share
spread.py      one loss over a batch that is spread over processes and chunks
distill.py     stage 1, each tower learns from its teacher tower
align.py       stage 2, both towers learn from pairs of images and captions
losses.py      the losses of both stages as pure functions
general.py photos.py classes.py   losses of stage 2 with texts or images of their own
"""

from training.tasks.align import AlignTask
from training.tasks.distill import DistillTask
from training.tasks.task import Models, Task
