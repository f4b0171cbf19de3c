"""The curate command on emoji images with added faults."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from tests.tiny_teachers import save_teacher
from tests.training.prepare.test_duplicates import cell
from training.config import DataConfig
from training.data import PairDataset, load_source
from training.data.captions import usable_captions
from training.prepare.curation import CODES, CaptionFilter, Facts, words_of
from training.prepare.curation_options import CurateOptions
from training.prepare.curation_run import curate
from training.prepare.duplicates import perceptual_hash

pytestmark = pytest.mark.slow

OFF = {
    "min_edge": None, "max_aspect_ratio": None, "max_image_distance": 0, "max_caption_images": None,
    "max_caption_similarity": None,
}  # fmt: skip


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
    cells = [image if image is None or isinstance(image, dict) else cell(image) for image in images]
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


def assert_counts_are_complete(report, folder: Path):
    for column in report.columns.values():
        assert column["in"] == column["out"] + sum(column["dropped"].values())
    rows = load_source(str(folder / "data"))
    assert len(rows) == report.content["rows"]["out"]
    columns = [rows[language][:] for language in report.content["captions"]]
    assert all(any(cells) for cells in zip(*columns, strict=True))  # every row has a caption
    for language, column in report.content["captions"].items():
        cells = [cell for cell in rows[language] if cell is not None]
        assert sum(len(cell) if isinstance(cell, list) else 1 for cell in cells) == column["out"]


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of all output files, without the state and the record of the folder."""
    skipped = {"state", ".dcclip"}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and skipped.isdisjoint(path.parts)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def damaged(distinct_images, tmp_path) -> str:
    return save_damaged(distinct_images, tmp_path)


def save_damaged(distinct_images: list[PILImage.Image], folder: Path) -> str:
    """Save twelve rows, most of them with one fault."""
    images = distinct_images[:12]
    images[1] = {"bytes": b"broken", "path": None}
    images[2] = images[2].resize((40, 40))
    images[3] = images[3].resize((64, 256))
    images[4] = PILImage.new("RGB", (64, 64), "white")
    images[11] = images[0].resize((100, 100))
    en = [f"{what} on a white ground" for what in ("a frog", "a fox", "a hat", "a bus", "a cat", "a dog", "a bee")]
    en += ["see www.frog.com", None, " ", "a fox on a white ground", "a frog again"]
    zh = [f"白色背景上的{what}" for what in ("青蛙", "狐狸", "帽子", "公共汽车", "小猫", "小狗", "蜜蜂")]
    zh += ["白色背景上的老虎", "かわいいカエル", None, "白色背景上的雪人", "白色背景上的绿蛙"]
    return save_rows(folder / "damaged.parquet", images, en, zh)


def test_images_outside_the_data_and_urls_are_counted_unless_allowed(distinct_images, tmp_path):
    outside = tmp_path / "outside.png"
    distinct_images[1].save(outside)
    images = [
        distinct_images[0],
        *({"bytes": None, "path": path} for path in (str(outside), "http://127.0.0.1:1/a.png")),
    ]
    cells = [cell(image) if isinstance(image, PILImage.Image) else image for image in images]
    features = Features({"image": Image(decode=False), "en": Value("string")})
    rows = Dataset.from_dict({"image": cells, "en": ["a frog", "a cat", "a dog"]}, features=features)
    pq.write_table(rows.with_format("arrow")[:], tmp_path / "a.parquet")

    def dropped(name: str, **options) -> dict[str, int]:
        fields = {"caption_columns": {"en": "en"}, **options}
        return curate(options_for(str(tmp_path / "a.parquet"), tmp_path / name, **fields)).content["rows"]["dropped"]

    path_cause, url_cause = (f"image is a {kind}, and allow_{name} is off" for kind, name in (
        ("path outside the data", "paths"), ("URL", "urls")))  # fmt: skip
    assert dropped("neither") == {url_cause: 1, path_cause: 1}
    assert dropped("paths", allow_paths=True) == {url_cause: 1}
    assert dropped("urls", allow_urls=True) == {path_cause: 1, "image does not decode": 1}
    with pytest.raises(ValueError, match=f"exclude: row 1 of .*: {path_cause}"):
        dropped("excluded", exclude=[str(tmp_path / "a.parquet")])


