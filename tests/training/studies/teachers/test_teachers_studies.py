"""The studies of teachers on tiny data: their numbers against references, and their tables."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from training.data import load_source
from training.evaluation.metrics.retrieval import recall_at_k
from training.studies.teachers import measure_targets
from training.studies.teachers.features import Captions, batches_of, recall_at_10
from training.studies.teachers.options import TargetsOptions, WidthsOptions
from training.studies.teachers.tables import targets_table, widths_table
from training.studies.teachers.widths import main as run_widths
from training.teachers import Teacher
from training.utils.results import Results

WIDTHS = [4, 16]


@pytest.fixture(scope="module")
def photos(train_rows, tmp_path_factory) -> Path:
    """Rows with two captions in each language, and their names as classes."""
    folder = tmp_path_factory.mktemp("photos")
    rows = train_rows.select(range(0, 48, 2))
    train_rows.select(range(24)).to_parquet(folder / "whole.parquet")
    image = pq.read_table(folder / "whole.parquet", columns=["image"])["image"]
    lists = {
        language: pa.array([[text, f"{text} 2"] for text in rows[language]], pa.list_(pa.string()))
        for language in ("en", "zh")
    }
    pq.write_table(pa.table({"image": image, **lists}), folder / "pairs.parquet")
    names = {language: pa.array(rows[language]) for language in ("en", "zh")}
    pq.write_table(pa.table({"image": image, **names}), folder / "classes.parquet")
    return folder


@pytest.fixture(scope="module")
def captions(photos) -> Captions:
    return Captions.of(load_source(str(photos / "pairs.parquet")))


def test_recall_is_that_of_evaluation(captions):
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(24, 8, generator=generator), torch.randn(96, 8, generator=generator)
    found = recall_at_10(images, texts, captions)
    scores = F.normalize(texts, dim=1) @ F.normalize(images, dim=1).T
    for number, language in enumerate(("en", "zh")):
        own = (captions.languages == number).nonzero()[:, 0]
        pairs = torch.stack([torch.arange(len(own)), captions.owners[own]], 1)
        assert found[language] == pytest.approx(recall_at_k(scores[own], pairs, 10))
    assert 0 < found["en"] < 1


def test_a_batch_has_an_image_once_and_each_epoch_another_caption(captions):
    batches = list(batches_of(captions, 8, 3, seed=1))
    assert len(batches) == 9
    assert all(len(captions.owners[batch].unique()) == 8 for batch in batches)
    epochs = [torch.cat(batches[start : start + 3]).sort().values for start in (0, 3, 6)]
    assert all(len(captions.owners[epoch].unique()) == 24 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    again = list(batches_of(captions, 8, 3, seed=1))
    assert all(torch.equal(*pair) for pair in zip(batches, again, strict=True))


@pytest.mark.slow
def test_widths_are_measured(photos, captions, teacher_folder, tmp_path, capsys):
    sources = {name: str(photos / "pairs.parquet") for name in ("train", "validation")}
    sources["class_images"] = str(photos / "classes.parquet")
    arguments = [word for name, value in sources.items() for word in (f"--{name}", value)]
    arguments += ["--model", str(teacher_folder), "--widths", *map(str, WIDTHS), "--steps", "2", "--seeds", "0"]
    run_widths([*arguments, "--output_dir", str(tmp_path)])
    results = Results.read(tmp_path / "results.json")
    assert WidthsOptions(**sources).num_images > 24
    teacher = Teacher.from_pretrained(str(teacher_folder))
    texts = teacher.encode_texts(**teacher.tokenize(captions.texts)).embedding
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert stored["meta"]["model"] == str(teacher_folder)
    # a rotation keeps every cosine of the full width
    fields = {"set": "validation", "metric": "t2i_recall@10", "protocol": "16 dimensions"}
    for language in ("en", "zh"):
        shipped = results.mean(**fields, model="as trained", language=language)
        assert results.mean(**fields, model="rotated", language=language) == pytest.approx(shipped, abs=0.05)
    assert texts.shape == (96, 16)
    table = widths_table(results)
    assert table in capsys.readouterr().out and "| rotated | 4 |" in table


@pytest.mark.slow
def test_teachers_are_compared(photos, teacher_folder, tmp_path, monkeypatch):
    vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).half()
    monkeypatch.setattr(measure_targets, "encode_with_use", lambda texts: vectors[: len(texts)])
    monkeypatch.setattr(measure_targets, "BATCH_SIZE", 8)
    pairs = str(photos / "pairs.parquet")
    folders = dict.fromkeys(("image_teacher", "text_teacher", "student_images", "tokenizer"), str(teacher_folder))
    options = TargetsOptions(
        train=pairs, validation=pairs, **folders, image_size=64, epochs=30, seeds=[0], output_dir=str(tmp_path)
    )
    results = measure_targets.measure_targets(options, "program")
    models = [name for name, *_ in measure_targets.ARMS]
    assert list(dict.fromkeys(row.model for row in results.rows))[3:] == models
    # heads over features of the very images and captions that they learned
    assert results.mean(model="teacher, e5", language="en") > 0.6
    assert Results.read(tmp_path / "results.json").rows == results.rows
    table = targets_table(results)
    assert len(table.splitlines()) == 2 + 3 + len(models) and "| InfoNCE alone |" in table
