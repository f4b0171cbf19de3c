"""The rules of the one reader: folders, splits, classes, tables, files and functions."""

import os
import re
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Image

from tests.training.data.shards import read_samples, write_shards
from training.data import load_source, reader
from training.data.reader import Reading, digest_sources, open_source, open_stream


@pytest.fixture
def make_images(tmp_path, images):
    """Function that writes small images of these names to a folder, and returns the folder."""

    def make(*names, folder="photos"):
        for number, name in enumerate(names):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            images[number].convert("RGB").save(path)
        return tmp_path / folder

    return make


def files_of(rows, folder):
    cells = rows.cast_column("image", Image(decode=False))["image"]
    return [Path(cell["path"]).relative_to(folder).as_posix() for cell in cells]


def labels_of(folder, **reading):
    return open_source(str(folder), Reading(**reading)).rows["label"][:]


def write_csv(folder, text, encoding="utf-8", name="titles.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return str(path)


# folders


def test_the_first_folder_is_the_class_of_an_image(make_images):
    folder = make_images("dog/1.png", "dog/more/2.JPG", "cat/3.avif")
    opened = open_source(str(folder))
    assert files_of(opened.rows, folder) == ["cat/3.avif", "dog/1.png", "dog/more/2.JPG"]
    assert opened.rows["label"][:] == ["cat", "dog", "dog"]
    assert opened.form == "class folders"
    make_images("beside.png")
    assert load_source(str(folder)).column_names == ["image"]


@pytest.mark.parametrize("classes", [("bullet_train", "test_tube"), ("train", "boat")])
def test_a_class_folder_whose_name_contains_a_split_is_a_class(make_images, classes):
    folder = make_images(*(f"{name}/1.png" for name in classes))
    assert labels_of(folder) == sorted(classes)


def test_folders_named_after_splits_are_splits(make_images):
    names = ("训练集/dog/1.png", "训练集/cat/2.png", "测试集/dog/3.png", "docs/a/4.png")
    folder = make_images(*names)
    assert labels_of(folder) == ["cat", "dog"]
    assert labels_of(folder, usual_split="test") == ["dog"]
    assert open_source(str(folder), Reading(split="test")).split == "测试集"


@pytest.mark.parametrize(
    ("names", "reading", "message"),
    [
        (("train/1.png", "val/2.png"), {"split": "test"}, r"split 'test', only train, val\. Name"),
        (("train/1.png", "val/2.png"), {"usual_split": "test"}, "split 'test', only train, val"),
        (("dog/1.png",), {"split": "val"}, "photos' has no splits, got split 'val'"),
        (("readme.md",), {}, "has neither images nor a table"),
        (("1.png", "a.csv", "b.tsv"), {}, r"has several tables: a\.csv, b\.tsv"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(tmp_path, names, reading, message):
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(ValueError, match=f"^photos: .*{message}"):
        open_source(str(tmp_path / "photos"), Reading(field="photos", **reading))


def test_hidden_files_system_folders_and_outputs_are_passed_over(make_images):
    hidden = ("dog/.ipynb_checkpoints/1.png", "@eaDir/1.png", ".thumbs/1.png", "dog/._1.png")
    folder = make_images("dog/1.png", "cat/2.png", *hidden, "out/plot.png")
    (folder / "out" / ".dcclip").mkdir()
    assert files_of(load_source(str(folder)), folder) == ["cat/2.png", "dog/1.png"]


def test_links_are_followed_and_loops_end(make_images, tmp_path):
    make_images("1.png", folder="elsewhere")
    folder = make_images("cat/2.png")
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "loop").symlink_to(folder)
    assert labels_of(folder) == ["cat", "dog"]


def test_a_text_file_of_the_same_name_is_the_caption(make_images):
    folder = make_images("1.png", "2.png", "3.png")
    for number, text in ((1, "红苹果\n"), (2, "a green\n frog")):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8-sig")
    opened = open_source(str(folder))
    assert opened.rows["caption"][:] == ["红苹果", "a green frog", None]


def test_a_single_table_of_a_folder_names_its_images(make_images):
    folder = make_images("images/1.png", "images/2.png")
    write_csv(folder, "file_name,zh\nimages/2.png,青蛙\n")
    write_csv(folder, "\0", name="._titles.csv")
    rows = load_source(str(folder))
    assert files_of(rows, folder) == ["images/2.png"]
    assert rows["zh"][:] == ["青蛙"]


def test_parquet_files_of_a_folder_are_read_by_their_splits(tmp_path):
    for name in ("train", "test"):
        Dataset.from_dict({"en": [name]}).to_parquet(tmp_path / f"{name}.parquet")
    assert load_source(str(tmp_path))["en"][:] == ["train"]
    assert load_source(str(tmp_path), "test")["en"][:] == ["test"]


def test_parquet_files_next_to_an_output_folder_are_refused(tmp_path):
    Dataset.from_dict({"en": ["a"]}).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "out" / ".dcclip").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds '.*out', which a command of this project wrote"):
        load_source(str(tmp_path))


def test_file_names_of_a_chinese_zip_file_are_named_with_the_remedy(make_images):
    folder = make_images("a/1.png", os.fsdecode("a/狗.png".encode("gbk")))
    with pytest.raises(ValueError, match=r"name of '.*\\xb9\\xb7\.png' is not UTF-8.* convmv"):
        load_source(str(folder))


# tables


def test_the_paths_of_a_table_start_from_its_folder(make_images):
    folder = make_images("images/1.png", "images/2.png", "images/3.png", "images/4.png")
    paths = ["images/1.png", "images\\2.png", str(folder / "images/3.png"), "x.png"]
    paths.append((folder / "images/4.png").as_uri())
    table = write_csv(folder, "photo,en\n" + "\n".join(f"{path},frog" for path in paths))
    rows = load_source(table, image_column="photo").rename_column("photo", "image")
    expected = ["images/1.png", "images/2.png", "images/3.png", "x.png", "images/4.png"]
    assert files_of(rows, folder) == expected


def test_the_encoding_of_a_table_is_named(tmp_path):
    table = write_csv(tmp_path, "image,zh\n1.jpg,一隻小狗\n", "gb18030")
    assert open_source(table, Reading(encoding="gb18030")).rows["zh"][:] == ["一隻小狗"]
    with pytest.raises(ValueError, match=r"titles\.csv' cannot be read as utf-8 .*gb18030"):
        open_source(table)


@pytest.mark.parametrize(
    ("name", "text", "captions"),
    [
        (
            "a.csv",
            '\ufeffimage,en\n1.jpg,"a dog\nthat runs"\n\n2.jpg,\n3.jpg\n,\n',
            ["a dog\nthat runs", None, None],
        ),
        ("a.tsv", "image\ten\n1.jpg\ta dog, running\n", ["a dog, running"]),
        ("a.jsonl", '{"en": ["dog", "hound"]}\n\n{"image": "2.jpg"}', [["dog", "hound"], None]),
        ("a.ndjson", '{"en": "a\u2028b"}', ["a\u2028b"]),
    ],
)
def test_cells_of_a_table_may_have_several_lines_or_be_missing(tmp_path, name, text, captions):
    assert load_source(write_csv(tmp_path, text, name=name))["en"][:] == captions


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", 'image,en\n1.jpg,"a dog\n2.jpg,frog\n', "quotation marks"),
        ("a.csv", "image,en\n1.jpg,a red, round apple\n", "'1.jpg' has more cells than the header"),
        ("a.csv", "image,en\n1.jpg,a\n2.jpg,a red, round apple\n", "line 3"),
        ("a.csv", "", "cannot be read"),
        ("a.jsonl", '{"image": "1.jpg"}\n{"image"\n', "cannot be read"),
        ("a.jsonl", '{"image": "1.jpg", "en": "a"}\n{"image": "2.jpg", "en": ["b"]}', "types"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=rf"(?s)^data: .*{message}"):
        load_source(write_csv(tmp_path, text, name=name))


# files, functions and the Hub


@pytest.mark.parametrize("load", [load_source, open_stream])
def test_a_function_that_returns_no_data_set_is_refused(load):
    with pytest.raises(ValueError, match=r"data: 'tests.tiny:list_tiny_rows' is a list, not a "):
        load("tests.tiny:list_tiny_rows")


def test_a_function_of_the_working_directory_is_a_source(tmp_path, monkeypatch):
    code = (
        "import datasets\n\n\ndef load():\n    return datasets.Dataset.from_dict({'en': ['a']})\n"
    )
    (tmp_path / "my_own_source.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert load_source("my_own_source:load")["en"] == ["a"]


def test_a_source_without_rows_is_refused(monkeypatch):
    monkeypatch.setattr("tests.tiny.list_tiny_rows", lambda: Dataset.from_dict({}))
    with pytest.raises(ValueError, match=r"^data: 'tests.tiny:list_tiny_rows' has no rows"):
        load_source("tests.tiny:list_tiny_rows")


@pytest.mark.parametrize(("kind", "value"), [("split", "val"), ("subset", "fine")])
def test_parquet_files_have_neither_split_nor_subset(kind, value):
    with pytest.raises(
        ValueError, match=f"^data: 'x.parquet' has no {kind}s, got {kind} {value!r}"
    ):
        load_source("x.parquet", **{kind: value})


@pytest.mark.parametrize(
    "source",
    [
        "nowhere.parquet",
        "no.such.module:function",
        "~no_such_user/x.parquet",
        "a b",
        "",
        [],
        ["a.parquet", "b.tar"],
    ],
)
def test_a_source_that_is_missing_or_mixed_is_refused_by_its_name(source):
    with pytest.raises(ValueError, match=rf"^data: cannot load {re.escape(repr(source))}"):
        load_source(source)


def test_a_damaged_parquet_file_is_named_with_its_remedy(tmp_path):
    rows = Dataset.from_dict({"en": [f"frog {number}" for number in range(500)]})
    rows.to_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-50])
    with pytest.raises(ValueError, match=r"^data: .*a\.parquet.* Write or download"):
        load_source(str(tmp_path / "*.parquet"))


def test_a_file_that_was_replaced_with_its_old_time_is_read_anew(tmp_path):
    path = tmp_path / "a.parquet"
    for caption in ("frog", "newt"):
        Dataset.from_dict({"en": [caption]}).to_parquet(tmp_path / "new.parquet")
        os.utime(tmp_path / "new.parquet", (1e9, 1e9))
        (tmp_path / "new.parquet").replace(path)
        assert load_source(str(path))["en"][0] == caption


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.tar"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^data: .*{name}' is a pipe or a device"):
        load_source(str(tmp_path / name))


