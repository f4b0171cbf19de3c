"""From data as users have them to two splits of usable pairs."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from tests.training.data.shards import read_samples, write_shards
from tests.training.finetuning.newcomer import Row, distinct_rows, write_csv, write_images
from training.data import load_source
from training.data.batch import CaptionTokenizer
from training.finetuning.options import FinetuneOptions
from training.finetuning.prepare import Prepared, prepare, prepare_general
from training.finetuning.sources import open_data
from training.utils.output import claim_folder

NUM_IMAGES = 24


@pytest.fixture(scope="module")
def rows(train_rows) -> Dataset:
    return distinct_rows(train_rows, NUM_IMAGES)


@pytest.fixture
def titles(tmp_path, rows) -> list[Row]:
    """Images in the folder `images`, named as in a CSV file in `tmp_path`."""
    return write_images(tmp_path, rows, "images/{}.png".format)


def run(tmp_path: Path, data: Path | str, **options) -> Prepared:
    options = FinetuneOptions(
        model="", data=str(data), output_dir=str(tmp_path / "mine"), **options
    )
    return prepare(options, tmp_path / "prepared")


def pairs_of(prepared: Prepared) -> list[tuple[str, list[str]]]:
    """File name and Chinese captions of all images."""
    found = []
    for path in (prepared.training, prepared.validation):
        table = load_source(str(path)).to_pandas()
        found += [
            (Path(cell["path"]).name, list(zh))
            for cell, zh in zip(table["image"], table["zh"], strict=True)
        ]
    return sorted(found)


def expected(titles: list[Row]) -> list[tuple[str, list[str]]]:
    return sorted((Path(path).name, [title]) for path, title in titles)


def test_every_title_is_with_its_image(tmp_path, titles):
    prepared = run(tmp_path, write_csv(tmp_path / "titles.csv", titles))
    assert pairs_of(prepared) == expected(titles)
    assert (prepared.languages, prepared.num_training, prepared.num_validation) == (["zh"], 20, 4)
    assert prepared.found == "CSV file in UTF-8, image column: file, zh captions: title"
    assert Prepared.load(prepared.folder) == prepared
    (prepared.folder / "summary.json").write_text('{"languages": ["en"]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"^resume: "):
        Prepared.load(prepared.folder)


@pytest.mark.parametrize("form", ["absolute", "backslashes", "folder"])
def test_images_are_found_however_they_are_named(tmp_path, titles, form):
    written = {
        "absolute": [(str(tmp_path / path), title) for path, title in titles],
        "backslashes": [(path.replace("/", "\\"), title) for path, title in titles],
        "folder": titles,
    }[form]
    path = write_csv(tmp_path / "titles.csv", written)
    assert pairs_of(run(tmp_path, tmp_path if form == "folder" else path)) == expected(titles)


def test_rows_without_an_image_are_listed(tmp_path, titles):
    changed = [("/home/other/" + titles[0][0], titles[0][1]), *titles[1:]]
    prepared = run(tmp_path, write_csv(tmp_path / "titles.csv", changed))
    assert prepared.notes[0] == "1 rows left out, image file is missing: /home/other/images/0.png."
    listed = (prepared.folder / "skipped.csv").read_text(encoding="utf-8").splitlines()
    assert listed == ["row,image,cause", "0,/home/other/images/0.png,image file is missing"]
    with pytest.raises(ValueError, match="Write the paths relative to the folder of the file"):
        run(
            tmp_path,
            write_csv(
                tmp_path / "gone.csv", [("/home/other/x.png", "猫"), ("/home/other/y.png", "狗")]
            ),
        )
    assert "/home/other/y.png" in (tmp_path / "mine" / "skipped.csv").read_text(encoding="utf-8")


def test_damaged_images_empty_titles_and_copies_are_counted(tmp_path, titles):
    (tmp_path / titles[0][0]).write_bytes(b"no image")
    changed = [
        titles[0],
        (titles[1][0], ""),
        *titles[2:],
        (titles[2][0], "另一个标题"),
        ("https://x.org/a.png", "x"),
    ]
    prepared = run(tmp_path, write_csv(tmp_path / "titles.csv", changed))
    assert dict(pairs_of(prepared))["2.png"] == [titles[2][1], "另一个标题"]
    notes = "\n".join(prepared.notes)
    for note in (
        "image does not decode: images/0.png",
        "no caption: images/1.png",
        "URL, and must be downloaded first: https://x.org/a.png",
    ):
        assert f"1 rows left out, {note}." in notes.replace("image is a URL", "URL")
    assert "1 rows with a copy of an earlier image were merged with it." in notes


def test_captions_that_the_model_truncates_are_counted(tmp_path, titles, processor):
    long = [(titles[0][0], "青蛙" * 100), *titles[1:]]
    path, options = (
        write_csv(tmp_path / "titles.csv", long),
        FinetuneOptions(model="", data="", output_dir=""),
    )
    tokens = CaptionTokenizer(processor.tokenizer, 32)
    prepared = prepare(replace(options, data=str(path)), tmp_path / "prepared", tokens=tokens)
    assert prepared.notes == [
        f"1 of {len(set(dict(long).values()))} captions are longer than 32 tokens, and cut there."
    ]


def test_what_macos_leaves_is_passed_over_and_its_accents_are_found(tmp_path, titles):
    (tmp_path / "images" / "0.png").rename(
        tmp_path / "images" / unicodedata.normalize("NFD", "café.png")
    )
    compatible = "images/\ufa19社.png"  # a name that NFC and NFD change
    (tmp_path / titles[1][0]).rename(tmp_path / compatible)
    write_csv(
        tmp_path / "titles.csv",
        [("images/café.png", titles[0][1]), (compatible, titles[1][1]), *titles[2:]],
    )
    (tmp_path / "._titles.csv").write_bytes(b"\0\5\x16\7")
    prepared = run(tmp_path, tmp_path)
    assert prepared.num_training + prepared.num_validation == NUM_IMAGES and not prepared.notes


def test_images_outside_the_folder_of_the_data_are_left_out_unless_allowed(tmp_path, titles, rows):
    outside = tmp_path / "elsewhere.png"
    rows[0]["image"].transpose(Image.Transpose.ROTATE_180).save(outside)
    named = [*titles, (str(outside), "别处"), (outside.as_uri(), "别处")]
    (tmp_path / "data").mkdir()
    (tmp_path / "images").rename(tmp_path / "data" / "images")
    path = write_csv(tmp_path / "data" / "titles.csv", named)
    prepared = run(tmp_path, path)
    refused = "2 rows left out, image is a path outside the data, and allow_paths is off: "
    assert any(note.startswith(refused) for note in prepared.notes) and "elsewhere.png" not in dict(
        pairs_of(prepared)
    )
    assert "elsewhere.png" in dict(pairs_of(run(tmp_path, path, allow_paths=True)))


def test_folders_of_images(tmp_path, rows):
    write_images(
        tmp_path / "classes", rows, lambda number: f"{['cats', 'dogs'][number % 2]}/{number}.png"
    )
    prepared = run(tmp_path, tmp_path / "classes")
    assert (
        prepared.are_labels
        and prepared.found == "class folders, image column: file, en class names: label"
    )
    titles = write_images(tmp_path / "texts", rows)
    for path, title in titles:
        (tmp_path / "texts" / path).with_suffix(".txt").write_text(
            f"{title}\n", encoding="utf-8-sig"
        )
    prepared = run(tmp_path, tmp_path / "texts")
    assert prepared.found.startswith("images with text files") and pairs_of(prepared) == expected(
        titles
    )
    (tmp_path / "texts" / "0.txt").write_text("狗", encoding="gbk")
    with pytest.raises(ValueError, match=r"^data: .*0\.txt"):
        run(tmp_path, tmp_path / "texts")


@pytest.mark.parametrize(
    ("train", "test"), [("train", "val"), ("训练集", "测试集"), ("Training", "Test")]
)
def test_folders_of_splits_are_not_classes(tmp_path, train, test):
    for name in (f"{train}/狗", f"{train}/猫", f"{test}/狗"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").touch()
    with pytest.raises(ValueError, match=rf"^data: the folders of .* {test}"):
        open_data(str(tmp_path))
    assert open_data(str(tmp_path / train)).rows["label"] == ["狗", "猫"]


def test_parquet_files_and_tar_shards_keep_their_images(tmp_path, rows):
    rows.to_parquet(tmp_path / "a.parquet")
    write_shards(tmp_path, read_samples(rows, len(rows)), 2)
    for data in (tmp_path / "a.parquet", tmp_path / "*.tar"):
        prepared = run(tmp_path, data)
        assert prepared.languages == ["en", "zh"]
        both = [load_source(str(path)) for path in (prepared.training, prepared.validation)]
        assert sorted(text for table in both for texts in table["zh"] for text in texts) == sorted(
            rows["zh"]
        )
        assert both[0][0]["image"].size == (64, 64)


def test_the_output_of_an_earlier_run_is_no_data(tmp_path, rows):
    """An output folder among the images has parquet files, plots and copies of its own."""
    write_images(
        tmp_path / "images", rows, lambda number: f"{['cats', 'dogs'][number % 2]}/{number}.png"
    )
    before = run(tmp_path, tmp_path / "images")
    output = tmp_path / "images" / "out"
    with claim_folder(output, ["data", "example.png"], command="finetune"):
        (output / "data").mkdir()
        rows.select(range(20)).to_parquet(output / "data" / "train.parquet")
        rows[0]["image"].transpose(Image.Transpose.ROTATE_180).save(output / "example.png")
    assert run(tmp_path, tmp_path / "images") == before
    assert (
        before.found == "class folders, image column: file, en class names: label"
        and not before.notes
    )
    (tmp_path / "parquet").mkdir()
    output.rename(tmp_path / "parquet" / "out")
    rows.to_parquet(tmp_path / "parquet" / "rows.parquet")
    with pytest.raises(ValueError, match=r"holds '.*out', which a command of this project wrote"):
        run(tmp_path, tmp_path / "parquet")


def general_of(tmp_path: Path, data: Path | str | None, **options) -> Prepared | None:
    general = None if data is None else str(data)
    # the options of the user's own data do not apply to general images
    own = {
        "caption_columns": {"zh": "title"},
        "image_column": "file",
        "validation_share": 0.5,
        "split": "own",
    }
    return prepare_general(
        FinetuneOptions(
            model="", data="", output_dir=str(tmp_path), general_data=general, **(own | options)
        ),
        tmp_path / "data",
    )


def test_general_images_need_no_captions(tmp_path, rows):
    assert general_of(tmp_path, None) is None
    write_images(tmp_path / "camera", rows, lambda number: f"IMG_{number:04}.png")
    prepared = general_of(tmp_path, tmp_path / "camera")
    assert prepared.found == "images, image column: file, no captions" and prepared.languages == []
    assert (prepared.num_training, prepared.num_validation) == (len(rows), 0)
    assert prepared == Prepared.load(tmp_path / "data" / "general")
    assert load_source(str(prepared.training)).column_names == ["image"]


def test_general_images_with_captions_have_a_validation_split(tmp_path, titles):
    some = [(path, title if number % 2 else "") for number, (path, title) in enumerate(titles)]
    prepared = general_of(tmp_path, write_csv(tmp_path / "titles.csv", some))
    assert prepared.languages == ["zh"] and 0 < prepared.num_validation <= 4
    assert prepared.num_training + prepared.num_validation == len(titles)
    assert all(load_source(str(prepared.validation))["zh"])
    same = write_csv(tmp_path / "same.csv", [(path, "照片") for path, _ in titles])
    assert general_of(tmp_path, same).num_validation == 0  # there is nothing to tell apart


def test_one_class_only_is_refused(tmp_path, rows, titles):
    with pytest.raises(ValueError, match="24 images of one class only, and no captions"):
        run(tmp_path, tmp_path / "images")
    write_images(
        tmp_path / "classes",
        rows,
        lambda number: f"{['cats/', 'dogs/', ''][min(number, 2)]}{number}.png",
    )
    with pytest.raises(
        ValueError, match=r"^data: '\d+.png' is beside the class folders of .* Move it into one"
    ):
        run(tmp_path, tmp_path / "classes")
    same = [(path, "青蛙") for path, _ in titles]
    with pytest.raises(ValueError, match=r"there is one class only, '青蛙' \(zh\)"):
        run(tmp_path, write_csv(tmp_path / "labels.csv", same, ("file", "label")))


def test_one_caption_of_a_language_is_refused_with_the_way_to_leave_it_out(tmp_path, titles):
    data = write_csv(
        tmp_path / "two.csv", [(*row, "a photo") for row in titles], ("file", "zh", "en")
    )
    with pytest.raises(
        ValueError,
        match=r"'a photo' \(en\).* name the other columns alone with --caption_columns\.",
    ):
        run(tmp_path, data)
    assert run(tmp_path, data, caption_columns={"zh": "zh"}).languages == ["zh"]
