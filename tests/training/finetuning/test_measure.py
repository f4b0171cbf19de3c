"""What fine-tuning measures, against counting by hand, with embeddings that are written down."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Image

from tests.tiny import encoded
from training.evaluation.metrics import wilson_interval
from training.evaluation.sets.class_names import GeneralPairs
from training.finetuning.measure import CaptionedImages, general_rows
from training.utils.results import Row


class Fake:
    """A model that gives each text the embedding that a dictionary has for it, and images the given ones."""

    name = "fake"

    def __init__(self, table, images=None):
        self.table, self.images = table, images

    def encode_texts(self, texts, truncate=False):
        return F.normalize(torch.tensor([self.table[text] for text in texts]), dim=-1)

    def encode_images(self, images):
        return self.images


def test_general_texts_are_measured_in_both_directions():
    """Both English texts are nearest to 猫, so English finds one of two; 猫 and 狗 both find their own."""
    table = {"cat": [1.0, 0.0], "dog": [0.8, 0.6], "猫": [0.9, 0.2], "狗": [0.2, 1.0]}
    pairs = GeneralPairs(["cat", "dog"], ["猫", "狗"], ("en", "zh"))
    values = {row.language: row.value for row in general_rows(Fake(table), pairs)}
    assert values == {"en": 0.5, "zh": 1.0}


@pytest.mark.parametrize("names", [{}, {"en": ["cat", "dog"], "zh": ["狗", "猫"]}])
def test_the_rows_of_every_language_are_kept(names):
    table = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "猫": [1.0, 0.1], "狗": [0.1, 1.0]}
    captions = {"en": ["cat", "dog"], "zh": ["猫", "狗"]}
    pairs = {language: torch.tensor([(0, 0), (1, 1)]) for language in captions}
    made = SimpleNamespace(captions=captions, pairs=pairs, rows={"image": None}, name="validation")
    rows, (images, texts) = CaptionedImages("validation", made, names).measure(
        Fake(table, torch.eye(2))
    )
    assert images.shape == (2, 2)
    assert texts.shape == (4, 2)
    first = {row.metric for row in rows if row.language == "en"}
    assert first == {row.metric for row in rows if row.language == "zh"} != set()


def images_of(pairs, captions, names, **fields):
    """A set that no file holds: its pairs are (image, caption) numbers."""
    made = SimpleNamespace(
        captions={"en": captions},
        pairs={"en": torch.tensor(pairs)},
        rows={"image": None},
        name="validation",
    )
    return CaptionedImages("validation", made, {"en": names}, **fields)


def values_of(made, table, images):
    """Values by metric, for images with these embeddings."""
    rows, _ = made.measure(Fake(table, torch.tensor(images)))
    return {row.metric: row.value for row in rows}


def test_an_image_may_have_several_labels():
    """Image 0 is a cat and a pet, image 1 a dog, image 2 has no name; the model sees a cat and two pets."""
    table = {"cat": [1.0, 0.0, 0.0], "dog": [0.0, 1.0, 0.0], "pet": [0.0, 0.0, 1.0]}
    made = images_of([(0, 0), (0, 1), (1, 2)], ["cat", "pet", "dog"], list(table))
    images = [[0.8, 0.0, 0.6], [0.0, 0.6, 0.8], [0.0, 0.0, 1.0]]
    assert values_of(made, table, images) == {"top1": 0.5}


@pytest.mark.parametrize(
    ("metric", "number"),
    [("text_to_image_R@1", 2), ("image_to_text_R@1", 3), ("top1", 3)],
)
def test_queries_are_texts_with_an_image_or_images_with_a_text(metric, number):
    made = images_of([(0, 0), (0, 1), (1, 1), (2, 1)], ["a", "b"], [])
    row = Row(model="student", metric=metric, value=0.5, set="validation", language="en")
    assert made.num_queries(row) == number


def test_a_title_of_several_images_is_one_text(images):
    cells = {"image": [encoded(each) for each in images[:3]], "en": [["a"], ["a"], ["b"]]}
    rows = Dataset.from_dict(cells).cast_column("image", Image(decode=False))
    made = CaptionedImages.of("validation", rows, ["en"])
    assert made.pairs.captions == {"en": ["a", "b"]}
    assert made.pairs.pairs["en"].tolist() == [[0, 0], [1, 0], [2, 1]]
    perfect = Fake({"a": [1.0, 0.0], "b": [0.0, 1.0]}, torch.eye(2)[[0, 0, 1]])
    rows, _ = made.measure(perfect)
    assert {row.value for row in rows} == {1.0}


def test_labels_in_the_order_of_their_names_are_compared():
    """Names are sorted, captions are in the order of the images: the number of a caption is not that of a class."""
    table = {
        "cat": [1.0, 0.0],
        "dog": [0.0, 1.0],
        "eel": [-1.0, 0.0],
        "fox": [0.0, -1.0],
        "gnu": [-1.0, -1.0],
    }
    made = images_of([(0, 0), (1, 1), (2, 2)], ["dog", "cat", "cat"], list(table))
    images = [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    expected = {"top1": pytest.approx(2 / 3), "top5": 1.0}
    assert values_of(made, table, images) == expected


def test_the_views_of_a_photograph_are_one_query():
    """Two photographs of two views each, of which three are named correctly: the interval is that of two queries."""
    names = ["cat", "dog"]
    made = images_of([(0, 0), (1, 0), (2, 1), (3, 1)], names, names, views=2)
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    (found,), _ = made.measure(Fake({"cat": [1.0, 0.0], "dog": [0.0, 1.0]}, images))
    assert found.value == 0.75
    assert found.interval == wilson_interval(0.75, 2)
    assert made.num_queries(found) == 2
