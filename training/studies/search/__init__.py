"""Measure the search over photographs.

__main__.py, measure.py          rate of indexing
growth.py, measure_growth.py     memory and time as an index grows
scan.py, measure_scan.py         latency of a scan, beside FAISS and USearch
rclip.py, measure_rclip.py       the program rclip beside it
adapt.py, measure_adapt.py       recall of models of another space, through a map
other_model.py, make_other_model.py  such a model
recall.py, measure_recall.py     recall of each stored type of vectors
options.py                       options of the commands
photographs.py                   embeddings of photographs and captions
photo_files.py                   JPEG files of any number
child.py                         commands in processes of their own
tables.py                        tables of the manuals
"""
