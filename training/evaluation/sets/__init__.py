"""Test sets, class names, templates and protocols.

class_names.py     names of classes by language; those of ELEVATER's sets are in names/
held_out.py        held-out test sets of the embedded corpus
eval_tasks.py      evaluation tasks: one set, one protocol, one language
imagenet.py        class names of ImageNet, from installed packages
labelled_sets.py   labelled images, compared with the set of the protocol
labels.py          labels of the data to classes of the protocol, by name
packages.py        reads files of installed packages without importing them
protocols.py       the table of sets and protocols
retrieval_sets.py  images with captions
sources.py         loads rows from folders, parquet files, tar shards and the Hub
templates.py       prompt templates; ours are in templates/
"""
