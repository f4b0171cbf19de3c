"""Training engine of both stages.

script.py        command line of both stages
stage.py         device, and the way from a recipe to a finished folder; distill.py and align.py describe their stage
inputs.py        data, augmentation and teacher targets of a recipe
loop.py          training loop, and what a step changes: weights, AdamW, moving average, position
rotation.py      the student's space on the principal axes of the teacher's
log.py           progress bar, log.jsonl, experiment trackers; stops a run whose loss is not finite
checkpoint.py    complete Hub folders, written atomically, and the state in them
distributed/     accelerate config files
"""
