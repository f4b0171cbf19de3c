import weakref

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from modeling_dcclip.runtime_dcclip import Lineage
from tests.tiny import PROJECTION_DIM, VIT, make_model
from training import eval as eval_script
from training.engine.rotation import rotate
from training.evaluation.encoder import Embeddings
from training.evaluation.metrics import wilson_interval
from training.evaluation.retrieval import (
    make_retrieval_set,
    measure,
    open_retrieval_set,
    ranks,
    score,
)
from training.hub.cards.metadata import eval_results
from training.teachers import DualEncoder
from training.teachers.lineage import digest_folder
from training.utils.results import Results

pytestmark = pytest.mark.slow

FEATURES = Features({"image": ImageFeature(), "en": List(Value("string")), "zh": Value("string")})


@pytest.fixture(scope="module")
def rows(images):
    """Four images with several English captions, one of which two images share, and one Chinese or none."""
    cells = {
        "image": images[:4],
        "en": [["frog", "a green frog"], ["cat", " cat "], ["owl", "bird"], ["duck", "bird"]],
        "zh": ["青蛙", "猫", None, "鸭"],
    }
    return Dataset.from_dict(cells, features=FEATURES)


@pytest.fixture(scope="module")
def retrieval_set(rows):
    return make_retrieval_set("toy", rows, {"en": "en", "zh": "zh"}, "image", "toy.parquet", "test")


def english_set(images, captions):
    """A set of images with lists of English captions."""
    images = images[: len(captions)]
    cells = {"image": images, "en": captions, "zh": [None] * len(images)}
    rows = Dataset.from_dict(cells, features=FEATURES)
    return make_retrieval_set("toy", rows, {"en": "en"}, "image", "toy")


def test_captions_are_paired_with_their_images(retrieval_set):
    english = ["frog", "a green frog", "cat", "owl", "bird", "duck", "bird"]
    assert retrieval_set.captions == {"en": english, "zh": ["青蛙", "猫", "鸭"]}
    images = [0, 0, 1, 2, 2, 3, 3]
    assert retrieval_set.pairs["en"].T.tolist() == [images, [*range(7)]]
    assert retrieval_set.pairs["zh"].tolist() == [[0, 0], [1, 1], [3, 2]]


def test_a_model_is_measured_in_every_language(retrieval_set, teacher):
    found = measure(teacher, retrieval_set, "toy teacher", ks=(1,), seed=4)
    images = torch.from_numpy(teacher.encode_images(retrieval_set.rows["image"]))
    expected = []
    for language, captions in retrieval_set.captions.items():
        texts = torch.from_numpy(teacher.encode_texts(captions))
        expected += score(retrieval_set, language, images, texts, "toy teacher", (1,), 4)
    assert found == expected
    assert {(row.model, row.seed, row.language) for row in found} == {
        ("toy teacher", 4, "en"),
        ("toy teacher", 4, "zh"),
    }


def test_captions_without_letters_are_counted(rows):
    cells = rows.remove_columns(["en", "zh"]).add_column("en", ["a", "!!!", "", "b"])
    found = make_retrieval_set("toy", cells, {"en": "en"}, "image", "toy.parquet")
    assert found.unusable == {"en": 1}


def test_rows_with_one_caption_each_become_one_image_with_several(rows, retrieval_set):
    flat = [row | {"en": [text]} for row in rows for text in row["en"]]
    flat = Dataset.from_list(flat, features=FEATURES)
    found = make_retrieval_set("toy", flat, {"en": "en", "zh": "zh"}, "image", "toy")
    assert len(found.rows) == 4
    assert found.captions == retrieval_set.captions
    for language, pairs in retrieval_set.pairs.items():
        assert torch.equal(found.pairs[language], pairs)


def test_an_equal_caption_of_another_image_is_a_miss(images):
    """The two images with the caption `bird` have the embeddings of each other's text."""
    toy = english_set(images, [["bird"], ["bird"], ["cat"]])
    # the second image is nearest to `bird`
    encoded = torch.tensor([[0.6, 0.8, 0], [1.0, 0, 0], [0, 0, 1.0]])
    texts = torch.eye(3)[[0, 0, 2]]
    found = {row.metric: row.value for row in score(toy, "en", encoded, texts, "m", (1, 2))}
    assert found == {
        "text_to_image_R@1": 2 / 3,
        "image_to_text_R@1": 1 / 3,  # equal captions tie
        "text_to_image_R@2": 1,
        "image_to_text_R@2": 1,
    }


def test_interval_of_text_to_image_counts_the_captions_of_an_image_as_a_group(images):
    captions = [[f"{number} {word}" for word in ("one", "two", "three")] for number in range(4)]
    toy = english_set(images, captions)
    # all captions of the last two images are wrong
    texts = torch.eye(4)[[0, 0, 0, 1, 1, 1, 3, 3, 3, 2, 2, 2]]
    for row in score(toy, "en", torch.eye(4), texts, "m", ks=(1,)):
        assert row.value == 0.5
        assert row.interval == pytest.approx(wilson_interval(0.5, 4))


