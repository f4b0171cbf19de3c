import os
import sys

import pytest
from datasets import Dataset

from training.config import DataConfig
from training.data import CaptionTokenizer, PairStream, load_source
from training.data.sources import check_split, digest_sources, open_stream
from training.finetuning.sources import open_data


@pytest.mark.parametrize("load", [load_source, open_stream])
def test_a_function_that_returns_no_data_set_is_refused(load):
    with pytest.raises(
        ValueError, match=r"data: 'tests.tiny:list_tiny_rows' is a list, not a .* Return a datasets"
    ):
        load("tests.tiny:list_tiny_rows")


def test_a_function_of_the_working_directory_is_a_source(tmp_path, monkeypatch):
    code = (
        "import datasets\n\n\ndef load():\n    return datasets.Dataset.from_dict({'en': ['a']})\n"
    )
    code += "\n\ndef load_nothing():\n    return load().select([])\n"
    (tmp_path / "my_own_source.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert load_source("my_own_source:load")["en"] == ["a"]
    with pytest.raises(ValueError, match=r"^data: 'my_own_source:load_nothing' has no rows"):
        load_source("my_own_source:load_nothing")
    (tmp_path / "my-own.py").write_text(
        code, encoding="utf-8"
    )  # which a recipe could name without being asked about
    with pytest.raises(ValueError, match="cannot load 'my-own:load'"):
        load_source("my-own:load")


def test_parquet_files_have_no_subset(tmp_path):
    with pytest.raises(ValueError, match=r"^data.sources.subset: 'x.parquet' has none, got 'fine'"):
        check_split("x.parquet", "train", subset="fine")
    with pytest.raises(ValueError, match=r"^subset: .*x.parquet' has none"):
        open_data(str(tmp_path / "x.parquet"), subset="fine")


def test_image_folder_with_metadata_is_a_source(tmp_path, images):
    for number in range(3):
        images[number].save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name,en,zh\n0.png,a,甲\n1.png,b,乙\n2.png,c,丙\n", encoding="utf-8"
    )
    rows = load_source(str(tmp_path))
    assert sorted(rows["zh"]) == sorted("甲乙丙") and rows[0]["image"].size == images[0].size


def test_every_image_of_a_folder_is_loaded_whatever_its_name_and_format(tmp_path, images):
    for file in ("train.png", "beach.JPG", "c.avif", "test.png"):
        images[0].convert("RGB").save(tmp_path / file)
    for split in ("train", "test"):
        assert len(load_source(str(tmp_path), split)) == 4
    assert len([*open_stream(str(tmp_path))]) == 4
    for folder in ("cat", "train"):
        (tmp_path / "classes" / folder).mkdir(parents=True)
        images[0].save(tmp_path / "classes" / folder / "a.png")
    assert sorted(load_source(str(tmp_path / "classes"))["label"]) == [0, 1]
    with pytest.raises(ValueError, match=r"the folder has neither splits nor subsets, got 'tset'"):
        load_source(str(tmp_path / "classes"), "tset")
    (special := tmp_path / "a [1]*").mkdir()
    images[0].save(special / "a.png")
    assert len(load_source(str(special))) == len([*open_stream(str(special))]) == 1


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val", "docs"), ("data/train", "data/test"),
                                   ("train-2021", "test_x", "extra")])  # fmt: skip
def test_splits_of_a_folder_stay_apart(tmp_path, images, names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        images[0].save(tmp_path / name / "a.png")
    assert len(load_source(str(tmp_path))) == 1


def test_a_table_that_names_the_images_of_a_folder_is_read(tmp_path, images):
    (tmp_path / "images").mkdir()
    images[0].save(tmp_path / "images" / "a.png")
    for part in range(3):
        (tmp_path / f"part{part}.jsonl").write_text(
            '{"image": "images/a.png", "en": "a"}\n', encoding="utf-8"
        )
    assert load_source(str(tmp_path)).column_names == ["image", "en"]


def test_file_names_of_a_chinese_zip_file_are_named_with_the_remedy(tmp_path, images):
    images[0].save(tmp_path / "甲.png")
    for source in (str(tmp_path), [str(tmp_path)]):
        load_source(source)
    images[0].save(tmp_path / os.fsdecode("狗.png".encode("gbk")))
    for load, source in (
        (load_source, str(tmp_path)),
        (load_source, [str(tmp_path)]),
        (open_data, str(tmp_path)),
    ):
        with pytest.raises(
            ValueError,
            match=r"data: the name of '.*\\xb9\\xb7\.png' is not UTF-8.* convmv -r -f gbk",
        ):
            load(source)


@pytest.mark.parametrize(
    "source",
    [
        "nowhere.parquet",
        "no.such.module:function",
        "tests.tiny:no_function",
        "nobody/x",
        "~no_such_user/x.parquet",
    ],
)
def test_missing_source_raises_an_error_with_its_name(source):
    with pytest.raises(ValueError, match="cannot load") as error:
        load_source(source)
    assert source in str(error.value)


def test_a_table_is_refused(tmp_path):
    (tmp_path / "titles.csv").write_text("image,en\n0.png,frog\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^data: .*titles.csv' is a table"):
        load_source(str(tmp_path / "titles.csv"))


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_parquet_file_is_named_with_its_remedy(tmp_path, damage, tokenizer):
    rows = Dataset.from_dict({"en": [f"frog {number}" for number in range(500)]})
    for name in ("a.parquet", "b.parquet"):
        rows.to_parquet(tmp_path / name)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    if damage == "flipped":
        content[8:40] = bytes(32)
    (tmp_path / "a.parquet").write_bytes(content[: {"cut": -50}.get(damage)])
    source = str(tmp_path / "*.parquet")
    config = DataConfig(train=source, caption_columns={"en": "en"}, streaming=True)
    for read in (load_source, lambda _: PairStream(config, CaptionTokenizer(tokenizer, 32), None)):
        with pytest.raises(ValueError, match=r"^data: .*parquet.* (Write|write) or download"):
            read(source)


def test_the_digest_of_a_source_follows_its_files(tmp_path):
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(b"x")
    pattern = str(tmp_path / "{0..1}.tar")
    before = digest_sources([pattern]), digest_sources([pattern], with_states=False)
    assert (
        digest_sources([str(tmp_path / "*.tar")])
        == before[0]
        != digest_sources([str(tmp_path / "0.tar")])
    )
    (tmp_path / "1.tar").write_bytes(b"longer")
    assert (
        digest_sources([pattern]) != before[0]
        and digest_sources([pattern], with_states=False) == before[1]
    )
    assert digest_sources(["some/id"]) == digest_sources([])
