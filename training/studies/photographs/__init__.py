"""Baselines on photographs: what the same pretrained towers do without distillation.

    python -m training.studies.photographs --train TRAIN.parquet --validation VALIDATION.parquet ...

frozen.py    EfficientNet-Lite2 and the multilingual Universal Sentence Encoder, as one model that can be evaluated
heads.py     heads on their embeddings, trained on captions
"""