def test_run_counts_every_row_and_the_set_loads(damaged, tmp_path, tokenizer):
    folder = tmp_path / "out"
    options = CurateOptions(data=damaged, output_dir=str(folder), rows_per_shard=5, max_caption_similarity=1.0)
    report = curate(options)
    assert_counts_are_complete(report, folder)
    assert report.content["rows"]["dropped"] == {
        "image does not decode": 1, "image too small": 1, "extreme aspect ratio": 1, "blank image": 1,
        "near-duplicate image": 1, "no caption left": 2,
    }  # fmt: skip
    assert dropped_rows(folder, "web address") == [7] and dropped_rows(folder, "near-duplicate image") == [11]
    assert dropped_rows(folder, "empty caption") == [9] and dropped_rows(folder, "no caption", "zh") == [9]
    assert dropped_rows(folder, "kana or Hangul", "zh") == [8]
    rows = load_source(str(folder / "data"))
    assert rows.column_names == ["image", "en", "zh"]
    assert rows["en"][:2] == ["a frog on a white ground", "a dog on a white ground"]
    assert (
        rows["zh"][3] == "白色背景上的老虎" and rows["en"][3] is None
    )  # the Chinese caption is kept without the English one
    source = load_source(damaged)
    for row, original in enumerate([0, 5, 6, 7, 10]):
        assert rows[row]["image"].tobytes() == source[original]["image"].tobytes()
    assert load_source(str(folder))["en"][:] == rows["en"][:]  # the output folder loads as a data set too
    config = DataConfig(train=str(folder / "data"), max_skip_share=0.0)
    assert len(PairDataset(rows, config, None, 64).groups[0].rows) == 5
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "| image too small | 1 | 1 | 1 |" in markdown and "see www.frog.com" in markdown
    assert report.content["meta"]["command"].startswith("python -m training.prepare.curate --data damaged.parquet")
    for path in (folder / "report.md", folder / "report.json", folder / "state" / "run.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_images_of_a_folder_are_embedded(distinct_images, tmp_path):
    source = tmp_path / "folder"
    source.mkdir()
    for number in range(3):
        distinct_images[number].save(source / f"{number}.png")
    (source / "metadata.csv").write_text("file_name,en\n0.png,a frog\n1.png,a fox\n2.png,a hat\n", encoding="utf-8")
    curate(options_for(str(source), tmp_path / "out", caption_columns={"en": "en"}))
    (source / "0.png").unlink()
    rows = load_source(str(tmp_path / "out/data"))
    assert rows[rows["en"][:].index("a frog")]["image"].tobytes() == distinct_images[
        0
    ].tobytes() and rows.column_names == [
        "image",
        "en",
    ]


def test_cell_with_several_captions_keeps_the_valid_ones(distinct_images, tmp_path):
    en = [["a frog", "frog.jpg", " a green frog "], ["IMG_1234"], ["a fox", None]]
    data = save_rows(tmp_path / "lists.parquet", distinct_images[:3], en, [["青蛙"], [], None])
    report = curate(options_for(data, tmp_path / "out"))
    rows = load_source(str(tmp_path / "out/data"))
    assert rows["en"][:] == [["a frog", "a green frog"], ["a fox"]] and rows["zh"][:] == [["青蛙"], None]
    assert_counts_are_complete(report, tmp_path / "out")


@pytest.mark.parametrize(("limit", "rows"), [(3, []), (2, [0, 2, 4])])
def test_caption_of_too_many_different_images_is_boilerplate(distinct_images, tmp_path, limit, rows):
    images = [*distinct_images[:5], distinct_images[1], distinct_images[1]]
    en = ["Buy now!", "a frog", "buy now", "a fox", "BUY NOW", "the frog", "one frog"]  # all frogs share one image
    data = save_rows(tmp_path / "rows.parquet", images, en)
    report = curate(options_for(data, tmp_path / "out", max_caption_images=limit))
    assert dropped_rows(tmp_path / "out", "boilerplate") == rows
    assert_counts_are_complete(report, tmp_path / "out")


def test_first_near_duplicate_with_a_caption_is_kept(distinct_images, tmp_path):
    data = save_rows(tmp_path / "rows.parquet", [distinct_images[0]] * 3, ["frog.jpg", "a frog", "a green frog"])
    curate(options_for(data, tmp_path / "out"))
    assert load_source(str(tmp_path / "out/data"))["en"][:] == ["a frog"]
    images = [distinct_images[0], distinct_images[0], distinct_images[1]]
    data = save_rows(tmp_path / "boilerplate.parquet", images, ["buy now", "a frog", "buy now"])
    folder = tmp_path / "boilerplate"
    assert_counts_are_complete(curate(options_for(data, folder, max_caption_images=1)), folder)
    assert load_source(str(folder / "data"))["en"][:] == ["a frog"]


def test_near_duplicate_caption_is_dropped_in_its_language_only(distinct_images, tmp_path):
    # the first two share 9 of 10 trigrams in English and 4 of 5 bigrams in Chinese
    en = ["red apples ab", "red apples a", "Red apples: ab!", "a snowman"]
    zh = ["白色的小猫咪", "黑色的小狗", "白色的小猫", None]
    data = save_rows(tmp_path / "rows.parquet", distinct_images[:4], en, zh)
    for threshold, rows in ((0.9, [1, 2]), (0.92, [2])):
        folder = tmp_path / f"en{threshold}"
        report = curate(options_for(data, folder, max_caption_similarity=threshold))
        assert dropped_rows(folder, "near-duplicate caption") == rows
        assert_counts_are_complete(report, folder)
    for threshold, rows in ((0.8, [2]), (0.81, [])):
        folder = tmp_path / f"zh{threshold}"
        curate(options_for(data, folder, max_caption_similarity=threshold))
        assert dropped_rows(folder, "near-duplicate caption", "zh") == rows


def test_images_of_excluded_sets_are_removed(distinct_images, tmp_path):
    data = save_rows(tmp_path / "rows.parquet", distinct_images[:6], ["an a", "a b", "a c", "a d", "an e", "an f"])
    first = save_rows(tmp_path / "first.parquet", [distinct_images[2].resize((32, 32)), distinct_images[20]], ["", ""])
    second = save_rows(tmp_path / "second.parquet", [distinct_images[4], distinct_images[21]], ["", ""])
    report = curate(options_for(data, tmp_path / "out", exclude=[first, second], max_image_distance=4))
    assert dropped_rows(tmp_path / "out", "in an excluded set") == [2, 4]
    counts = {"hashed": 2, "rows": 1}
    assert report.content["excluded"] == {"first.parquet": counts, "second.parquet": counts}
    broken = save_rows(tmp_path / "broken.parquet", [distinct_images[2], {"bytes": b"broken", "path": None}], ["", ""])
    with pytest.raises(ValueError, match=r"exclude: row 1 cannot be hashed \(image does not decode\)"):
        curate(options_for(data, tmp_path / "other", exclude=[broken]))


def test_larger_language_is_capped_by_a_keyed_hash(distinct_images, tmp_path):
    en, zh = [f"drawing {number}" for number in range(30)], ["图"] * 8 + [None] * 22
    data = save_rows(tmp_path / "rows.parquet", distinct_images[:30], en, zh)
    kept = []
    for name, changes in (("a", {}), ("b", {"rows_per_shard": 7}), ("c", {"seed": 1})):
        report = curate(options_for(data, tmp_path / name, max_language_ratio=1.5, **changes))
        assert report.content["captions"]["en"]["out"] == 12 and report.content["captions"]["zh"]["out"] == 8
        assert_counts_are_complete(report, tmp_path / name)
        kept.append([text for text in load_source(str(tmp_path / name / "data"))["en"] if text])
    assert kept[0] == kept[1] != kept[2] and kept[0] != en[:12]
    bare = save_rows(tmp_path / "bare.parquet", distinct_images[:2], ["an a", "a b"])
    with pytest.raises(ValueError, match="max_language_ratio: no caption in 'zh' is left"):
        curate(options_for(bare, tmp_path / "bare", max_language_ratio=1.5))


# captions and options

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
    examine = CaptionFilter(language)
    assert examine(kept) is None
    assert not dropped or examine(dropped) == cause


def test_ordinary_captions_pass(train_rows):
    for language in ("en", "zh"):
        examine = CaptionFilter(language)
        causes = {text: cause for text in train_rows[language] if (cause := examine(text))}
        assert len(causes) <= 0.05 * len(train_rows), causes


def test_words_are_ideographs_and_runs_of_letters():
    assert words_of("Don’t 买iPhone 15手机") == [
        ("Dont", "Latin"), ("买", "Han"), ("iPhone", "Latin"), ("手", "Han"), ("机", "Han")
    ]  # fmt: skip


def test_language_identification_drops_captions_above_the_threshold(monkeypatch):
    pytest.importorskip("py3langid")
    examine = CaptionFilter("en", 0.9)
    assert examine("the cat sits on the mat") is None
    assert examine("frog") is None  # too short for a high probability
    assert examine("une pomme rouge sur la table") == "wrong language"
    assert CaptionFilter("en", 1.0)("une pomme rouge") is None
    chinese = CaptionFilter("zh", 0.3)
    assert chinese("紅蘋果") is None  # identified as Cantonese, which shares the written form
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ValueError, match=r"max_other_language: .*\[train\]"):
        CaptionFilter("en", 0.9)


