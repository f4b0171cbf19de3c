"""Helpers that know nothing of models.

cli.py      build a command line from a dataclass; report user errors; what a command prints
files.py    atomic writes of files and folders
keys.py     keys of caches, shards and checkpoints, the one digest, and random numbers by keys
output.py   output folders: locks, and the names that commands wrote
process.py  threads, memory and latency of this process
ranges.py   types of options with ranges
reading.py  YAML and JSON files, checked against types
results.py  `results.json`: rows of numbers with the command, commit, data and seed that produced them
trust.py    what may run code of others
"""
