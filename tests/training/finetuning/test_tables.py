import pytest

from training.finetuning.tables import read_table

ROWS = [("1.jpg", "红苹果"), ("2.jpg", "青蛙，绿色")]


def write(path, text: str, encoding: str):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8", "UTF-8"), ("utf-8-sig", "UTF-8"), ("gbk", "GB 18030"), ("gb18030", "GB 18030"), ("utf-16", "UTF-16")],
)
def test_usual_encodings_are_found(tmp_path, encoding, name):
    text = "\n".join(["文件,标题", *(f"{file},{title}" for file, title in ROWS)])
    table = read_table(write(tmp_path / "a.csv", text, encoding))
    assert table.encoding == name
    assert table.columns == {"文件": ["1.jpg", "2.jpg"], "标题": ["红苹果", "青蛙，绿色"]}


@pytest.mark.parametrize("titles", [["一個人", "大山"], ["紅蘋果", "青蛙，綠色"], ["在沙灘上面玩球的小狗", "女人"]])
def test_big5_of_traditional_excel_is_not_taken_for_another_encoding(tmp_path, titles):
    text = "\n".join(["file,title", *(f"{number}.jpg,{title}" for number, title in enumerate(titles))])
    table = read_table(write(tmp_path / "a.csv", text, "cp950"))
    assert table.encoding == "Big5" and table.columns["title"] == titles
    table = read_table(write(tmp_path / "a.csv", text, "gbk"))  # which has traditional characters as well
    assert table.encoding == "GB 18030" and table.columns["title"] == titles


def test_accents_and_curly_quotes_of_western_excel_are_not_taken_for_chinese(tmp_path):
    titles = ["It’s a dog", "Men’s shoe", "two cafés in Paris", "crème brûlée"]
    text = "\n".join(["file,title", *(f"{number}.jpg,{title}" for number, title in enumerate(titles))])
    table = read_table(write(tmp_path / "a.csv", text, "cp1252"))
    assert table.encoding == "Windows-1252" and table.columns["title"] == titles


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_an_open_quotation_mark_does_not_swallow_rows(tmp_path, name, separator):
    lines = [f"{number}.jpg{separator}caption {number}" for number in range(9)]
    lines[3] = f'3.jpg{separator}"big dog'
    table = read_table(write(tmp_path / name, "\n".join([f"file{separator}title", *lines]), "utf-8"))
    assert table.columns["title"] == [
        *(f"caption {n}" for n in range(3)),
        '"big dog',
        *(f"caption {n}" for n in range(4, 9)),
    ]
    assert table.notes == ["A quotation mark is not closed, so quotation marks are part of the captions."]
    lines[5] = f'5.jpg{separator}"a dog{separator} running"'  # this row needs the quotation marks
    with pytest.raises(ValueError, match="the quotation mark before 'big dog' is not closed"):
        read_table(write(tmp_path / name, "\n".join([f"file{separator}title", *lines]), "utf-8"))


def test_a_caption_may_have_several_lines(tmp_path):
    table = read_table(write(tmp_path / "a.csv", 'file,title\n1.jpg,"a dog\nthat runs"\n2.jpg,frog', "utf-8"))
    assert table.columns["title"] == ["a dog\nthat runs", "frog"] and table.notes == []


def test_damaged_utf_8_is_not_taken_for_gbk(tmp_path):
    content = ("file,title\n" + "\n".join(f"{n}.jpg,红苹果和青蛙" for n in range(9))).encode()
    path = tmp_path / "a.csv"
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"UTF-8 with 1 damaged characters, the first in line 10\."):
        read_table(path)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path, separator):
    text = "\n".join(separator.join(cells) for cells in [("file", "title"), *ROWS])
    assert read_table(write(tmp_path / "a.csv", text, "utf-8")).columns["title"] == ["红苹果", "青蛙，绿色"]


def test_a_table_without_a_header_keeps_its_first_row(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "1.jpg,红苹果\n2.jpg,青蛙", "utf-8"))
    assert table.columns == {"column 1": ["1.jpg", "2.jpg"], "column 2": ["红苹果", "青蛙"]}


def test_commas_in_a_title_without_quotes_stay_in_it(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "file,title\n1.jpg,a red, round apple\n2.jpg,frog\n3.jpg", "utf-8"))
    assert table.columns["title"] == ["a red, round apple", "frog", None]
    assert table.notes == ["1 rows have more cells than the header; the last ones were joined."]


def test_json_lines_may_hold_lists_and_lack_fields(tmp_path):
    text = '{"file": "1.jpg", "zh": ["苹果", "红苹果"]}\n\n{"file": "2.jpg", "zh": "青蛙"}\n{"file": "3.jpg", "id": 3}'
    columns = read_table(write(tmp_path / "a.jsonl", text, "utf-8")).columns
    assert columns["zh"] == [["苹果", "红苹果"], ["青蛙"], []] and columns["id"] == [None, None, "3"]


def test_missing_values_are_no_captions(tmp_path):
    cells = ["红苹果", "NULL", "nan", "None", "N/A", "", "Nancy", "none", "null", "n/a"]  # the last ones are classes
    text = "\n".join(["file,title", *(f"{number}.jpg,{cell}" for number, cell in enumerate(cells))])
    table = read_table(write(tmp_path / "a.csv", text, "utf-8"))
    assert table.columns["title"] == ["红苹果", *[None] * 5, "Nancy", "none", "null", "n/a"]
    lines = ['{"file": "1.jpg", "en": ["A frog.", null], "zh": NaN}', '{"file": "2.jpg", "en": null, "zh": "青蛙"}']
    columns = read_table(write(tmp_path / "a.jsonl", "\n".join(lines), "utf-8")).columns
    assert columns["en"] == [["A frog."], []] and columns["zh"] == [None, "青蛙"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,title\n", "has a header and no rows"),
        ("title\n红苹果\n", r"has one column, 'title'\. It needs .* captions\.$"),
        ("图片，标题\n1.jpg，红苹果\n", r"has one column, '图片，标题'\. .* Separate them by ',', and not by '，'\."),
    ],
)
def test_a_table_without_pairs_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path / "a.csv", text, "utf-8"))
