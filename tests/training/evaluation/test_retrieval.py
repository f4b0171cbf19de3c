import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from tests.tiny import PROJECTION_DIM, VIT, make_model
from training import eval as eval_script
from training.engine.rotation import rotate
from training.evaluation.encoder import Embeddings
from training.evaluation.metrics import right_ranks, wilson_interval
from training.evaluation.retrieval import (
    RetrievalSet,
    make_retrieval_set,
    open_retrieval_set,
    ranks,
    retrieval_table,
    score,
)
from training.hub.cards.metadata import eval_results
from training.teachers import DualEncoder
from training.utils.results import Results

pytestmark = pytest.mark.slow

FEATURES = Features({"image": ImageFeature(), "en": List(Value("string")), "zh": Value("string")})


@pytest.fixture(scope="module")
def model(teacher_folder) -> DualEncoder:
    return DualEncoder.from_pretrained(teacher_folder)


@pytest.fixture(scope="module")
def rows(images) -> Dataset:
    """Four images with several English captions, one of which two images share, and one Chinese or none."""
    en = [["frog", "a green frog"], ["cat", " cat "], ["owl", "bird"], ["duck", "bird"]]
    return Dataset.from_dict(
        {"image": images[:4], "en": en, "zh": ["青蛙", "猫", None, "鸭"]}, features=FEATURES
    )


@pytest.fixture(scope="module")
def retrieval_set(rows) -> RetrievalSet:
    return make_retrieval_set("toy", rows, {"en": "en", "zh": "zh"}, "image", "toy.parquet", "test")


def test_captions_are_paired_with_their_images(retrieval_set):
    assert retrieval_set.captions["en"] == [
        "frog",
        "a green frog",
        "cat",
        "owl",
        "bird",
        "duck",
        "bird",
    ]
    assert retrieval_set.pairs["en"].tolist() == [
        [0, 0],
        [0, 1],
        [1, 2],
        [2, 3],
        [2, 4],
        [3, 5],
        [3, 6],
    ]
    assert retrieval_set.captions["zh"] == ["青蛙", "猫", "鸭"]
    assert retrieval_set.pairs["zh"].tolist() == [[0, 0], [1, 1], [3, 2]]
    described = retrieval_set.describe()
    revision = described.pop("revision")
    sizes = {"images": 4, "captions": {"en": 7, "zh": 3}, "unusable_captions": {}}
    assert described == {"set": "toy", "source": "toy.parquet", "split": "test"} | sizes
    en = [*retrieval_set.captions["en"][:-1], "!!!"]
    assert (
        replace(retrieval_set, captions=retrieval_set.captions | {"en": en}).describe()["revision"]
        != revision
    )


def test_captions_without_letters_are_counted(rows):
    cells = rows.remove_columns(["en", "zh"]).add_column("en", ["a", "!!!", "", "b"])
    found = make_retrieval_set("toy", cells, {"en": "en"}, "image", "toy.parquet")
    assert found.unusable == {
        "en": 1
    } and "2 en captions, 1 en without letters left out" in retrieval_table([], [found])


def test_rows_with_one_caption_each_become_one_image_with_several(rows, retrieval_set):
    flat = [
        {"image": row["image"], "en": [text], "zh": row["zh"]} for row in rows for text in row["en"]
    ]
    columns = {"en": "en", "zh": "zh"}
    found = make_retrieval_set(
        "toy", Dataset.from_list(flat, features=FEATURES), columns, "image", "toy"
    )
    assert len(found.rows) == 4 and found.captions == retrieval_set.captions
    assert all(
        torch.equal(found.pairs[language], retrieval_set.pairs[language])
        for language in ("en", "zh")
    )


