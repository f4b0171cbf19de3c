"""Training engine of both stages.

stage.py         steps from a recipe to a finished folder; the scripts distill.py and align.py describe their stage
command.py       error messages of the scripts
inputs.py        data, augmentation and teacher targets of a recipe
beyond_data.py   what stage 2 learns from beyond its data: general texts and images, and a classifier
loop.py          training loop
optimizer.py     AdamW, learning-rate schedule, moving average
log.py           progress bar, log.jsonl, experiment trackers
checkpoint.py    complete Hub folders, written atomically
state.py         training state: what a resumed run needs besides the weights
distributed/     FSDP, DeepSpeed, and accelerate config files
"""
