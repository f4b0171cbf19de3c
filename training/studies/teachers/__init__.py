"""What teachers and widths of the embedding are worth, on photographs with captions in both languages.

widths.py           command: retrieval and zero-shot accuracy of truncated embeddings
measure_widths.py   its measurement
targets.py          command: one teacher, another, both, or none, on stored features
measure_targets.py  its measurement
heads.py            the heads that are trained on stored features
features.py         stored features of encoders
options.py          options of the commands
tables.py           their tables
"""