def slow_recall(scores: np.ndarray, correct: list[set[int]], k: int) -> float:
    """Sort the candidates of each query, wrong ones first among equals, and look among the first k."""
    order = [
        sorted(range(len(row)), key=lambda c: (-row[c], c in own))
        for row, own in zip(scores, correct, strict=True)
    ]
    found = [bool(own & set(best[:k])) for best, own in zip(order, correct, strict=True) if own]
    return sum(found) / len(found)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_recall_equals_an_independent_count(model, rows, retrieval_set, language):
    captions = retrieval_set.captions[language]
    images, texts = model.encode_images(rows), model.encode_texts(captions)
    found = score(
        retrieval_set, language, images, texts, model.name, (1, 2, 5), stage="aligned", seed=3
    )
    values, scores = {row.metric: row for row in found}, (images @ texts.T).numpy()
    own_texts = [
        [str(text).strip() for text in ([row["zh"]] if language == "zh" else row["en"])]
        for row in rows
    ]
    owner = [
        number
        for number, listed in enumerate(own_texts)
        for text in dict.fromkeys(listed)
        if text != "None"
    ]
    to_text = [
        {text for text in range(len(captions)) if owner[text] == image} for image in range(4)
    ]
    to_image = [{owner[text]} for text in range(len(captions))]
    for k in (1, 2):
        row = values[f"image_to_text_R@{k}"]
        assert row.value == pytest.approx(slow_recall(scores, to_text, k))
        assert row.interval == pytest.approx(wilson_interval(row.value, sum(map(bool, to_text))))
        assert values[f"text_to_image_R@{k}"].value == pytest.approx(
            slow_recall(scores.T, to_image, k)
        )
    assert ("image_to_text_R@5" in values) == (
        language == "en"
    ) and "text_to_image_R@5" not in values
    row = found[0]
    assert (row.model, row.stage, row.set, row.protocol, row.seed) == (
        model.name,
        "aligned",
        "toy",
        "retrieval",
        3,
    )
    cells = [f"{100 * row.value:.1f}" for row in found]
    table = retrieval_table(found, [retrieval_set])
    assert f"| {model.name} | toy | {language} | {' | '.join(cells)} |" in table
    assert "toy: toy.parquet test, 4 images, 7 en captions, 3 zh captions" in table


def test_an_equal_caption_of_another_image_is_a_miss(images):
    """The two images with the caption `bird` have the embeddings of each other's text."""
    rows = Dataset.from_dict(
        {"image": images[:3], "en": [["bird"], ["bird"], ["cat"]], "zh": [None] * 3},
        features=FEATURES,
    )
    toy = make_retrieval_set("toy", rows, {"en": "en"}, "image", "toy")
    encoded = torch.tensor(
        [[0.6, 0.8, 0], [1.0, 0, 0], [0, 0, 1.0]]
    )  # the second image is nearest to `bird`
    texts = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    found = {row.metric: row.value for row in score(toy, "en", encoded, texts, "m", (1, 2))}
    assert found["text_to_image_R@1"] == 2 / 3
    assert found["image_to_text_R@1"] == 1 / 3  # equal captions tie
    assert found["text_to_image_R@2"] == found["image_to_text_R@2"] == 1


def test_interval_of_text_to_image_counts_the_captions_of_an_image_as_a_group(images):
    captions = [[f"{number} {word}" for word in ("one", "two", "three")] for number in range(4)]
    rows = Dataset.from_dict(
        {"image": images[:4], "en": captions, "zh": [None] * 4}, features=FEATURES
    )
    toy = make_retrieval_set("toy", rows, {"en": "en"}, "image", "toy")
    texts = torch.eye(4)[
        [0, 0, 0, 1, 1, 1, 3, 3, 3, 2, 2, 2]
    ]  # all captions of the last two images are wrong
    found = {row.metric: row for row in score(toy, "en", torch.eye(4), texts, "m", ks=(1,))}
    assert found["text_to_image_R@1"].value == found["image_to_text_R@1"].value == 0.5
    assert found["text_to_image_R@1"].interval == pytest.approx(wilson_interval(0.5, 4))
    assert found["image_to_text_R@1"].interval == pytest.approx(wilson_interval(0.5, 4))


@pytest.mark.parametrize("max_similarities", [1, 20, 100, 10**6])
def test_ranks_in_chunks_equal_those_of_the_whole_matrix(max_similarities):
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (
        F.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (23, 40)
    )
    drawn = torch.randint(40, (23, 3), generator=generator)
    pairs = torch.stack([torch.arange(23).repeat_interleave(3), drawn.flatten()], 1)[
        torch.randperm(69)
    ]
    assert torch.equal(
        ranks(queries, candidates, pairs, max_similarities),
        right_ranks(queries @ candidates.T, pairs),
    )


def test_queries_without_a_correct_candidate_are_left_out():
    queries = torch.eye(4)
    found = ranks(queries, queries, torch.tensor([[3, 3], [1, 0]]))
    # for query 1, all others rank before the correct candidate or tie with it; query 3 ranks its own first
    assert found.tolist() == [3, 0]


