"""The two training stages as tasks: a batch in, named losses out. A task knows no optimizer.

distill.py      stage 1, each tower learns from its teacher tower
align.py        stage 2, both towers learn from pairs of images and captions
task.py         what both stages share, and one batch that is spread over processes and chunks
losses.py       the losses of both stages as pure functions
own_inputs.py   losses of stage 2 with texts or images of their own
"""

from training.tasks.align import AlignTask
from training.tasks.distill import DistillTask
from training.tasks.task import Models, Task
