"""Filter raw image-text pairs into a clean Chinese and English data set for stage 2.

    options.py          data, columns and the threshold of each filter
    causes.py           the reasons for dropping a row or caption, in the order of the checks
    images.py           checks of one image, its perceptual hash and its colour thumbnail
    languages.py        words by script, traditional Chinese, language identification
    captions.py         checks of one caption
    near_duplicates.py  near-duplicate search without comparing all pairs
    similarity.py       image-caption cosine similarity from a teacher
    facts.py            the stored arrays of rows and captions, one file per shard
    examine.py          pass 1: each row by itself, shard by shard
    decide.py           pass 2: filters that compare rows with each other
    run.py              both passes, resumable; writes the shards of the curated set
    write_report.py     report.json, report.md, similarity.png

The paper (arXiv 2404.11249) recommends such a set but does not list its own filters in the text available to us. The
filters and thresholds here are ours.
"""