def test_retrieval_alone_is_measured_and_described(
    corpus, teacher_folder, altclip_folder, tmp_path, capsys, monkeypatch
):
    loaded: list[weakref.ref] = []
    load = DualEncoder.from_pretrained

    def note(name, **options):
        assert not any(model() for model in loaded)  # large models may not fit in memory together
        model = load(name, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(DualEncoder, "from_pretrained", note)
    place = str(corpus / "unseen_style.parquet")
    arguments = [
        "--model",
        str(teacher_folder),
        "--retrieval",
        f"drawings={place}",
        "--output_dir",
        str(tmp_path),
    ]
    first = eval_script.main([*arguments, "--text_model", str(altclip_folder)])
    names = {str(teacher_folder), f"{teacher_folder} images, {altclip_folder} texts"}
    assert {row.model for row in first.rows} == names | {
        f"{altclip_folder} images, {teacher_folder} texts"
    }
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["meta"]
    described = open_retrieval_set("drawings", place).describe()
    assert written["retrieval"] == [
        described | {"source": "unseen_style.parquet"}
    ]  # without the folders of its path
    assert {model["name"]: model["texts"]["max_length"] for model in written["models"]}[
        teacher_folder.name
    ] == 32
    assert [model["name"] for model in written["models"]] == [
        teacher_folder.name,
        altclip_folder.name,
    ]
    assert (
        len(eval_results(Results.read(tmp_path / "results.json"))) == 8
    )  # R@1 and R@5 of the first model
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (
        "| model | set | language | image to text R@1 |" in table
        and table.strip() in capsys.readouterr().out
    )
    again = eval_script.main(arguments)
    assert again.rows == [row for row in first.rows if row.model == str(teacher_folder)]
    models = [
        "--model",
        str(teacher_folder),
        str(altclip_folder),
        "--text_model",
        str(teacher_folder),
    ]
    eval_script.main([*models, *arguments[2:]])
    assert len(loaded) == 6


@pytest.mark.parametrize(
    "is_rotated", [False, True], ids=["student of its space", "rotated student"]
)
def test_a_student_is_compared_with_a_rotated_teacher(is_rotated, corpus, processor, tmp_path):
    def save(model, name):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    rotations = torch.linalg.qr(
        torch.randn(2, PROJECTION_DIM, PROJECTION_DIM, generator=torch.Generator())
    ).Q
    teacher = make_model(VIT, seed=7, teacher="its own teacher")
    rotate(teacher, rotations[0])
    student = make_model(VIT, seed=7, teacher=str(tmp_path / "teacher"))
    weights = {name: value for name, value in teacher.state_dict().items() if name != "rotation"}
    student.load_state_dict(weights)  # it has learned all of its teacher
    if is_rotated:
        rotate(student, rotations[1])
    names = [save(teacher, "teacher"), save(student, "student")]
    for model, text_model in (names, names[::-1]):
        arguments = [
            "--model",
            model,
            "--text_model",
            text_model,
            "--output_dir",
            str(tmp_path / "out"),
        ]
        rows = eval_script.main(
            [*arguments, "--retrieval", f"drawings={corpus / 'unseen_style.parquet'}"]
        ).rows
        values = [
            [row.value for row in rows if row.model == name]
            for name in dict.fromkeys(r.model for r in rows)
        ]
        assert len(values) == 3 and values[0] == values[1] == values[2] and max(values[0]) > 0


def test_truncated_embeddings_have_unit_length():
    whole = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    leading = Embeddings("m", "m", None, None, {"set": whole}).truncated(4)
    torch.testing.assert_close(leading.tensors["set"], F.normalize(whole[:, :4], dim=1))
    with pytest.raises(ValueError, match="widths: 8 is more than the 4 dimensions"):
        leading.truncated(8)


@pytest.mark.parametrize("num_captions", [2, 97])
def test_captions_with_the_same_embedding_tie_and_miss(num_captions):
    """Every image has one caption, all captions have the same embedding: nothing is found, in both directions."""
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(num_captions, 513, generator=generator), dim=1)
    texts = F.normalize(torch.randn(1, 513, generator=generator), dim=1).expand(num_captions, -1)
    pairs = torch.arange(num_captions)[:, None].expand(-1, 2)
    assert ranks(images, texts, pairs).tolist() == [num_captions - 1] * num_captions
    assert ranks(texts, texts, pairs).tolist() == [num_captions - 1] * num_captions


def test_truncated_captions_are_counted_in_the_result(images, teacher_folder, tmp_path):
    rows = Dataset.from_dict(
        {"image": images[:2], "caption": ["frog " * 40, "cat"]},
        features=Features({"image": ImageFeature(), "caption": Value("string")}),
    )
    rows.to_parquet(tmp_path / "pairs.parquet")
    arguments = [
        "--model",
        str(teacher_folder),
        "--retrieval",
        f"pairs={tmp_path / 'pairs.parquet'}",
    ]
    results = eval_script.main(
        [*arguments, "--caption_columns.en", "caption", "--output_dir", str(tmp_path)]
    )
    assert results.meta["models"][0]["texts_cut"] == {"pairs, en": 1}
