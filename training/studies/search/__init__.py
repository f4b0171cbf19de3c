"""Measure the search over photographs.

__main__.py, measure.py          rate of indexing, and latency of a scan
recall.py, measure_recall.py     recall of each stored type of vectors
options.py                       options of the commands
photographs.py                   embeddings of photographs and captions
tables.py                        tables of the manuals
"""
