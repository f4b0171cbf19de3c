"""From data as users have them to two splits of usable pairs."""

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from tests.training.finetuning.newcomer import distinct_rows, write_csv, write_images
from training.data import load_source
from training.finetuning.finetune_options import FinetuneOptions
from training.finetuning.splits import (
    Prepared,
    find_columns,
    prepare,
    split_images,
    validation_size,
)


@pytest.fixture(scope="module")
def rows(train_rows):
    return distinct_rows(train_rows, 24)


@pytest.fixture
def titles(tmp_path, rows):
    """Images in the folder `images`, named as in a CSV file in `tmp_path`."""
    return write_images(tmp_path, rows, "images/{}.png".format)


def run(tmp_path, data, **options):
    fields = {"model": "", "data": str(data), "output_dir": str(tmp_path / "mine")}
    options = FinetuneOptions(**fields, **options)
    return prepare(options, tmp_path / "prepared", lambda rows: np.eye(len(rows)))


def pairs_of(prepared):
    """Chinese captions of all images by file name."""
    found = {}
    for path in (prepared.training, prepared.validation):
        table = load_source(str(path)).to_pandas()
        for cell, texts in zip(table["image"], table["zh"], strict=True):
            found[Path(cell["path"]).name] = list(texts)
    return found


def expected(titles):
    return {Path(path).name: [title] for path, title in titles}


def test_every_title_is_with_its_image_and_the_summary_is_read_again(tmp_path, titles):
    prepared = run(tmp_path, write_csv(tmp_path / "titles.csv", titles))
    assert pairs_of(prepared) == expected(titles)
    found = "24 rows of CSV file, image column: image, zh captions: zh"
    assert prepared == Prepared(tmp_path / "prepared", ["zh"], 20, 4, False, found, [])
    assert Prepared.load(prepared.folder) == prepared
    (prepared.folder / "summary.json").write_text('{"languages": ["en"]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"^resume: "):
        Prepared.load(prepared.folder)


def test_rows_that_cannot_be_used_are_left_out_counted_and_listed(tmp_path, titles):
    """A damaged image, one without a title, a second title, and two missing images."""
    (tmp_path / titles[0][0]).write_bytes(b"no image")
    rows = [
        titles[0],
        (titles[1][0], ""),
        *titles[2:],
        (titles[2][0], "另一个标题"),
        ("https://x.org/a.png", "x"),
        ("gone.png", "y"),
    ]
    prepared = run(tmp_path, write_csv(tmp_path / "titles.csv", rows))
    merged = "a copy of an earlier image, which has its captions"
    for cause in ("image does not decode", "no caption", "image file is missing", merged):
        assert f"1 rows left out, {cause}." in prepared.notes
    assert pairs_of(prepared)["2.png"] == [titles[2][1], "另一个标题"]
    listed = (tmp_path / "mine" / "skipped.csv").read_text(encoding="utf-8").splitlines()
    assert listed[:2] == ["row,image,cause", f"0,{tmp_path}/images/0.png,image does not decode"]
    assert len(listed) == 6


def test_columns_and_encoding_are_named(tmp_path, titles):
    path = write_csv(tmp_path / "a.csv", titles, ("路径", "标题"), encoding="gb18030")
    columns = {"image_column": "路径", "caption_columns": {"zh": "标题"}}
    assert pairs_of(run(tmp_path, path, encoding="gb18030", **columns)) == expected(titles)


def test_data_without_a_usable_row_are_refused_with_the_cause(tmp_path):
    path = write_csv(tmp_path / "gone.csv", [("/home/other/x.png", "猫"), ("y.png", "狗")])
    message = r"data: 0 usable images .* 2 rows left out, image file is"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, path)
    assert "/home/other/x.png" in (tmp_path / "mine" / "skipped.csv").read_text(encoding="utf-8")


def test_images_outside_the_folder_of_the_data_are_left_out_unless_allowed(tmp_path, titles, rows):
    outside = tmp_path / "elsewhere.png"
    rows[0]["image"].transpose(Image.Transpose.ROTATE_180).save(outside)
    (tmp_path / "data").mkdir()
    (tmp_path / "images").rename(tmp_path / "data" / "images")
    path = write_csv(tmp_path / "data" / "titles.csv", [*titles, (str(outside), "别处")])
    prepared = run(tmp_path, path)
    assert "image is a path outside the data, and allow_paths is off" in prepared.notes[0]
    assert "elsewhere.png" not in pairs_of(prepared)
    assert "elsewhere.png" in pairs_of(run(tmp_path, path, allow_paths=True))


def test_images_without_captions_are_refused(tmp_path, rows):
    write_images(tmp_path / "cats", rows, "cats/{}.png".format)
    write_images(tmp_path / "cats", rows.select([0]))
    with pytest.raises(ValueError, match=r"^data: which columns .* without images beside them"):
        run(tmp_path, tmp_path / "cats")


@pytest.mark.parametrize(
    ("others", "note"),
    [
        ([], "The only zh text, '青蛙', is left out"),
        ([("gone.png", "狗")], "1 rows left out, image file is"),
    ],
)
def test_images_of_one_class_are_refused(tmp_path, titles, others, note):
    same = [(path, "青蛙") for path, _ in titles]
    path = write_csv(tmp_path / "same.csv", [*same, *others])
    with pytest.raises(ValueError, match=f"nothing to tell apart.* {note}"):
        run(tmp_path, path)


