"""Files that are prepared for training: class names with their classifier, and names of things."""

import json

import pyarrow.parquet as pq
import pytest

from training.experiments.photographs import data


@pytest.fixture
def classifier(monkeypatch) -> dict:
    """Class names that are written with a classifier, by the name of its file."""
    written = {}
    monkeypatch.setattr(data, "save_classifier", lambda path, names: written.update({path: names}))
    return written


def test_class_names_are_in_the_order_of_their_ids_and_corrected(tmp_path, classifier):
    names = {
        "n2": {"en": "leopard", "zh": "美洲豹"},  # a jaguar
        "n1": {"en": "dog", "zh": "狗"},
    }
    source = tmp_path / "names.json"
    source.write_text(json.dumps(names), encoding="utf-8")
    data.write_class_names([source], tmp_path / "out", 0)
    assert classifier == {tmp_path / "out": {"en": ["dog", "leopard"], "zh": ["狗", "豹"]}}
    texts = pq.read_table(tmp_path / "class_names.parquet").to_pylist()
    assert texts == [{"en": "dog", "zh": "狗"}, {"en": "leopard", "zh": "豹"}]


@pytest.mark.parametrize(
    ("write", "content", "message"),
    [
        (data.write_class_names, "[", "names.json cannot be used"),
        (data.write_class_names, '{"n1": {"en": "a"}}', "'n1' has no name in 'zh'"),
        (data.write_names, "<html>404</html>", "names.json has no Chinese names"),
    ],
    ids=["damaged", "incomplete", "without Chinese"],
)
def test_a_file_of_names_that_cannot_be_used_is_named(tmp_path, write, content, message):
    source = tmp_path / "names.json"
    source.write_text(content)
    with pytest.raises(ValueError, match=rf"^photos: .*{message}"):
        write([source], tmp_path / "out", 0)


def test_chinese_nouns_join_the_english_names_of_their_synset(tmp_path):
    source = tmp_path / "wordnet.tab"
    lines = [
        "02084071-n\tcmn:lemma\t狗",
        "02084071-n\tcmn:lemma\t家+犬",
        "02084071-v\tcmn:lemma\t跟",
        "# other",
    ]
    source.write_text("\n".join(lines), encoding="utf-8")
    data.write_names([source], tmp_path / "names.parquet", 0)
    rows = pq.read_table(tmp_path / "names.parquet").to_pylist()
    assert {"en": ["dog", "domestic dog"], "zh": ["狗", "家犬"]} in rows


def test_what_has_no_source_is_left_out_and_named(tmp_path, capsys):
    data.prepare(tmp_path, tmp_path, 0)
    assert "wordnet_zh_cow.tab is missing for names.parquet" in capsys.readouterr().out
    assert not (tmp_path / "names.parquet").exists()
