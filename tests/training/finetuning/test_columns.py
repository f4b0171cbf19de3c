import pytest
from datasets import ClassLabel, Dataset, Features, Value

from training.finetuning.columns import captions_of, find_columns, language_of

FILES = [f"{number}.jpg" for number in range(4)]
TITLES = ["红色连衣裙", "Nike 跑步鞋", "羊毛围巾", "皮带"]
ENGLISH = ["a red dress", "running shoes", "a scarf", "a belt"]


def rows(**columns) -> Dataset:
    return Dataset.from_dict({"file": FILES} | columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"title": TITLES}, {"zh": "title"}),
        ({"en": ENGLISH, "zh": TITLES}, {"en": "en", "zh": "zh"}),
        ({"标题": TITLES, "description": ENGLISH}, {"zh": "标题", "en": "description"}),
        ({"sku": ["A1", "B2", "C3", "D4"], "brand": ["Acme"] * 4, "title": TITLES}, {"zh": "title"}),
        ({"category": ["shoes"] * 4, "title": TITLES}, {"zh": "title"}),
        ({"zh_TW": ["紅色連衣裙"] * 4, "zh": TITLES}, {"zh": "zh"}),
        ({"description": TITLES, "caption": TITLES}, {"zh": "caption"}),
        ({"link": ["https://example.com/a"] * 4, "price": ["12"] * 4, "x": ENGLISH}, {"en": "x"}),
        ({"商品品牌": ["Acme"] * 4, "型号": ["One Pro"] * 4, "作者": ["Li Lei"] * 4, "标题": TITLES}, {"zh": "标题"}),
        ({"尺码": ["XL", "M", "S", "L"], "品牌名称": ["Acme"] * 4, "x": TITLES, "y": ENGLISH}, {"zh": "x", "en": "y"}),
        ({"商品编号": ["商品一", "商品二", "商品三", "商品四"], "内容": TITLES}, {"zh": "内容"}),
        ({"品牌": TITLES}, {"zh": "品牌"}),
        ({"型號": ["One Pro"] * 4, "商品類別": TITLES, "商品": TITLES, "標題": TITLES}, {"zh": "標題"}),
        ({"颜色": ["红", "绿", "红", "绿"], "品名": TITLES}, {"zh": "品名"}),
        ({"颜色": ["红", "绿", "红", "绿"], "说法": TITLES}, {"zh": "说法"}),
        ({"商品类别": TITLES, "商品": TITLES}, {"zh": "商品"}),
        ({"caption": ["红色连衣裙", "a red dress", "围巾", "a scarf"]}, {"en": "caption", "zh": "caption"}),
    ],
)
def test_caption_columns_are_found_by_script_and_name(columns, expected):
    found = find_columns(rows(**columns), None)
    assert (found.image, found.captions, found.are_labels) == ("file", expected, False)


def test_what_was_found_is_described():
    found = find_columns(rows(title=TITLES, 描述=TITLES), None)
    assert found.describe() == "image column: file, zh captions: title (not used: zh: 描述)"


def test_class_numbers_with_names_are_labels():
    features = Features({"file": Value("string"), "label": ClassLabel(names=["cat", "dog"])})
    found = find_columns(Dataset.from_dict({"file": FILES, "label": [0, 1, 1, 0]}, features), None)
    assert found.captions == {"en": "label"} and found.are_labels


def test_a_mixed_column_is_divided_by_script():
    cell = ["红色连衣裙", "a red dress", "红色连衣裙"]
    assert captions_of(cell, "zh", exclusive=True) == ["红色连衣裙"]
    assert captions_of(cell, "en", exclusive=True) == ["a red dress"]
    assert captions_of("DVD", "zh", exclusive=False) == ["DVD"]


@pytest.mark.parametrize(
    ("text", "language"), [("Nike 跑步鞋", "zh"), ("a dress", "en"), ("赤いドレス", None), ("красный", None)]
)
def test_language_of_a_text(text, language):
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": ["красный", "лягушка", "шарф", "ремень"]}, {}, "no column has captions in Chinese characters or Latin"),
        ({"title": TITLES}, {"caption_columns": {"zh": "titel"}}, "there is no column 'titel', only file, title"),
        ({"title": TITLES}, {"image_column": "image"}, "there is no column 'image'"),
        ({"label": [0, 1, 0, 1]}, {}, "Add a column of captions, or of class names instead of numbers"),
        ({"label": [0, 1, 0, 1]}, {"caption_columns": {"zh": "label"}}, "zh: column 'label' holds numbers or no text"),
        ({"label": list("0101")}, {"caption_columns": {"zh": "label"}}, "zh: column 'label' holds numbers or no text"),
        (
            {"x": TITLES[:1] * 4},
            {"caption_columns": {"en": "x"}},
            r"has no text in this .*Use --caption_columns\.zh x",
        ),
        ({"x": ENGLISH}, {"caption_columns": {"fr": "x"}}, r"caption_columns\.fr: there is no such language, only"),
    ],
)
def test_missing_columns_are_named(columns, options, message):
    with pytest.raises(ValueError, match=message):
        find_columns(rows(**columns), None, **options)


def test_a_table_without_images_is_refused():
    with pytest.raises(ValueError, match="no column has images or paths of images, only a, b"):
        find_columns(Dataset.from_dict({"a": TITLES, "b": ENGLISH}), None)
