"""Zero-shot classification and retrieval in several languages.

classify.py         encode and score labelled sets in memory; evaluation during training
encoder.py          a model with the embeddings that it has computed, by one process or several
metrics.py          metrics as pure functions
options.py          options of training/eval.py
plan.py             options to tasks and data
report.py           results.json, table.md and results.png
retrieval.py        images with captions, and recall at k
runner.py           all models on all tasks of a plan
sets/               test sets, class names, templates and protocols
"""
