"""Fine-tune a finished model on a user's own images.

finetune_options.py  options of `training/finetune.py`
splits.py            columns, and usable pairs in two splits, without near-duplicates across them
plan.py              recipe, chosen from the number of images
measure.py           accuracy on the validation split, and on what the model knew before
finish.py            interpolate, choose a point, report
"""