def test_every_cause_of_unusable_captions_has_a_code():
    cells = [None, "", 3, "!!!", "\ud800", ["a", "  "]]
    assert {cause for cell in cells for cause in usable_captions(cell)[1]} <= set(CODES)


def test_columns_that_hold_no_captions_are_refused(distinct_images, tmp_path):
    data = tmp_path / "numbers.parquet"
    features = Features({"image": Image(decode=False), "en": Value("int64")})
    rows = Dataset.from_dict({"image": [cell(distinct_images[0])], "en": [7]}, features=features)
    rows.cast_column("image", Image()).to_parquet(data)
    with pytest.raises(ValueError, match=r"caption_columns: 'en' .*int64"):
        curate(options_for(str(data), tmp_path / "out", caption_columns={"en": "en"}))


@pytest.mark.parametrize(
    "fields",
    [
        {"max_other_language": 1.5},
        {"rows_per_shard": 0},
        {"max_image_distance": 16},
        {"max_caption_similarity": 0.1},
        {"min_edge": -1},
        {"max_aspect_ratio": float("nan")},
        {"caption_columns": {}},
        {"min_similarity": {"en": 0.2}},
        {"min_similarity": {"fr": 0.2}, "teacher": "t"},
        {"drop_share": {"en": 1.0}, "teacher": "t"},
        {"drop_share": {"en": 0.2}, "teacher": "t", "min_similarity": {"en": 0.2}},
    ],
)
def test_error_names_the_option_that_is_out_of_range(fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))}: "):
        CurateOptions(data="x", output_dir="y", **fields)


