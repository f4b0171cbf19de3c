"""Training engine of both stages.

script.py        command line of both stages
stage.py         device, and steps from a recipe to a finished folder; distill.py and align.py describe their stage
inputs.py        data, augmentation and teacher targets of a recipe
loop.py          training loop
rotation.py      the student's space on the principal axes of the teacher's
log.py           progress bar, log.jsonl, experiment trackers; stops a run whose loss is not finite
standstill.py    what a run says when its processes no longer answer each other
checkpoint.py    complete Hub folders, written atomically
state.py         what a step changes: weights, AdamW, moving average, position; saved and restored
distributed/     accelerate config files
"""
