"""Training engine of both stages.

script.py        command line of both stages
stage.py         steps from a recipe to a finished folder; the scripts distill.py and align.py describe their stage
inputs.py        data, augmentation and teacher targets of a recipe
loop.py          training loop
rotation.py      the student's space on the principal axes of the teacher's
optimizer.py     AdamW and moving average
log.py           progress bar, log.jsonl, experiment trackers
checkpoint.py    complete Hub folders, written atomically
state.py         training state: what a resumed run needs besides the weights
distributed/     accelerate config files
"""
