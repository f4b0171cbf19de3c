"""Data of the studies of training runs."""

import pytest
from datasets import Dataset, Image


@pytest.fixture(scope="session")
def labelled(train_rows, tmp_path_factory) -> str:
    """Two drawings of each of six classes, with class names in both languages."""
    rows = train_rows.select_columns(["image", "en", "zh"]).cast_column("image", Image(decode=False)).select(range(12))
    labels = [number // 2 for number in range(12)]
    names = {"en": [f"class {label}" for label in labels], "zh": [f"类别 {label}" for label in labels]}
    path = tmp_path_factory.mktemp("labelled") / "labelled.parquet"
    Dataset.from_dict({"image": rows["image"][:], "label": labels} | names).to_parquet(path)
    return str(path)
