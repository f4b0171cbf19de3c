"""Recall through a map, on two models of the same images in different spaces."""

import io
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from tests.modeling.color_model import CHINESE, COLORS, save_color_model
from training.studies.search.adapt import main
from training.studies.search.make_other_model import fit_projections
from training.utils.results import Results


def write_colors(path: Path, number: int) -> str:
    """Images of one colour each, with its name as caption; no two of them are equal."""
    rows = []
    for position in range(number):
        color, word = list(zip(COLORS, CHINESE, strict=True))[position % len(COLORS)]
        content = io.BytesIO()
        Image.new("RGB", (20 + position, 16), color).save(content, "PNG")
        rows.append({"image": content.getvalue(), "en": [color], "zh": [word]})
    Dataset.from_list(rows).to_parquet(path)
    return str(path)


@pytest.mark.slow
def test_a_map_restores_what_another_space_loses(tmp_path, capsys):
    models = [save_color_model(tmp_path / "one"), save_color_model(tmp_path / "other", turn=3)]
    data, sample = (write_colors(tmp_path / f"{number}.parquet", number) for number in (15, 60))
    out = tmp_path / "results"
    main(["--models", *map(str, models), "--data", data, "--sample", sample, "--output_dir", str(out)])
    results = Results.read(out / "results.json")
    recall = {(row.model, row.stage, row.language): row.value for row in results.rows if row.metric == "t2i_recall@5"}
    for name in ("one", "other"):
        for language in ("en", "zh"):
            assert recall[name, "dcclip adapt", language] == recall[name, "own index", language] == 1
            assert recall[name, "no map", language] < 0.8
    assert capsys.readouterr().out.count("with `dcclip adapt`") == 2
    assert not (out / ".adapt").exists()


def test_two_folders_are_needed(tmp_path, corpus, capsys):
    data = str(corpus / "train.parquet")
    with pytest.raises(SystemExit) as stopped:
        main(["--models", "a/edge", "b/edge", "--data", data, "--sample", data])
    assert stopped.value.code == 2 and "expected two folders with different names" in capsys.readouterr().err


def test_projections_bring_images_and_captions_together():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((2000, 4))
    images = 3 + shared @ rng.standard_normal((4, 20)) + 0.1 * rng.standard_normal((2000, 20))
    texts = 5 + shared @ rng.standard_normal((4, 12)) + 0.1 * rng.standard_normal((2000, 12))
    image_map, text_map = fit_projections(images[:1500], texts[:1500], 4)
    one, two = images[1500:] @ image_map, texts[1500:] @ text_map
    one, two = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, two))
    assert np.mean((two @ one.T).argmax(1) == np.arange(500)) > 0.8
