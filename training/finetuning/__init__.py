"""Fine-tune a finished model on a user's own images.

options.py    options of `training/finetune.py`
sources.py    open the data: tables, folders, parquet files, tar shards
tables.py     read CSV and JSON Lines in any usual encoding; columns of images and captions
prepare.py    usable pairs in two splits, without near-duplicates across them
plan.py       recipe, chosen from the number of images
measure.py    accuracy on the validation split, and on what the model knew before
finish.py     interpolate, choose a point, report
"""
