"""Model folders in the layouts of other tools.

layout.py     what a layout is
open_clip.py  open_clip, and every tool that loads models through it
immich.py     Immich's machine learning server
table.py      the table of layouts: a new layout is one entry

Tools that read the model folder itself need no layout: their files are part of every finished folder (see
training/hub/contents.py), and helpers for them travel with it as `modeling_dcclip/*_dcclip.py`.
"""
