"""From raw pairs to a high-quality Chinese and English image-text set, which is what stage 2 learns from.

    options.py      what to read and where each filter draws its line
    causes.py       why a row or a caption is dropped, in the order in which that is decided
    images.py     one image: what is wrong with it, its perceptual hash and colours
    languages.py    one text: its words by script, traditional Chinese, the language that a library names
    captions.py     one caption: what is wrong with it
    near.py         near-duplicates without comparing all pairs
    similarity.py   cosines between images and captions by a teacher
    facts.py        what is known of rows and captions, as compact arrays, a file a shard
    examine.py      pass 1: shard by shard, what a row tells by itself
    decide.py       pass 2: what depends on other rows
    run.py          both passes, resumable; the shards of the curated set
    report.py       report.json, report.md, similarity.png

The paper (arXiv 2404.11249) asks for such a set. How its own was made could not be read: filters and thresholds are
ours.
"""

from training.prepare.curate.options import CurateOptions
from training.prepare.curate.run import curate

__all__ = ["CurateOptions", "curate"]
