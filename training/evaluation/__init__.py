"""Zero-shot classification and retrieval in several languages.

classify.py         encode and score labeled sets in memory; evaluation during training
encoder.py          embeddings by one process or several, and the spaces in which two models can be compared
metrics.py          metrics as pure functions
options.py          options of training/eval.py
retrieval.py        images with captions, and recall at k
run.py              one evaluation: tasks, data, all models, results.json, table.md and results.png
sets/               test sets, class names, templates and protocols
"""
