"""The curate command on emoji images with added faults."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from tests.training.data.rows import make_cell
from training.config import DataConfig
from training.data import PairDataset, load_source
from training.data.images import PATH_REFUSED, URL_REFUSED
from training.prepare.curation import caption_faults, curate, report_table, words_of
from training.prepare.curation_options import CurateOptions
from training.prepare.duplicates import perceptual_hash

pytestmark = pytest.mark.slow

OFF = {
    "min_edge": None,
    "max_aspect_ratio": None,
    "max_image_distance": 0,
    "max_caption_images": None,
}


@pytest.fixture(scope="module")
def distinct_images(train_rows) -> list[PILImage.Image]:
    """Images of which no two are near-duplicates."""
    kept: list[tuple[int, PILImage.Image]] = []
    for image in train_rows["image"]:
        image = image.convert("RGB")
        value = perceptual_hash(image)
        if all((value ^ other).bit_count() > 10 for other, _ in kept):
            kept.append((value, image))
    assert len(kept) >= 40
    return [image for _, image in kept]


def save_rows(path: Path, images: list, en: list, zh: list | None = None) -> str:
    text = List(Value("string")) if isinstance(en[0], list) else Value("string")
    cells = [
        image if image is None or isinstance(image, dict) else make_cell(image) for image in images
    ]
    columns = {"image": cells, "en": en, "zh": [None] * len(en) if zh is None else zh}
    features = Features({"image": Image(decode=False), "en": text, "zh": text})
    Dataset.from_dict(columns, features=features).cast_column("image", Image()).to_parquet(path)
    return str(path)


def options_for(data: str, folder: Path, **changes) -> CurateOptions:
    return CurateOptions(**{"data": data, "output_dir": str(folder)} | OFF | changes)


def dropped_rows(folder: Path, cause: str, language: str = "en") -> list[int]:
    """Rows with captions of a language that were dropped for this cause."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return [sample["row"] for sample in report["samples"].get(cause, {}).get(language, [])]


def assert_counts_are_complete(report: dict, folder: Path):
    for column in (report["rows"], *report["captions"].values()):
        assert column["in"] == column["out"] + sum(column["dropped"].values())
    rows = load_source(str(folder / "data"))
    assert len(rows) == report["rows"]["out"]
    columns = [rows[language][:] for language in report["captions"]]
    assert all(any(cells) for cells in zip(*columns, strict=True))  # every row has a caption
    for language, column in report["captions"].items():
        cells = [cell for cell in rows[language] if cell is not None]
        assert sum(len(cell) if isinstance(cell, list) else 1 for cell in cells) == column["out"]


@pytest.fixture
def damaged(distinct_images, tmp_path) -> str:
    """Twelve rows, most of them with one fault."""
    images = distinct_images[:12]
    images[1] = {"bytes": b"broken", "path": None}
    images[2] = images[2].resize((40, 40))
    images[3] = images[3].resize((64, 256))
    images[4] = PILImage.new("RGB", (64, 64), "white")
    images[11] = images[0].resize((100, 100))
    en = [
        f"{what} on a white ground"
        for what in ("a frog", "a fox", "a hat", "a bus", "a cat", "a dog", "a bee")
    ]
    en += ["see www.frog.com", None, " ", "a fox on a white ground", "a frog again"]
    zh = [
        f"白色背景上的{what}"
        for what in ("青蛙", "狐狸", "帽子", "公共汽车", "小猫", "小狗", "蜜蜂")
    ]
    zh += ["白色背景上的老虎", "かわいいカエル", None, "白色背景上的雪人", "白色背景上的绿蛙"]
    return save_rows(tmp_path / "damaged.parquet", images, en, zh)