def test_the_digest_of_a_source_follows_its_files(tmp_path):
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(b"x")
    pattern = str(tmp_path / "{0..1}.tar")
    before = digest_sources(pattern)
    paths = digest_sources(pattern, with_states=False)
    assert digest_sources(str(tmp_path / "*.tar")) == before
    (tmp_path / "1.tar").write_bytes(b"longer")
    assert digest_sources(pattern) != before
    assert digest_sources(pattern, with_states=False) == paths


def test_the_digest_of_a_table_follows_the_images_beside_it(make_images, tmp_path):
    table = write_csv(tmp_path / "photos", "image,en\na.png,frog\n")
    before = digest_sources(table)
    (tmp_path / "photos/run.log").write_text("a log of a run that reads it")
    assert digest_sources(table) == before
    make_images("b.png")
    with_image = digest_sources(table)
    (tmp_path / "photos/c").write_bytes(b"an image without a suffix")
    assert len({before, with_image, digest_sources(table)}) == 3


def test_shards_of_the_hub_are_downloaded_for_one_split(tmp_path, train_rows, monkeypatch):
    snapshot = tmp_path / "0123"
    write_shards(snapshot / "test", read_samples(train_rows, 4), 2)
    (snapshot / "classnames.txt").write_text("frog\n\n owl \n", encoding="utf-8")
    asked = []

    def download(repository, **options):
        asked.append((repository, options))
        return str(snapshot)

    monkeypatch.setattr(reader, "snapshot_download", download)
    opened = open_source("someone/wds_frogs@main", Reading(split="test"))
    assert len(opened.rows) == 4 and opened.class_names == ["frog", "owl"]
    assert (opened.split, opened.revision) == ("test", "0123")
    options = {"repo_type": "dataset", "revision": "main"}
    options["allow_patterns"] = ["test/*.tar", "classnames.txt"]
    assert asked == [("someone/wds_frogs", options)]
