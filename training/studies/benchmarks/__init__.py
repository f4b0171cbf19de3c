"""What training and evaluation cost; each measurement is a command of its own.

options.py             options of the commands
stage1.py              command: stage 1 with a full-size AltCLIP
measure_stage1.py      its measurements
stage2.py              command: rate against open_clip's trainer, memory of gradient caching
measure_stage2.py      its measurements
open_clip_trainer.py   the rate of open_clip's trainer
loading.py             command: streams against plain Pillow and against ready tensors
measure_loading.py     its measurements
loading_baselines.py   plain Pillow, and the files that all loaders read
evaluation.py          command: encoding images against the bare forward pass
measure_evaluation.py  its measurements
pages.py               command: latency of the web page and the Space in a browser
benchmark.py           collecting and writing of results
peak.py                peak memory of a training stage, in a process of its own
"""