def test_images_outside_the_data_and_urls_are_counted_unless_allowed(distinct_images, tmp_path):
    outside = tmp_path / "outside.png"
    distinct_images[1].save(outside)
    named = ({"bytes": None, "path": path} for path in (str(outside), "http://127.0.0.1:1/a.png"))
    cells = [make_cell(distinct_images[0]), *named]
    features = Features({"image": Image(decode=False), "en": Value("string")})
    rows = Dataset.from_dict(
        {"image": cells, "en": ["a frog", "a cat", "a dog"]}, features=features
    )
    pq.write_table(rows.with_format("arrow")[:], tmp_path / "a.parquet")

    def dropped(name: str, **options) -> dict[str, int]:
        fields = {"caption_columns": {"en": "en"}, **options}
        return curate(options_for(str(tmp_path / "a.parquet"), tmp_path / name, **fields))["rows"][
            "dropped"
        ]

    assert dropped("neither") == {URL_REFUSED: 1, PATH_REFUSED: 1}
    assert dropped("paths", allow_paths=True) == {URL_REFUSED: 1}
    with pytest.raises(ValueError, match=f"exclude: row 1 of .*: {PATH_REFUSED}"):
        dropped("excluded", exclude=[str(tmp_path / "a.parquet")])


def test_run_counts_every_row_and_the_set_loads(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr("training.prepare.curation.ROWS_PER_SHARD", 2)
    folder = tmp_path / "out"
    report = curate(CurateOptions(data=damaged, output_dir=str(folder)))
    assert_counts_are_complete(report, folder)
    assert report["rows"]["dropped"] == {
        "image does not decode": 1, "image too small": 1, "extreme aspect ratio": 1, "blank image": 1,
        "near-duplicate image": 1, "no caption left": 2,
    }  # fmt: skip
    assert dropped_rows(folder, "web address") == [7] and dropped_rows(
        folder, "near-duplicate image"
    ) == [11]
    assert dropped_rows(folder, "empty caption") == [9] and dropped_rows(
        folder, "no caption", "zh"
    ) == [9]
    assert dropped_rows(folder, "kana or Hangul", "zh") == [8]
    rows = load_source(str(folder / "data"))
    assert (
        rows.column_names == ["image", "en", "zh"] and len(list((folder / "data").iterdir())) == 3
    )
    assert rows["en"][:2] == ["a frog on a white ground", "a dog on a white ground"]
    # the Chinese caption is kept without the English one
    assert rows["zh"][3] == "白色背景上的老虎" and rows["en"][3] is None
    source = load_source(damaged)
    for row, original in enumerate([0, 5, 6, 7, 10]):
        assert rows[row]["image"].tobytes() == source[original]["image"].tobytes()
    config = DataConfig(train=str(folder / "data"), max_skip_share=0.0)
    assert len(PairDataset(rows, config, None, 64).rows[0]) == 5
    assert "| image too small | 1 | 1 | 1 |" in report_table(report)
    text = (folder / "report.json").read_text(encoding="utf-8")
    assert "see www.frog.com" in text and str(tmp_path) not in text
    # a second run replaces the set of the first
    curate(CurateOptions(data=damaged, output_dir=str(folder), max_aspect_ratio=None, min_edge=1))
    assert len(load_source(str(folder / "data"))) == 7


def test_cell_with_several_captions_keeps_the_valid_ones(distinct_images, tmp_path):
    en = [["a frog", "frog.jpg", " a green frog "], ["IMG_1234"], ["a fox", None]]
    data = save_rows(tmp_path / "lists.parquet", distinct_images[:3], en, [["青蛙"], [], None])
    report = curate(options_for(data, tmp_path / "out"))
    rows = load_source(str(tmp_path / "out/data"))
    assert rows["en"][:] == [["a frog", "a green frog"], ["a fox"]] and rows["zh"][:] == [
        ["青蛙"],
        None,
    ]
    assert_counts_are_complete(report, tmp_path / "out")
    rows = pq.read_table(data)  # polars writes large lists
    large = rows.set_column(
        1, "en", rows["en"].cast(pa.large_list(pa.large_string()))
    ).replace_schema_metadata()
    pq.write_table(large, tmp_path / "large.parquet")
    curate(options_for(str(tmp_path / "large.parquet"), tmp_path / "large"))
    assert load_source(str(tmp_path / "large/data"))["en"][:] == [
        ["a frog", "a green frog"],
        ["a fox"],
    ]
    both = {"en": "en", "zh": "en"}  # two languages may share a column
    data = save_rows(
        tmp_path / "both.parquet", distinct_images[:2], [["a frog", "青蛙"], ["a fox"]]
    )
    curate(options_for(data, tmp_path / "shared", caption_columns=both))
    assert load_source(str(tmp_path / "shared/data"))["en"][:] == [["a frog", "青蛙"], ["a fox"]]


@pytest.mark.parametrize(("limit", "rows"), [(3, []), (2, [0, 2, 4])])
def test_caption_of_too_many_different_images_is_boilerplate(
    distinct_images, tmp_path, limit, rows
):
    images = [*distinct_images[:5], distinct_images[1], distinct_images[1]]
    en = [
        "Buy now!",
        "a frog",
        "buy now",
        "a fox",
        "BUY NOW",
        "the frog",
        "one frog",
    ]  # all frogs share one image
    data = save_rows(tmp_path / "rows.parquet", images, en)
    report = curate(options_for(data, tmp_path / "out", max_caption_images=limit))
    assert dropped_rows(tmp_path / "out", "boilerplate") == rows
    assert_counts_are_complete(report, tmp_path / "out")


def test_first_near_duplicate_with_a_caption_is_kept(distinct_images, tmp_path):
    data = save_rows(
        tmp_path / "rows.parquet", [distinct_images[0]] * 3, ["frog.jpg", "a frog", "a green frog"]
    )
    curate(options_for(data, tmp_path / "out"))
    assert load_source(str(tmp_path / "out/data"))["en"][:] == ["a frog"]
    images = [distinct_images[0], distinct_images[0], distinct_images[1]]
    data = save_rows(tmp_path / "boilerplate.parquet", images, ["buy now", "a frog", "buy now"])
    folder = tmp_path / "boilerplate"
    assert_counts_are_complete(curate(options_for(data, folder, max_caption_images=1)), folder)
    assert load_source(str(folder / "data"))["en"][:] == ["a frog"]


def test_equal_caption_is_dropped_in_its_language_only(distinct_images, tmp_path):
    en = ["red apple ab", "red apples", "Red apple: AB!", "frog 青"]
    data = save_rows(
        tmp_path / "rows.parquet", distinct_images[:4], en, ["小猫", "小猫。", "frog 青", "青蛙"]
    )
    report = curate(options_for(data, tmp_path / "out"))
    assert dropped_rows(tmp_path / "out", "equal caption") == [2]
    assert dropped_rows(tmp_path / "out", "equal caption", "zh") == [1]
    assert_counts_are_complete(report, tmp_path / "out")


def test_images_of_excluded_sets_are_removed(distinct_images, tmp_path):
    data = save_rows(
        tmp_path / "rows.parquet",
        distinct_images[:6],
        ["an a", "a b", "a c", "a d", "an e", "an f"],
    )
    first = save_rows(
        tmp_path / "first.parquet",
        [distinct_images[2].resize((32, 32)), distinct_images[20]],
        ["", ""],
    )
    second = save_rows(
        tmp_path / "second.parquet", [distinct_images[4], distinct_images[21]], ["", ""]
    )
    curate(options_for(data, tmp_path / "out", exclude=[first, second], max_image_distance=4))
    assert dropped_rows(tmp_path / "out", "in an excluded set") == [2, 4]
    broken = save_rows(
        tmp_path / "broken.parquet",
        [distinct_images[2], {"bytes": b"broken", "path": None}],
        ["", ""],
    )
    with pytest.raises(ValueError, match=r"exclude: row 1 of .* \(image does not decode\)"):
        curate(options_for(data, tmp_path / "other", exclude=[broken]))


def test_the_data_are_not_overwritten(distinct_images, tmp_path):
    (tmp_path / "data").mkdir()
    distinct_images[0].save(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "metadata.jsonl").write_text('{"file_name": "0.png", "en": "a frog"}')
    for data in ("data", "data/*.jsonl"):
        with pytest.raises(ValueError, match=r"output_dir: .* would overwrite data"):
            curate(options_for(str(tmp_path / data), tmp_path, overwrite=True))


def test_files_of_the_user_next_to_the_data_stay(distinct_images, tmp_path):
    options = options_for(
        save_rows(tmp_path / "a.parquet", distinct_images[:2], ["a frog", "a fox"]),
        tmp_path / "out",
    )
    curate(options)
    (tmp_path / "out/data/notes.txt").touch()
    (tmp_path / "out/data/train-00001-of-00002.parquet").touch()  # of a larger run
    curate(options)
    found = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert found == ["notes.txt", "train-00000-of-00001.parquet"]


# language, a caption that passes, one that is dropped, the cause
CASES = [
    ("en", "ox", "a", "too few characters"),
    ("zh", "狗", "", "too few characters"),
    ("en", "a frog", "frog " * 201, "too many characters"),
    ("en", " ".join(f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(120)), " ".join(
        f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(129)), "too many words"),
    ("en", "I like it.Me too.", "frogs at frogs.com", "web address"),
    ("zh", "访问网站", "访问https://a.b/c", "web address"),
    ("en", "a www frog", "see www.frog", "web address"),
    ("en", "frog @ home", "ask frog@pond.org", "e-mail address"),
    ("en", "a jpg of a frog", "frog.JPG", "file name"),
    ("en", "IMG of 1234 frogs", "IMG_1234", "file name"),
    ("zh", "青蛙png图", "青蛙.png", "file name"),
    ("en", "frog!!", "frog!!!", "symbols"),  # the final mark does not count
    ("zh", "鹿。", "。", "symbols"),
    ("en", "abcdefg 123", "abcdef 123", "digits"),
    ("en", "aaaaah", "aaaaaah", "repeated characters"),
    ("en", "bye Bye", "bye Bye BYE", "repeated words"),
    ("zh", "哈哈笑", "哈哈哈", "repeated words"),
    ("en", "frog 青", "frog 青蛙", "wrong script"),
    ("en", "ｆｒｏｇ", "лягушка", "wrong script"),
    ("zh", "iPhone 壳", "iPhone case 壳", "wrong script"),
    ("zh", "一二三四五六七八九の", "一二三四五六七八の", "kana or Hangul"),
    ("ja", "ほんとうの話", "frog frog two", "wrong script"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "kept", "dropped", "cause"), CASES)
def test_each_check_keeps_and_drops_captions_at_its_threshold(language, kept, dropped, cause):
    assert not list(caption_faults(kept, language))
    assert not dropped or next(caption_faults(dropped, language)) == cause


def test_words_are_ideographs_and_runs_of_letters():
    assert words_of("Don’t 买iPhone 15手机") == [
        ("Dont", "Latin"), ("买", "Han"), ("iPhone", "Latin"), ("手", "Han"), ("机", "Han")
    ]  # fmt: skip


def image_captions() -> list[str]:
    """Ten captions, longest first."""
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
    return [" ".join(["drawing", *words[number:]]) for number in range(10)]


@pytest.fixture
def scored(distinct_images, tmp_path) -> str:
    en = image_captions()
    return save_rows(tmp_path / "scored.parquet", distinct_images[:10], en, ["青蛙", *([None] * 9)])


def slow_cosines(teacher, images: list, texts: list[str]) -> list[float]:
    """Cosines computed one pair at a time with the teacher's own processor."""
    cosines = []
    for image, text in zip(images, texts, strict=True):
        pixels = teacher.image_processor(image, return_tensors="pt").pixel_values
        tokens = teacher.tokenizer(text, return_tensors="pt")
        image_embedding = teacher.image_targets(pixels).embedding
        text_embedding = teacher.text_targets(tokens.input_ids, tokens.attention_mask).embedding
        cosines.append(float(torch.cosine_similarity(image_embedding, text_embedding)))
    return cosines


def test_teacher_drops_the_lowest_cosines_of_a_language(
    scored, distinct_images, teacher, teacher_folder, tmp_path
):
    ranked = np.argsort(slow_cosines(teacher, distinct_images[:10], image_captions())).tolist()
    changes = {"teacher": str(teacher_folder), "batch_size": 4, "drop_share": {"en": 0.39}}
    report = curate(options_for(scored, tmp_path / "out", **changes))
    assert dropped_rows(tmp_path / "out", "low similarity") == sorted(ranked[:3])
    assert dropped_rows(tmp_path / "out", "low similarity", "zh") == []  # no share for zh
    assert_counts_are_complete(report, tmp_path / "out")


def test_run_that_keeps_no_row_fails_and_writes_the_report(damaged, tmp_path):
    with pytest.raises(ValueError, match=r"data: no row of .* is left"):
        curate(options_for(damaged, tmp_path / "out", min_edge=1000))
    assert "image too small" in (tmp_path / "out/report.json").read_text(encoding="utf-8")
