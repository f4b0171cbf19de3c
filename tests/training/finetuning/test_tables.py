"""Tables in any usual encoding, and their columns."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from training.finetuning import tables
from training.finetuning.tables import captions_of, find_columns, language_of, read_table

ROWS = [("1.jpg", "红苹果"), ("2.jpg", "青蛙，绿色")]
FILES = [f"{number}.jpg" for number in range(4)]
TITLES = ["红色连衣裙", "Nike 跑步鞋", "羊毛围巾", "皮带"]
ENGLISH = ["a red dress", "running shoes", "a scarf", "a belt"]


def write(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def table_of(titles: list[str]) -> str:
    return "\n".join(
        ["file,title", *(f"{number}.jpg,{title}" for number, title in enumerate(titles))]
    )


@pytest.mark.parametrize(
    ("encoding", "name", "titles"),
    [
        ("utf-8", "UTF-8", ["红苹果", "青蛙，绿色"]),
        ("gbk", "GB 18030", ["红苹果", "青蛙，绿色"]),
        ("utf-16", "UTF-16", ["红苹果", "青蛙，绿色"]),
        ("cp950", "Big5", ["一個人", "大山"]),
        ("cp950", "Big5", ["在沙灘上面玩球的小狗", "女人"]),
        ("gbk", "GB 18030", ["紅蘋果", "青蛙，綠色"]),  # which has traditional characters as well
        (
            "cp1252",
            "Windows-1252",
            ["It’s a dog", "Men’s shoe", "two cafés in Paris", "crème brûlée"],
        ),
    ],
)
def test_usual_encodings_are_found(tmp_path, encoding, name, titles):
    columns, found = read_table(write(tmp_path / "a.csv", table_of(titles), encoding))
    assert found == name and columns == {
        "file": [f"{number}.jpg" for number in range(len(titles))],
        "title": titles,
    }


def test_a_caption_may_have_several_lines(tmp_path):
    columns, _ = read_table(
        write(tmp_path / "a.csv", 'file,title\n1.jpg,"a dog\nthat runs"\n2.jpg,frog\n3.jpg')
    )
    assert columns["title"] == ["a dog\nthat runs", "frog", None]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path, separator):
    text = "\n".join(separator.join(cells) for cells in [("file", "title"), *ROWS])
    assert read_table(write(tmp_path / "a.csv", text))[0]["title"] == ["红苹果", "青蛙，绿色"]


def test_blank_lines_before_the_header_are_skipped(tmp_path):
    columns, _ = read_table(write(tmp_path / "a.csv", "\n\nfile;title\n1.jpg;青蛙\n"))
    assert columns == {"file": ["1.jpg"], "title": ["青蛙"]}


def test_json_lines_may_hold_lists_and_lack_fields(tmp_path):
    text = '{"file": "1.jpg", "zh": ["苹果", "红苹果"]}\n\n{"file": "2.jpg", "zh": "青蛙"}\n{"file": "3.jpg", "id": 3}'
    columns, *_ = read_table(write(tmp_path / "a.jsonl", text))
    assert columns["zh"] == [["苹果", "红苹果"], ["青蛙"], []] and columns["id"] == [
        None,
        None,
        "3",
    ]
    text = '{"file": "1.jpg", "caption": {"zh": "苹果"}}\n{"file": "2.jpg", "caption": "b"}'
    assert read_table(write(tmp_path / "a.jsonl", text))[0]["caption"] == [None, "b"]
    text = '{"file": "1.jpg", "en": "a\u2028b"}\r\n{"file": "2.jpg", "en": "c\x85d"}'
    assert read_table(write(tmp_path / "a.jsonl", text))[0]["en"] == ["a\u2028b", "c\x85d"]


def test_missing_values_are_not_captions(tmp_path):
    cells = [
        "红苹果",
        "NULL",
        "nan",
        "None",
        "N/A",
        "",
        "Nancy",
        "none",
        "null",
        "n/a",
    ]  # the last ones are classes
    columns, *_ = read_table(write(tmp_path / "a.csv", table_of(cells)))
    assert columns["title"] == ["红苹果", *[None] * 5, "Nancy", "none", "null", "n/a"]
    lines = [
        '{"file": "1.jpg", "en": ["A frog.", null], "zh": NaN}',
        '{"file": "2.jpg", "en": null, "zh": "青蛙"}',
    ]
    columns, *_ = read_table(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert columns["en"] == [["A frog."], []] and columns["zh"] == [None, "青蛙"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"file,title\n1.jpg,a\0b\n", "is empty or not a text file"),
        ("a.csv", "图片，标题\n1.jpg，红苹果\n".encode(), "'图片，标题'"),
        ("a.csv", b"file,title,title\n1.jpg,a,b\n", "different columns"),
        (
            "a.csv",
            ("file,title\n" + "1.jpg,红苹果和青蛙\n" * 9).encode()[:-2],
            r"UTF-8 with 1 damaged .* line 10\.",
        ),
        ("a.csv", b'file,title\n1.jpg,"a dog\n2.jpg,frog\n', "quotation mark"),
        ("a.csv", b"file,title\n1.jpg,a red, round apple\n", "line 2 .*3 cells"),
        ("a.jsonl", b'{"file": "1.jpg"}\n{"file"\n', "line 2"),
        ("a.csv", b",,\n,,\n", "has the header ',,' and 0 rows"),
        ("a.tsv", b"file,title\n1.jpg,apple\n", r"separated by '\\t'"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^data: .*{message}"):
        read_table(tmp_path / name)


def rows(**columns) -> Dataset:
    return Dataset.from_dict({"file": FILES} | columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"title": TITLES}, {"zh": "title"}),
        ({"en": ENGLISH, "zh": TITLES}, {"en": "en", "zh": "zh"}),
        ({"en": ENGLISH, "标题": TITLES}, {"en": "en", "zh": "标题"}),
        ({"title": ENGLISH, "标题": TITLES, "类目": TITLES}, {"en": "title", "zh": "标题"}),
        ({"title": ENGLISH, "描述": TITLES}, {"en": "title"}),
        (
            {"sku": ["A1", "B2", "C3", "D4"], "brand": ["Acme"] * 4, "title": TITLES},
            {"zh": "title"},
        ),
        (
            {"caption": ["红色连衣裙", "a red dress", "围巾", "a scarf"]},
            {"en": "caption", "zh": "caption"},
        ),
    ],
)
def test_usual_columns_are_found(columns, expected):
    found = find_columns(rows(**columns))
    assert (found.image, found.captions, found.are_labels) == ("file", expected, False)
    given = find_columns(rows(**columns), "file", expected)
    assert given == found


def test_class_numbers_with_names_are_labels():
    features = Features({"file": Value("string"), "label": ClassLabel(names=["cat", "dog"])})
    found = find_columns(Dataset.from_dict({"file": FILES, "label": [0, 1, 1, 0]}, features))
    assert found.captions == {"en": "label"} and found.are_labels
    assert found.describe() == "image column: file, en class names: label"
    mixed = Dataset.from_dict({"file": FILES, "label": [0, 1, 1, 0]}, features).add_column(
        "zh", TITLES
    )
    assert not find_columns(mixed, "file", {"en": "label", "zh": "zh"}).are_labels


def test_a_few_texts_in_a_different_language_are_not_a_language():
    titles = [*TITLES * 10, "a belt"]
    found = find_columns(
        Dataset.from_dict({"file": [f"{number}.jpg" for number in range(41)], "title": titles})
    )
    assert found.captions == {"zh": "title"}


def test_a_thousand_other_columns_are_not_read(monkeypatch):
    wide = rows(
        title=TITLES, **{f"fact {number}": ["12", "a 1", None, "x"] for number in range(1000)}
    )
    read = []
    monkeypatch.setattr(
        tables, "cells_of", lambda part, column, feature: read.append(column) or part[column]
    )
    assert find_columns(wide).captions == {"zh": "title"} and read == ["title"]


def test_a_mixed_column_is_divided_by_script():
    cell = ["红色连衣裙", "a red dress", "红色连衣裙"]
    assert captions_of(cell, "zh", exclusive=True) == ["红色连衣裙"]
    assert captions_of(cell, "en", exclusive=True) == ["a red dress"]
    assert captions_of("DVD", "zh", exclusive=False) == ["DVD"]


@pytest.mark.parametrize(
    ("text", "language"),
    [("Nike 跑步鞋", "zh"), ("a dress", "en"), ("赤いドレス", None), ("красный", None)],
)
def test_language_of_a_text(text, language):
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": ["красный", "лягушка", "шарф", "ремень"]}, {}, "data: which column"),
        ({"label": [0, 1, 0, 1]}, {}, "data: which column"),
        (
            {"title": TITLES},
            {"caption_columns": {"zh": "titel"}},
            "data: there is no column 'titel', only file, title",
        ),
        (
            {"label": [0, 1, 0, 1]},
            {"caption_columns": {"zh": "label"}},
            r"caption_columns\.zh: column 'label' has no",
        ),
        ({"x": ENGLISH}, {"caption_columns": {"fr": "x"}}, r"caption_columns\.fr"),
    ],
)
def test_missing_columns_are_named(columns, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        find_columns(rows(**columns), **options)


def test_a_table_without_images_is_refused():
    with pytest.raises(ValueError, match=r"^data: no column has images"):
        find_columns(Dataset.from_dict({"a": TITLES, "b": ENGLISH}))