# similarity


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
        image_embedding = teacher.encode_images(pixels).embedding
        text_embedding = teacher.encode_texts(tokens.input_ids, tokens.attention_mask).embedding
        cosines.append(float(torch.cosine_similarity(image_embedding, text_embedding)))
    return cosines


def test_teacher_drops_below_the_threshold_of_a_language(scored, distinct_images, teacher, teacher_folder, tmp_path):
    cosines = slow_cosines(teacher, distinct_images[:10], image_captions())
    ranked = np.argsort(cosines).tolist()
    between = (cosines[ranked[2]] + cosines[ranked[3]]) / 2  # drops exactly three
    common = {"teacher": str(teacher_folder), "batch_size": 4, "rows_per_shard": 6}
    report = curate(options_for(scored, tmp_path / "threshold", min_similarity={"en": between}, **common))
    assert dropped_rows(tmp_path / "threshold", "low similarity") == sorted(ranked[:3])
    assert dropped_rows(tmp_path / "threshold", "low similarity", "zh") == []  # no threshold for zh
    assert report.content["similarity"]["en"]["quantiles"]["0.5"] == pytest.approx(np.median(cosines), abs=1e-4)
    assert_counts_are_complete(report, tmp_path / "threshold")
    report = curate(options_for(scored, tmp_path / "share", drop_share={"en": 0.39}, **common))
    assert dropped_rows(tmp_path / "share", "low similarity") == sorted(ranked[:3])
    assert report.content["similarity"]["en"]["threshold"] == pytest.approx(cosines[ranked[3]], abs=1e-4)


# resume


@pytest.fixture(scope="module")
def whole(distinct_images, teacher_folder, tmp_path_factory) -> CurateOptions:
    """Options of a finished run of three shards with all filters on."""
    folder = tmp_path_factory.mktemp("whole")
    exclude = [save_rows(folder / "exclude.parquet", distinct_images[5:6], [""])]
    changes = {"rows_per_shard": 4, "min_edge": 64, "max_image_distance": 4, "exclude": exclude, "workers": 2}
    changes |= {"teacher": str(teacher_folder), "drop_share": {"en": 0.2}}
    options = options_for(save_damaged(distinct_images, folder), folder / "out", **changes)
    curate(options)
    return options


