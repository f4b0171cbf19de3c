"""The recall of stored types, on images and captions whose nearest neighbours are known."""

import numpy as np
import pytest

from tests.modeling.color_model import save_color_model
from training.studies.search.measure_recall import SIGNS, measure_gallery
from training.studies.search.recall import main
from training.studies.search.tables import recall_table
from training.utils.results import Results


def values(rows, metric):
    return {(row.model, row.set, row.language): row.value for row in rows if row.metric == metric}


def test_types_that_distinguish_the_images_find_them_and_signs_alone_find_fewer(tmp_path):
    rng = np.random.default_rng(0)
    vectors = np.abs(rng.standard_normal((40, 16))).astype(np.float32)  # all signs are equal without a rotation
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    targets = np.array([3, 30])
    rows = measure_gallery(vectors, {"en": (vectors[targets], targets)}, tmp_path)
    recall, nearest = (values(rows, metric) for metric in ("recall_at_10", "nearest_at_10"))
    for name in ("float32", "float16", "int8", "binary"):
        assert recall[name, "40 photographs", "en"] == 1
        assert nearest[name, "40 photographs", "en"] >= 0.9
    assert 0.3 < nearest[SIGNS, "40 photographs", "en"] < 0.9
    sizes = {name: value for (name, _, _), value in values(rows, "bytes_per_vector").items()}
    assert sizes == {"float32": 64, "float16": 32, "int8": 20, "binary": 22, SIGNS: 2}


@pytest.mark.slow
def test_captions_are_searched_among_their_own_images_and_among_others(corpus, tmp_path, capsys):
    model, out = save_color_model(tmp_path / "model"), tmp_path / "results"
    data = str(corpus / "train.parquet")
    main(["--model", str(model), "--data", data, "--others", data, "--output_dir", str(out)])
    results = Results.read(out / "results.json")
    recall, nearest = (values(results.rows, metric) for metric in ("recall_at_10", "nearest_at_10"))
    assert {size for _, size, _ in recall} == {"180 photographs", "360 photographs"}
    for language in ("en", "zh"):
        assert 0 < recall["int8", "360 photographs", language] <= recall["int8", "180 photographs", language] < 1
        assert 0.9 < nearest["int8", "360 photographs", language] <= 1
        assert nearest[SIGNS, "360 photographs", language] < 0.5  # the model is not made for them
    assert capsys.readouterr().out.strip() == recall_table(results)
    assert not (out / ".recall").exists()


def test_data_without_captions_are_one_line(corpus, tmp_path, capsys):
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(corpus / "train.parquet"), split="train")
    rows.select(range(4)).remove_columns("zh").to_parquet(tmp_path / "english.parquet")
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(save_color_model(tmp_path / "model")), "--data", str(tmp_path / "english.parquet")])
    assert stopped.value.code == 2 and "there is no column 'zh'" in capsys.readouterr().err
