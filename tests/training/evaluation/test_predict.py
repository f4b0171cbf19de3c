"""`training/eval.py --predict`: a folder of images to a CSV file."""

import csv
import json
import os
from pathlib import Path

import pytest
from datasets import Dataset, Image
from PIL import Image as PILImage

from tests.training.evaluation.drawings import CIFAR_10, write_folders
from training import eval as eval_script
from training.evaluation.predict import read_labels
from training.evaluation.zero_shot_model import ZeroShotModel

LABELS = ["飞机", "frog", "一只狗"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Real drawings in folders, one file that is no image, and a damaged image."""
    folder = tmp_path_factory.mktemp("images")
    write_folders(folder, CIFAR_10)
    (folder / "notes.md").write_text("no image", encoding="utf-8")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_folders(folder / ".thumbnails", {"dog": ["1f415"]})
    return folder


def run(model: Path, images: Path, output: Path, *arguments: str):
    command = ["--model", str(model), "--predict", str(images), "--output", str(output)]
    assert eval_script.main([*command, *arguments]) is None


@pytest.fixture(scope="module")
def predicted(teacher_folder, images, tmp_path_factory) -> list[dict[str, str]]:
    output = tmp_path_factory.mktemp("predicted") / "labels.csv"
    run(teacher_folder, images, output, "--labels", *LABELS, "--top_k", "2")
    with output.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == ["path", "label", "score", "top_k", "error"]
        return list(reader)


def test_every_image_has_a_row_in_order_of_the_paths(predicted, images):
    expected = sorted(path for path in images.rglob("*.png") if ".thumbnails" not in path.parts)
    assert [images / row["path"] for row in predicted] == expected and len(expected) > 10


def test_a_damaged_image_has_an_error_and_no_label(predicted):
    (damaged,) = [row for row in predicted if row["error"]]
    assert damaged["path"] == "damaged.png" and (damaged["label"], damaged["score"], damaged["top_k"]) == ("", "", "")


def test_scores_equal_those_of_single_images(predicted, images, teacher_folder):
    model = ZeroShotModel.from_pretrained(teacher_folder)
    classes = model.encode_texts(LABELS)
    for row in [row for row in predicted if not row["error"]][::4]:
        single = Dataset.from_dict({"image": [{"path": str(images / row["path"]), "bytes": None}]})
        cosines = (model.encode_images(single.cast_column("image", Image(decode=False))) @ classes.T)[0]
        values, order = (model.model.logit_scale.exp().item() * cosines).softmax(0).topk(2)
        best = json.loads(row["top_k"])
        assert [label for label, _ in best] == [LABELS[number] for number in order]
        assert [score for _, score in best] == pytest.approx(values.tolist(), abs=1e-5)
        assert row["label"] == best[0][0] and float(row["score"]) == best[0][1]


@pytest.mark.parametrize("labels", [["frog"], ["frog", "dog", "frog"], ["frog", " "], ["missing.txt"]])
def test_wrong_labels_are_refused(labels):
    with pytest.raises(ValueError, match="labels: "):
        read_labels(labels)


def test_names_that_are_not_utf_8_and_all_formats_of_the_index_have_a_row(teacher_folder, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/\xba\xec.png", "wb") as file:
        PILImage.new("RGB", (8, 8), "red").save(file, "PNG")
    for name in ("a.avif", "b.jpe", "._hidden.png"):
        PILImage.new("RGB", (8, 8), "red").save(folder / name, "JPEG" if name.endswith("jpe") else None)
    (tmp_path / "labels.txt").write_text("\ufeff狐狸\nfrog\n", encoding="utf-8")
    (folder / "damaged.png").write_bytes(b"\x89PNG")
    run(teacher_folder, folder, tmp_path / "out.csv", "--labels", str(tmp_path / "labels.txt"))
    assert "1 could not be decoded" in capsys.readouterr().out
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == ["\\xba\\xec.png", "a.avif", "b.jpe", "damaged.png"]
    assert {row["label"] for row in rows} <= {"狐狸", "frog", ""}
