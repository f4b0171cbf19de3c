"""Compare `training/finetune.py` with plain fine-tuning and with LoRA on data that are new to the model.

__main__.py, measure.py   train every arm on every number of pairs, and measure what was gained and kept
pool.py                   a test split, and training pairs of any number
arms.py                   the ways to fine-tune
adapters.py               low-rank adapters that are merged into the weights
options.py                options of the command
tables.py                 table and plot
"""