@pytest.mark.parametrize("max_similarities", [1, 10**6])
def test_ranks_equal_an_independent_count_in_chunks_of_any_size(max_similarities):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(-1, 2, (23, 5), generator=generator).float()  # many ties
    candidates = torch.randint(-1, 2, (40, 5), generator=generator).float()
    is_right = torch.rand(23, 40, generator=generator) < 0.1
    expected = []
    for row, right in zip(queries @ candidates.T, is_right, strict=True):
        if right.any():
            expected.append((row[~right] >= row[right].max()).sum().item())
    found = ranks(queries, candidates, is_right.nonzero(), max_similarities)
    assert found.tolist() == expected


def test_two_models_are_measured_alone_and_combined(
    corpus, teacher_folder, altclip_folder, tmp_path, monkeypatch
):
    """A model is loaded when no other is in memory, because large ones may not fit together."""
    photos = corpus / "unseen_style.parquet"
    loaded = []
    load = DualEncoder.from_pretrained

    def note(name, **options):
        assert not any(model() for model in loaded)
        model = load(name, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(DualEncoder, "from_pretrained", note)
    arguments = ["--model", str(teacher_folder), "--text_model", str(altclip_folder)]
    arguments += ["--retrieval", f"drawings={photos}", "--output_dir", str(tmp_path)]
    results = eval_script.main(arguments)
    assert {row.model for row in results.rows} == {
        str(teacher_folder),
        f"{teacher_folder} images, {altclip_folder} texts",
        f"{altclip_folder} images, {teacher_folder} texts",
    }
    written = Results.read(tmp_path / "results.json")
    described = open_retrieval_set("drawings", str(photos)).describe()
    # without the folders of its path
    assert written.meta["retrieval"] == [described | {"source": photos.name}]
    names = [model["name"] for model in written.meta["models"]]
    assert names == [teacher_folder.name, altclip_folder.name]
    assert len(eval_results(written)) == 8  # R@1 and R@5 of the first model


def test_queries_without_a_correct_candidate_are_left_out():
    queries = torch.eye(4)
    found = ranks(queries, queries, torch.tensor([[3, 3], [1, 0]]))
    # for query 1, all others rank before the correct candidate or tie with it; query 3 ranks its own first
    assert found.tolist() == [3, 0]


def test_a_rotated_student_is_compared_with_a_rotated_teacher(corpus, processor, tmp_path):
    rotations = torch.linalg.qr(torch.randn(2, PROJECTION_DIM, PROJECTION_DIM)).Q
    teacher = make_model(VIT, seed=7, teacher="its own teacher")
    rotate(teacher, rotations[0])
    student = make_model(VIT, seed=7, teacher=str(tmp_path / "teacher"))
    weights = {name: value for name, value in teacher.state_dict().items() if name != "rotation"}
    student.load_state_dict(weights)  # it has learned all of its teacher
    rotate(student, rotations[1])
    for model, name in ((teacher, "teacher"), (student, "student")):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        student.config.teacher_weights = digest_folder(str(tmp_path / "teacher"))
    options = {
        "model": tmp_path / "teacher",
        "text_model": tmp_path / "student",
        "output_dir": tmp_path / "out",
        "retrieval": f"drawings={corpus / 'unseen_style.parquet'}",
    }
    values = {}
    for row in eval_script.main([f"--{name}={value}" for name, value in options.items()]).rows:
        values.setdefault(row.model, []).append(row.value)
    first, *others = values.values()
    assert max(first) > 0
    assert others == [first, first]


def test_truncated_embeddings_have_unit_length():
    whole = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    model = Embeddings("m", Lineage("m", *[None] * 4), None, {"set": whole})
    leading = model.truncated(4)
    torch.testing.assert_close(leading.tensors["set"], F.normalize(whole[:, :4], dim=1))
    with pytest.raises(ValueError, match="widths: 8 is more than the 4 dimensions"):
        leading.truncated(8)
    with pytest.raises(ValueError, match=r"text_model: 'm' has embeddings of 8 dim.* of 4: "):
        leading.comparable_with(model)


def test_truncated_captions_are_counted_in_the_result(images, teacher_folder, tmp_path):
    cells = {"image": images[:2], "caption": ["frog " * 40, "cat"]}
    features = Features({"image": ImageFeature(), "caption": Value("string")})
    Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "pairs.parquet")
    options = {
        "model": teacher_folder,
        "retrieval": f"pairs={tmp_path / 'pairs.parquet'}",
        "caption_columns.en": "caption",
        "output_dir": tmp_path,
    }
    results = eval_script.main([f"--{name}={value}" for name, value in options.items()])
    assert results.meta["models"][0]["texts_cut"] == {"pairs, en": 1}
