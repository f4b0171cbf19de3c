"""Studies on photographs: what the same pretrained towers do without distillation, and the paper's claims.

    python -m training.studies.photographs --train TRAIN.parquet --retrieval NAME=VALIDATION.parquet ...
    python -m training.studies.photographs.claims --train TRAIN.parquet --validation VALIDATION.parquet ...

frozen.py           EfficientNet-Lite2 and the multilingual Universal Sentence Encoder, as one model to evaluate
heads.py            heads on their embeddings, trained on captions
claims.py           the claims: the command
claims_options.py   its options
claims_runs.py      the arms of the claims, and their training runs
claims_tables.py    their table and plot
"""
