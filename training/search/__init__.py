"""Embed collections of images of any size, for an index or for other search engines.

collection.py   the images of a source, in shards
embedder.py     `Embedder`: encodes images in the way of an index; also a callable for Ray Data
options.py      options of `training/embed.py`
run.py          embeds the missing shards with several processes
shards.py       Parquet files of embeddings
write_index.py  an index from such files
"""
