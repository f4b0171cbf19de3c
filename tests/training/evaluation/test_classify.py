import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from training.data import load_source
from training.evaluation.classify import class_embeddings, encode, evaluate, score
from training.evaluation.metrics import wilson_interval
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.class_names import ClassNames


@pytest.fixture(scope="module")
def model(teacher_folder) -> ZeroShotModel:
    return ZeroShotModel.from_pretrained(teacher_folder)


@pytest.fixture(scope="module")
def class_names(corpus) -> ClassNames:
    return ClassNames.read(corpus / "class_names.json")


@pytest.fixture(scope="module")
def unseen_rows(corpus) -> Dataset:
    return load_source(str(corpus / "unseen_combination.parquet"))


@pytest.fixture
def write(tmp_path):
    def write(content) -> str:
        path = tmp_path / "names.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return write


def ranks(model, rows, class_names, language) -> list[int]:
    """Number of class names ranked before the correct one, for every image, computed without the library."""
    with torch.no_grad():
        names = class_names.names[language]
        tokens = model.processor(text=names, return_tensors="pt")
        text = torch.nn.functional.normalize(model.model.get_text_features(**tokens).pooler_output, dim=1)
        found = []
        for row in rows:
            pixels = model.processor(images=row["image"].convert("RGB"), return_tensors="pt")["pixel_values"]
            image = torch.nn.functional.normalize(model.model.get_image_features(pixels).pooler_output, dim=1)
            scores = (image @ text.T)[0]
            found.append(int((scores > scores[class_names.names["en"].index(row["label"])]).sum()))
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_accuracy_equals_an_independent_count(model, unseen_rows, class_names, language):
    found_ranks = ranks(model, unseen_rows, class_names, language)
    ks = sorted({1, 5, sorted(found_ranks)[len(found_ranks) // 2] + 1})  # the last gives about one half
    table = evaluate(model, {"set": unseen_rows}, class_names, [language], ks=ks)
    expected = {f"top{k}": sum(rank < k for rank in found_ranks) / len(found_ranks) for k in ks}
    assert {row.metric: row.value for row in table} == pytest.approx(expected)
    for row in table:
        assert row.interval == pytest.approx(wilson_interval(row.value, len(unseen_rows)))
        assert (row.set, row.language, row.protocol) == ("set", language, "class-names")


def test_images_and_texts_can_come_from_two_models(model, unseen_rows, class_names):
    sets = {"set": unseen_rows}
    other = replace(model, name="other")
    with torch.no_grad():  # a permuted embedding space: only comparable with itself
        permuted = ZeroShotModel.from_pretrained(model.name)
        permuted.model.visual_projection.weight.copy_(permuted.model.visual_projection.weight.roll(1, 0))
        permuted.model.text_projection.weight.copy_(permuted.model.text_projection.weight.roll(1, 0))
    first, same, permuted_encoded = (encode(m, sets, class_names, ["en"]) for m in (model, other, permuted))
    own = [row.value for row in score(first, first, sets, class_names)]
    crossed = score(first, same, sets, class_names)
    assert [row.value for row in crossed] == own and crossed[0].model == f"{model.name} images, other texts"
    assert [row.value for row in score(permuted_encoded, permuted_encoded, sets, class_names)] == pytest.approx(own)
    images = first.images["set"]
    assert not torch.allclose(images @ permuted_encoded.classes["en"].T, images @ first.classes["en"].T)


def test_embeddings_of_different_widths_cannot_be_compared(model, unseen_rows, class_names):
    sets = {"set": unseen_rows}
    first = encode(model, sets, class_names, ["en"])
    narrow = replace(first, name="narrow", classes={"en": first.classes["en"][:, :8]})
    with pytest.raises(ValueError, match=r"text_model: 'narrow' has embeddings of 8 dimensions, .* of 16"):
        score(first, narrow, sets, class_names)


def test_order_of_classes_and_images_does_not_matter(model, unseen_rows, class_names):
    found_ranks = ranks(model, unseen_rows, class_names, "zh")
    ks = [sorted(found_ranks)[len(found_ranks) // 2] + 1]
    in_order = evaluate(model, {"set": unseen_rows}, class_names, ["zh"], ks=ks)
    reverse = ClassNames({language: names[::-1] for language, names in class_names.names.items()})
    shuffled = evaluate(model, {"set": unseen_rows.shuffle(seed=3)}, reverse, ["zh"], ks=ks)
    assert in_order == shuffled and 0 < in_order[0].value < 1


def test_stage_and_seed_are_written_to_the_rows(model, unseen_rows, class_names):
    named = replace(model, name="student")
    table = evaluate(named, {"a": unseen_rows, "b": unseen_rows}, class_names, ["en", "zh"], stage="aligned", seed=4)
    assert {(row.model, row.stage, row.seed) for row in table} == {("student", "aligned", 4)}
    keys = {(row.set, row.language, row.metric) for row in table}
    assert keys == {(s, language, m) for s in "ab" for language in ("en", "zh") for m in ("top1", "top5")}


def test_ks_greater_than_the_number_of_classes_are_left_out(model, unseen_rows):
    names = sorted(set(unseen_rows["label"]))[:3]
    rows = unseen_rows.filter(lambda row: row["label"] in names)
    table = evaluate(model, {"set": rows}, ClassNames({"en": names}), ["en"])
    assert [row.metric for row in table] == ["top1"]


def test_text_embeddings_are_in_order_and_do_not_depend_on_the_batch(model, texts):
    together, alone = model.encode_texts(texts), model.encode_texts(texts, batch_size=1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.encode_texts(texts[::-1]), together.flip(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(texts)))


def test_image_embeddings_do_not_depend_on_the_batch(model, unseen_rows):
    together, alone = model.encode_images(unseen_rows), model.encode_images(unseen_rows, batch_size=1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_several_templates_are_averaged(model):
    templates = ("{}", "a drawing of {}")
    found = class_embeddings(model, ["frog", "cat"], templates)
    each = [model.encode_texts([template.format(name) for name in ("frog", "cat")]) for template in templates]
    expected = torch.nn.functional.normalize((each[0] + each[1]) / 2, dim=1)
    torch.testing.assert_close(found, expected)


def test_transparent_images_are_flattened_onto_white(model):
    clear = PILImage.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((200, 0, 0, 255), (16, 16, 48, 48))
    white = PILImage.new("RGB", (64, 64), "white")
    white.paste((200, 0, 0), (16, 16, 48, 48))
    rows = Dataset.from_dict({"image": [clear, white]}, features=Features({"image": Image()}))
    found = model.encode_images(rows)
    torch.testing.assert_close(found[0], found[1])


# bad input


def test_label_outside_the_list_is_refused(model, unseen_rows):
    with pytest.raises(ValueError, match=r"label: row 0 is labelled .* not among the 2 en class names"):
        evaluate(model, {"set": unseen_rows}, ClassNames({"en": ["frog", "cat"]}), ["en"])


def test_language_without_names_is_refused(model, unseen_rows, class_names):
    with pytest.raises(ValueError, match=r"language: the class list has no names in 'fr', only in \['en', 'zh'\]"):
        evaluate(model, {"set": unseen_rows}, class_names, ["fr"])


@pytest.mark.parametrize("column", ["label", "image"])
def test_missing_column_is_refused(model, unseen_rows, class_names, column):
    with pytest.raises(ValueError, match=rf"data: set has no column '{column}'"):
        evaluate(model, {"set": unseen_rows.remove_columns(column)}, class_names, ["en"])


def test_damaged_test_image_is_refused_and_not_dropped(model, unseen_rows, class_names):
    rows = unseen_rows.cast_column("image", Image(decode=False)).to_list()
    rows[2]["image"]["bytes"] = rows[2]["image"]["bytes"][:40]
    damaged = Dataset.from_list(rows).cast_column("image", Image())
    with pytest.raises(ValueError, match=r"image: row 2 does not decode"):
        evaluate(model, {"set": damaged}, class_names, ["en"])


def test_two_classes_with_one_name_are_refused(write):
    path = write([{"en": "frog", "zh": "青蛙"}, {"en": "toad", "zh": "青蛙"}])
    with pytest.raises(ValueError, match=r"several classes with the same zh name: \['青蛙'\]"):
        ClassNames.read(path)


@pytest.mark.parametrize(
    "content",
    [[{"en": "frog", "zh": "青蛙"}, {"en": "cat"}], [], {"en": ["frog"]}, "not json", ["frog", {"en": "cat"}]],
    ids=["a language is missing", "empty", "another form", "no JSON", "names and entries"],
)
def test_class_list_of_another_form_is_refused_with_its_path(write, content):
    with pytest.raises(ValueError, match=r"class_names: .*names\.json"):
        ClassNames.read(write(content))


def test_class_list_without_the_language_of_the_labels_is_refused(write):
    with pytest.raises(ValueError, match=r"no names in 'zh', the language of the labels"):
        ClassNames.read(write([{"en": "frog"}]), "zh")


def test_teachers_of_other_families_can_be_measured(altclip_folder, unseen_rows, class_names):
    table = evaluate(ZeroShotModel.from_pretrained(altclip_folder), {"set": unseen_rows}, class_names, ["en", "zh"])
    assert len(table) == 4 and all(0 <= row.value <= 1 for row in table)


class Scripted:
    """A model that embeds texts by a table and records how many it encodes at once."""

    name = "scripted"

    def __init__(self, table: dict[str, list[float]], images: torch.Tensor):
        self.table, self.images, self.counts = table, images, []

    def encode_texts(self, texts):
        self.counts.append(len(texts))
        return torch.tensor([self.table[text] for text in texts])

    def encode_images(self, rows, column):
        return self.images


def test_every_language_is_scored_with_its_own_names():
    names = ClassNames({"en": ["fox", "dog", "cat"], "zh": ["狐狸", "狗", "猫"]})
    rows = Dataset.from_dict({"image": ["a", "b", "c"], "label": ["fox", "dog", "cat"]})
    eye = torch.eye(3).tolist()
    table = {"fox": eye[0], "dog": eye[1], "cat": eye[2], "狐狸": eye[0], "狗": eye[2], "猫": eye[1]}
    found = evaluate(Scripted(table, torch.eye(3)), {"set": rows}, names, ["en", "zh"], ks=(1, 2))
    assert {(row.language, row.metric): row.value for row in found} == {
        ("en", "top1"): 1.0,
        ("en", "top2"): 1.0,
        ("zh", "top1"): 1 / 3,
        ("zh", "top2"): 1 / 3,  # among equal scores, the class with the lower index ranks first
    }


def test_many_names_are_encoded_in_parts_of_8192_texts():
    generator = np.random.default_rng(0)
    names, templates = [f"name {number}" for number in range(3000)], ("{}", "a {}", "the {}")
    table = {template.format(name): generator.normal(size=4).tolist() for name in names for template in templates}
    model = Scripted(table, torch.empty(0))
    found = class_embeddings(model, names, templates).numpy()
    means = np.array([np.mean([table[template.format(name)] for template in templates], axis=0) for name in names])
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    assert sum(model.counts) == 9000 and max(model.counts) <= 8192 and len(model.counts) == 2