@pytest.mark.parametrize(("stage", "shard"), [("examine", 0), ("examine", 2), ("write", 0), ("write", 1)])
def test_killed_run_resumes_to_the_same_bytes(whole, tmp_path, monkeypatch, stage, shard):
    options = replace(whole, output_dir=str(tmp_path / "killed"))
    owner, name = (Facts, "save") if stage == "examine" else (pq, "write_table")
    original, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == shard + 1:
            if stage == "write":
                Path(arguments[1]).write_bytes(b"half")
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    with pytest.raises(KeyboardInterrupt):
        curate(options)
    curate(options)
    assert len(calls) == 3 + 1  # three shards, one of them twice
    expected = files_of(Path(whole.output_dir))
    assert {"report.json", "report.md"} < set(expected) and len(expected) == 5
    assert files_of(tmp_path / "killed") == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"min_edge": 32}, "min_edge: "), ({"seed": 5}, "seed: "),
     ({"exclude": ["x.parquet"]}, "exclude: ")],
)  # fmt: skip
def test_folder_of_a_run_with_other_options_is_refused(damaged, tmp_path, changes, named):
    curate(options_for(damaged, tmp_path / "out"))
    with pytest.raises(ValueError, match=named):
        curate(options_for(damaged, tmp_path / "out", **changes))


def test_folder_of_a_run_with_other_data_or_another_teacher_is_refused(
    damaged, distinct_images, tmp_path, teacher_folder, tokenizer
):
    folder = save_teacher("clip", tmp_path / "teacher", tokenizer)
    curate(options_for(damaged, tmp_path / "out", teacher=str(folder)))
    (folder / "model.safetensors").unlink()
    save_teacher("clip", tmp_path / "teacher", tokenizer, dtype=torch.float16)
    with pytest.raises(ValueError, match="revision of teacher: "):
        curate(options_for(damaged, tmp_path / "out", teacher=str(folder)))
    curate(options_for(damaged, tmp_path / "other"))
    save_rows(Path(damaged), distinct_images[:12], [f"a {letter}" for letter in "abcdefghijkl"])
    with pytest.raises(ValueError, match="fingerprint of data: "):
        curate(options_for(damaged, tmp_path / "other"))


# bad input


def test_folders_of_others_and_damaged_folders_are_refused(damaged, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir: .* is not empty"):
        curate(options_for(damaged, tmp_path / "full"))
    curate(options_for(damaged, tmp_path / "out"))
    state = tmp_path / "out/state/facts/00000.safetensors"
    content = bytearray(state.read_bytes())
    content[-3] ^= 1  # one bit of the last array
    for broken in (b"half", bytes(content)):
        state.write_bytes(broken)
        with pytest.raises(ValueError, match=r"output_dir: .*00000.safetensors is damaged"):
            curate(options_for(damaged, tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere.parquet"}, "data: cannot load 'nowhere.parquet'"),
        ({"image_column": "photo"}, "data: .* has no column 'photo', only .* Name the right one as image_column"),
        ({"caption_columns": {"en": "english"}}, "data: .* has no column 'english'"),
        ({"teacher": "nobody/nothing"}, "teacher: 'nobody/nothing' is neither"),
    ],
)
def test_error_names_the_invalid_option(damaged, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        curate(options_for(**{"data": damaged, "folder": tmp_path / "out"} | changes))


def test_run_that_keeps_no_row_fails_and_writes_the_report(damaged, tmp_path):
    with pytest.raises(ValueError, match=r"data: no row of .* is left\. .*report.md lists the causes"):
        curate(options_for(damaged, tmp_path / "out", min_edge=1000))
    assert "image too small" in (tmp_path / "out/report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "of another run"])
def test_a_damaged_shard_of_an_earlier_run_is_written_again(distinct_images, tmp_path, damage):
    options = options_for(save_damaged(distinct_images, tmp_path), tmp_path / "out")
    curate(options)
    (path,) = (tmp_path / "out/data").glob("*.parquet")
    whole = path.read_bytes()
    if damage == "of another run":
        Dataset.from_dict({"image": [], "en": [], "zh": []}).to_parquet(path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else whole[:-6] + b"XX" + whole[-4:])
    curate(options)
    assert path.read_bytes() == whole
