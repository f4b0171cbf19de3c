import json
import os
import re
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from training.config import DataConfig
from training.data import CaptionTokenizer, PairStream, load_source
from training.data.images import image_cell, open_image
from training.data.sources import digest_sources, open_stream


@pytest.mark.parametrize("load", [load_source, open_stream])
def test_a_function_that_returns_no_data_set_is_refused(load):
    with pytest.raises(ValueError, match=r"data: 'tests.tiny:list_tiny_rows' is a list, not a .* Return a datasets"):
        load("tests.tiny:list_tiny_rows")


def test_image_folder_with_metadata_is_a_source(tmp_path, images):
    for number in range(3):
        images[number].save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("file_name,en,zh\n0.png,a,甲\n1.png,b,乙\n2.png,c,丙\n", encoding="utf-8")
    rows = load_source(str(tmp_path))
    assert sorted(rows["zh"]) == sorted("甲乙丙") and rows[0]["image"].size == images[0].size


def test_file_names_of_a_chinese_zip_file_are_named_with_the_remedy(tmp_path, images):
    images[0].save(tmp_path / "甲.png")
    for source in (str(tmp_path), [str(tmp_path)]):
        load_source(source)
    images[0].save(tmp_path / os.fsdecode("狗.png".encode("gbk")))
    for source in (str(tmp_path), [str(tmp_path)]):
        with pytest.raises(ValueError, match=r"data: the name of '.*\\xb9\\xb7\.png' is not UTF-8.* convmv -r -f gbk"):
            load_source(source)


@pytest.mark.parametrize(
    "source", ["nowhere.parquet", "no.such.module:function", "tests.tiny:no_function", "nobody/x"]
)
def test_missing_source_raises_an_error_with_its_name(source):
    with pytest.raises(ValueError, match="cannot load") as error:
        load_source(source)
    assert source in str(error.value)


@pytest.mark.parametrize("name", ["titles.csv", "titles.tsv", "titles.jsonl"])
def test_a_table_is_refused_with_its_conversion(tmp_path, name, images, monkeypatch):
    """The command of the message makes a file that is read."""
    monkeypatch.chdir(tmp_path)
    images[0].save("0.png")
    labels = ["none", "null", "n/a", None]
    lines = [json.dumps({"image": "0.png", "en": label}) for label in labels]
    if not name.endswith(".jsonl"):
        cells = [("image", "en"), *(("0.png", label or "") for label in labels)]
        lines = [("," if name.endswith(".csv") else "\t").join(line) for line in cells]
    Path(name).write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"data: 'titles.* is a table, which only training/finetune\.py reads"
    ) as error:
        load_source(name)
    eval(re.search(r"datasets\..*\)", str(error.value)).group(), {"datasets": datasets, "COLUMN_OF_PATHS": "image"})
    Path("0.png").unlink()
    rows = load_source("rows.parquet")
    assert open_image(image_cell(rows[0]["image"])).size == images[0].size and rows["en"][:] == labels


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_parquet_file_is_named_with_its_remedy(tmp_path, damage, tokenizer):
    rows = Dataset.from_dict({"en": [f"frog {number}" for number in range(500)]})
    for name in ("a.parquet", "b.parquet"):
        rows.to_parquet(tmp_path / name)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    if damage == "flipped":
        content[8:40] = bytes(32)
    (tmp_path / "a.parquet").write_bytes(content[: {"empty": 0, "cut": -50}.get(damage)])
    source = str(tmp_path / "*.parquet")
    config = DataConfig(train=source, caption_columns={"en": "en"}, streaming=True)
    for read in (load_source, lambda _: PairStream(config, CaptionTokenizer(tokenizer, 32), None)):
        with pytest.raises(ValueError, match=r"^data: .*parquet.* (Write|write) or download"):
            read(source)


def test_files_with_different_columns_are_named(tmp_path, capfd):
    Dataset.from_dict({"en": ["a"]}).to_parquet(tmp_path / "a.parquet")
    Dataset.from_dict({"en": ["b"], "zh": ["乙"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError) as error:
        load_source(str(tmp_path / "*.parquet"))
    for part in ("different columns", "a.parquet' has en (string), and", "b.parquet' has en (string), zh (string)"):
        assert part in str(error.value)
    assert "\n" not in str(error.value) and "Failed to read" not in "".join(capfd.readouterr())


def test_the_digest_of_a_source_follows_its_files(tmp_path):
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(b"x")
    pattern = str(tmp_path / "{0..1}.tar")
    before = digest_sources([pattern]), digest_sources([pattern], with_states=False)
    assert digest_sources([str(tmp_path / "*.tar")]) == before[0] != digest_sources([str(tmp_path / "0.tar")])
    (tmp_path / "1.tar").write_bytes(b"longer")
    assert digest_sources([pattern]) != before[0] and digest_sources([pattern], with_states=False) == before[1]
    assert digest_sources(["some/id"]) == digest_sources([])