def test_a_language_with_one_text_is_left_out_with_the_images_that_have_no_other(tmp_path, titles):
    lines = [(path, "", title) for path, title in titles]
    lines[3] = (lines[3][0], "OK", "")
    lines[5] = (lines[5][0], "OK", titles[5][1])
    data = write_csv(tmp_path / "titles.csv", lines, ("image", "en", "zh"))
    prepared = run(tmp_path, data)
    assert prepared.languages == ["zh"]
    assert pairs_of(prepared) == expected(titles[:3] + titles[4:])
    assert prepared.notes[0] == "The only en text, 'OK', is left out."
    assert prepared.notes[1] == "1 rows left out, no caption."
    assert "3.png,no caption" in (tmp_path / "mine" / "skipped.csv").read_text(encoding="utf-8")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_images_in_parquet_files_are_copied(tmp_path, rows):
    rows.to_parquet(tmp_path / "a.parquet")
    prepared = run(tmp_path, tmp_path / "a.parquet")
    (tmp_path / "a.parquet").unlink()
    assert prepared.languages == ["en", "zh"]
    assert load_source(str(prepared.training))[0]["image"].size == (64, 64)


def unlike(number):
    """Unit vectors of images that do not resemble each other."""
    return unit(np.random.default_rng(1).standard_normal((number, 256)).astype(np.float32))


@pytest.mark.parametrize(
    ("number", "share", "expected"),
    [(20, None, 4), (100, None, 15), (8000, None, 1000), (8000, 0.2, 1600)],
)
def test_the_validation_split_has_its_size_and_the_default_a_maximum(number, share, expected):
    assert validation_size(number, share) == expected


@pytest.mark.parametrize(("number", "share"), [(15, None), (24, 0.05), (24, 0.9)])
def test_splits_that_are_too_small_are_refused(number, share):
    with pytest.raises(ValueError, match=rf"data: {number} usable images .*--validation_share"):
        validation_size(number, share)


def test_the_seed_chooses_the_images_of_the_split():
    def validation(seed):
        return split_images(unlike(100), 15, seed)[1].tolist()

    first = validation(1)
    assert len(first) == 15
    assert validation(1) == first
    assert validation(2) != first


def test_a_chain_of_near_duplicates_is_on_one_side():
    """Of three images each has a cosine above 0.9 with the next; their rows are in different chunks."""
    vectors = unlike(600)
    chain = []
    for angle in np.deg2rad([0, 20, 40]):
        chain.append(unit(np.cos(angle) * vectors[:300] + np.sin(angle) * vectors[300:]))
    training, validation = split_images(np.concatenate(chain), 135)
    assert sorted([*training, *validation]) == list(range(900))
    assert 120 < len(validation) <= 135
    assert set((validation + 300) % 900) == set(validation)


def test_a_model_that_takes_all_images_for_the_same_groups_none():
    assert len(split_images(np.ones((60, 4), np.float32) / 2, 9)[1]) == 9


FILES = [f"{number}.jpg" for number in range(4)]
CHINESE = ["红色连衣裙", "Nike 跑步鞋", "羊毛围巾", "皮带"]
ENGLISH = ["a red dress", "running shoes", "a scarf", "a belt"]


def table_of(**columns):
    return Dataset.from_dict({"image": FILES} | columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"en": ENGLISH, "zh": CHINESE, "label": ENGLISH}, {"en": "en", "zh": "zh"}),
        ({"caption": CHINESE}, {"zh": "caption"}),
        ({"caption": CHINESE[:2] + ENGLISH[:2]}, {"en": "caption", "zh": "caption"}),
        ({"caption": [*CHINESE * 10, "a belt"]}, {"zh": "caption"}),  # too few
        # one name alone is no language
        ({"label": ["苹果", "香蕉", "other"]}, {"zh": "label"}),
        ({"label": ["OK", "不良"]}, {"zh": "label"}),
        ({"label": ["猫", "狗", "cat", "dog"]}, {"en": "label", "zh": "label"}),
    ],
)
def test_captions_are_in_the_columns_en_and_zh_or_in_one_column(columns, expected):
    number = len(next(iter(columns.values())))
    found = find_columns(Dataset.from_dict({"image": ["a.jpg"] * number} | columns))
    assert (found.image, found.captions) == ("image", expected)
    assert found.are_labels == ("label" in expected.values())


def test_class_numbers_with_names_and_class_folders_are_labels():
    features = Features({"image": Value("string"), "label": ClassLabel(names=["cat", "ice_dog"])})
    numbers = Dataset.from_dict({"image": FILES, "label": [0, 1, 1, -1]}, features)
    for table in (numbers, table_of(label=["cat", "ice_dog", "ice_dog", None])):
        found = find_columns(table)
        assert found.describe() == "image column: image, en class names: label"
        assert found.captions_of(table) == {"en": [["cat"], ["ice dog"], ["ice dog"], []]}


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (["zh"], {"zh": [["红色连衣裙", "a red dress"], ["DVD"], [], []]}),
        (
            ["zh", "en"],
            {"zh": [["红色连衣裙"], [], [], []], "en": [["a red dress"], ["DVD"], [], []]},
        ),
    ],
)
def test_a_column_is_divided_by_script_if_it_has_two_languages(languages, expected):
    table = table_of(x=[["红色连衣裙", "a red dress", "红色连衣裙"], ["DVD"], [], None])
    found = find_columns(table, caption_columns=dict.fromkeys(languages, "x"))
    assert found.captions_of(table) == expected


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"title": ENGLISH}, {}, "data: which columns of image, title"),
        ({"caption": ["красный"] * 4}, {}, "data: which columns"),
        ({"zh": CHINESE}, {"image_column": "file"}, "data: which columns of image, zh"),
        ({"x": ENGLISH}, {"caption_columns": {"fr": "x"}}, "caption_columns: .*fr"),
    ],
)
def test_missing_columns_are_named(columns, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        find_columns(table_of(**columns), **options)
