"""Fine-tune a finished model on a user's own images.

options.py      options of `training/finetune.py`
tables.py       CSV, TSV and JSON Lines files in any usual encoding
sources.py      open the user's data: tables, folders, parquet files, tar shards, Hub ids
columns.py      detect the image column and the caption columns with their languages
images.py       find the image file of each row
prepare.py      from the user's data to images and captions in parquet files, with what was left out
split.py        validation split by image content
plan.py         steps, batch size and frozen layers
measure.py      accuracy on the validation split and on general texts
interpolate.py  weights between the starting model and the end of training
finish.py       choose a point, write the Hub folder
report.py       table, plot, results and next commands
spelling.py     command: make a finished model ignore letter case, and read guide_dog and traditional Chinese
"""
