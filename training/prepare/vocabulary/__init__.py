r"""Cut a multilingual Unigram tokenizer, and with it the embedding table, down to English and Chinese.

In a small text tower the embedding table dominates the size: 250,002 pieces of width 384 are 96 M parameters, while
twelve layers of that width are 21 M. A cut keeps scores and order. A text whose pieces are all kept is therefore split
into the same pieces as before, under new ids: the teacher's ids are one lookup away, and a student can learn the
teacher's token states.

    python -m training.prepare.vocabulary --tokenizer xlm-roberta-base --corpus captions.parquet --size 32000 \
        --output_dir runs/vocabulary

    options.py   options of the command
    corpus.py    sentences by language, read from files; the held-out split
    cut.py       counts of pieces, their ranking, the cut
    coverage.py  comparison of a cut with its source on held-out sentences
    tables.py    the comparison as result rows, as a text table and as a plot
    run.py       one run of the command
"""
