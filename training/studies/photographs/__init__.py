"""Studies on photographs: pretrained towers, the paper's claims, text-only alignment, spellings, captions, classes.

    python -m training.studies.photographs --train TRAIN.parquet --retrieval NAME=VALIDATION.parquet ...
    python -m training.studies.photographs.claims --train TRAIN.parquet --validation VALIDATION.parquet ...
    python -m training.studies.photographs.text_only --train TRAIN.parquet --validation VALIDATION.parquet ...
    python -m training.studies.photographs.spellings --models NAME=FOLDER --retrieval VALIDATION.parquet ...
    python -m training.studies.photographs.captions --retrieval VALIDATION.parquet ...
    python -m training.studies.photographs.classes --images IMAGES.parquet --classifier FOLDER ...

frozen.py               EfficientNet-Lite2 and the multilingual Universal Sentence Encoder, as one model to evaluate
heads.py                heads on their embeddings, trained on captions
claims.py               the claims: the command
claims_options.py       its options
claims_runs.py          the arms of the claims, and their training runs
text_only.py            text-only alignment: the command
text_only_options.py    its options
text_only_runs.py       its arms, and their training runs
spellings.py            letter case, underscores, hyphens and traditional characters: the command and its table
captions.py             how well captions tell photographs apart, without images: the command and its table
classes.py              which classes of a classifier models still know: the command and its table
short_runs.py           their pretrained towers, and recipes of short runs
tables.py               their tables and plots
"""
