"""How well captions find the other captions of their photograph."""

import pytest
import torch
from datasets import Dataset
from PIL import Image

from training.studies.photographs import captions
from training.utils.results import RESULTS_FILE, Results

WORDS = ("dog", "boat", "tree")


def encode(texts):
    """One axis for each word that a text has; all axes for a text without any."""
    rows = [[word in text for word in WORDS] for text in texts]
    return torch.tensor([row if any(row) else [1, 1, 1] for row in rows]).float()


SPECIFIC = [[f"a {word}", f"the {word}", f"one {word}"] for word in WORDS]
VAGUE = [["a dog", "something", "something"], ["a boat", "something", "something"], ["something"] * 3]


def test_specific_captions_find_their_photograph_and_vague_ones_do_not():
    rows = captions.measure(encode, "mine", {"en": SPECIFIC, "zh": VAGUE})
    values = {(row.language, row.protocol, row.metric): row.value for row in rows}
    assert values["en", "en", "caption_R@1"] == 1
    # 2 of 9 Chinese captions name a thing
    assert values["zh", "zh", "caption_R@1"] == values["zh", "en", "caption_R@1"] == pytest.approx(2 / 9)
    assert set(values) == {(a, b, f"caption_R@{k}") for a in ("en", "zh") for b in ("en", "zh") for k in (1, 5, 10)}


def test_a_caption_is_not_among_the_candidates():
    alone = [["dog", "boat"], ["boat", "tree"], ["tree", "dog"]]  # each is equal to a caption of another photograph
    rows = list(captions.measure(encode, "mine", {"en": alone, "zh": alone}))
    assert [row.value for row in rows if row.metric == "caption_R@1"] == [0, 0, 0, 0]


def test_as_many_captions_are_kept_as_every_photograph_has():
    kept = captions.equally_many({"en": [["a", "b", "c"], ["d", "e"]], "zh": [["f", "g", "h"], ["i", "j", "k"]]})
    assert kept == {"en": [["a", "b"], ["d", "e"]], "zh": [["f", "g"], ["i", "j"]]}


@pytest.mark.parametrize("cell", ["a dog", ["a dog"], [], None])
def test_a_photograph_with_fewer_than_two_captions_is_refused(cell):
    with pytest.raises(ValueError, match=r"row 1 .*'zh'.*Name photographs with several captions"):
        captions.equally_many({"en": SPECIFIC[:2], "zh": [SPECIFIC[0], cell]})


def test_the_study_writes_a_table(tmp_path, teacher_folder, monkeypatch, capsys):
    source = tmp_path / "photographs.parquet"
    images = [Image.new("RGB", (8, 8))] * 3
    Dataset.from_dict({"image": images, "en": SPECIFIC, "zh": VAGUE}).to_parquet(source)
    monkeypatch.setattr("training.studies.sentence_encoder.read_sentence_encoder", lambda: encode)
    arguments = ["--retrieval", str(source), "--models", f"mine={teacher_folder}"]
    captions.main([*arguments, "--output_dir", str(tmp_path / "study")])
    assert {row.model for row in Results.read(tmp_path / "study" / RESULTS_FILE).rows} == {"multilingual USE", "mine"}
    assert "| Chinese queries, English candidates | " in capsys.readouterr().out


def test_a_model_without_a_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        captions.main(["--models", "runs/mine", "--retrieval", "a", "--output_dir", "c"])
    assert "NAME=FOLDER" in capsys.readouterr().err
