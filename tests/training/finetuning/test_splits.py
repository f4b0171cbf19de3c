"""From data as users have them to two splits of usable pairs."""

from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from tests.training.finetuning.newcomer import Row, distinct_rows, write_csv, write_images
from training.data import load_source
from training.data.batch import CaptionTokenizer
from training.finetuning.finetune_options import FinetuneOptions
from training.finetuning.splits import Prepared, prepare, prepare_general

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
    assert prepared.found == "24 rows of CSV file, image column: image, zh captions: zh"
    assert Prepared.load(prepared.folder) == prepared
    (prepared.folder / "summary.json").write_text('{"languages": ["en"]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"^resume: "):
        Prepared.load(prepared.folder)


def test_columns_and_encoding_are_named(tmp_path, titles):
    path = write_csv(tmp_path / "a.csv", titles, ("路径", "标题"), encoding="gb18030")
    columns = {"image_column": "路径", "caption_columns": {"zh": "标题"}}
    assert pairs_of(run(tmp_path, path, encoding="gb18030", **columns)) == expected(titles)


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
        f"image does not decode: {tmp_path}/images/0.png",
        f"no caption: {tmp_path}/images/1.png",
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


def test_images_in_parquet_files_are_copied(tmp_path, rows):
    rows.to_parquet(tmp_path / "a.parquet")
    prepared = run(tmp_path, tmp_path / "a.parquet")
    (tmp_path / "a.parquet").unlink()
    assert prepared.languages == ["en", "zh"]
    assert load_source(str(prepared.training))[0]["image"].size == (64, 64)


def general_of(tmp_path: Path, data: Path | str | None, **options) -> Prepared | None:
    general = None if data is None else str(data)
    # the options of the user's own data do not apply to general images
    own = {
        "caption_columns": {"zh": "title"},
        "image_column": "photo",
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
    assert (
        prepared.found == "24 rows of images, image column: image, no captions"
        and prepared.languages == []
    )
    assert (prepared.num_training, prepared.num_validation) == (len(rows), 0)
    assert prepared == Prepared.load(tmp_path / "data" / "general")


def test_general_images_with_captions_have_a_validation_split(tmp_path, titles):
    some = [(path, title if number % 2 else "") for number, (path, title) in enumerate(titles)]
    prepared = general_of(tmp_path, write_csv(tmp_path / "titles.csv", some))
    assert prepared.languages == ["zh"] and 0 < prepared.num_validation <= 4
    assert prepared.num_training + prepared.num_validation == len(titles)
    assert all(load_source(str(prepared.validation))["zh"])
    same = write_csv(tmp_path / "same.csv", [(path, "照片") for path, _ in titles])
    assert general_of(tmp_path, same).num_validation == 0  # there is nothing to tell apart


def test_data_without_captions_or_with_one_class_are_refused(tmp_path, rows, titles):
    write_images(tmp_path / "beside", rows, lambda number: f"{'cats/' * (number > 0)}{number}.png")
    with pytest.raises(ValueError, match=r"^data: which column .* without images beside them"):
        run(tmp_path, tmp_path / "beside")
    same = [(path, "青蛙") for path, _ in titles]
    with pytest.raises(ValueError, match=r"there is one class only, '青蛙' \(zh\)"):
        run(tmp_path, write_csv(tmp_path / "labels.csv", same, ("image", "label")))


def test_one_caption_of_a_language_is_refused_with_the_way_to_leave_it_out(tmp_path, titles):
    data = write_csv(
        tmp_path / "two.csv", [(*row, "a photo") for row in titles], ("image", "zh", "en")
    )
    with pytest.raises(
        ValueError,
        match=r"'a photo' \(en\).* name the other columns alone with --caption_columns\.",
    ):
        run(tmp_path, data)
    assert run(tmp_path, data, caption_columns={"zh": "zh"}).languages == ["zh"]
