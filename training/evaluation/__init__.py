"""Zero-shot classification and retrieval in several languages.

classify.py         encodes and scores labelled sets in memory
embedding_cache.py  embeddings cached by content, computed by one process or several
measure.py          image and class embeddings to metrics and rows
metrics/            metrics as pure functions
models/             models of all families with one interface
options.py          options of training/eval.py
plan.py             options to tasks and data
report/             files of a result
retrieval.py        recall at k of images and captions
runner.py           all models on all tasks of a plan
scheduled.py        evaluation during training
sets/               test sets, class names, templates and protocols
"""
