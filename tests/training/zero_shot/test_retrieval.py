import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from training.data import load_source
from training.metrics import right_ranks, wilson_interval
from training.zero_shot.models import ZeroShotModel
from training.zero_shot.retrieval import PairSet, measure, ranks

FEATURES = Features({"image": ImageFeature(), "en": List(Value("string")), "zh": Value("string")})


@pytest.fixture(scope="module")
def model(teacher_folder) -> ZeroShotModel:
    return ZeroShotModel.from_pretrained(teacher_folder)


@pytest.fixture(scope="module")
def rows(pictures) -> Dataset:
    """Four pictures with several English captions, one of which two pictures share, and one Chinese or none."""
    en = [["frog", "a green frog"], ["cat", " cat "], ["owl", "bird"], ["duck", "bird"]]
    return Dataset.from_dict({"image": pictures[:4], "en": en, "zh": ["青蛙", "猫", None, "鸭"]}, features=FEATURES)


@pytest.fixture(scope="module")
def pair_set(rows) -> PairSet:
    return PairSet.of(rows, "toy", {"en": "en", "zh": "zh"}, source="toy.parquet", split="test")


def test_captions_belong_to_their_pictures(pair_set):
    assert pair_set.captions["en"] == ["frog", "a green frog", "cat", "owl", "bird", "duck", "bird"]
    pairs = {tuple(pair) for pair in pair_set.pairs["en"].tolist()}
    shared = {(2, 4), (2, 6), (3, 4), (3, 6)}
    assert pairs == {(0, 0), (0, 1), (1, 2), (2, 3), (3, 5)} | shared
    assert pair_set.captions["zh"] == ["青蛙", "猫", "鸭"]
    assert pair_set.pairs["zh"].tolist() == [
        [0, 0],
        [1, 1],
        [3, 2],
    ]
    told = {"source": "toy.parquet", "split": "test", "pictures": 4, "captions": {"en": 7, "zh": 3}}
    assert pair_set.describe() == told


def test_a_row_a_caption_is_one_picture_with_several(rows, pair_set):
    flat = [{"image": row["image"], "en": [text], "zh": row["zh"]} for row in rows for text in row["en"]]
    found = PairSet.of(Dataset.from_list(flat, features=FEATURES), "toy", {"en": "en", "zh": "zh"})
    assert len(found.pictures) == 4 and found.captions == pair_set.captions
    assert all(torch.equal(found.pairs[language], pair_set.pairs[language]) for language in ("en", "zh"))


def test_recall_equals_one_counted_by_hand(model, rows, pair_set):
    found, told = measure(model, pair_set, ks=(1, 2, 5), stage="aligned", seed=3)
    values = {(row.language, row.metric): row for row in found}
    for language in ("en", "zh"):
        captions = pair_set.captions[language]
        scores = model.encode_pictures(rows) @ model.encode_texts(captions).T
        own = [[row["en"] if language == "en" else [row["zh"]]][0] for row in rows]
        asked = [number for number in range(4) if own[number] != [None]]
        for k in (1, 2):
            tops = scores.topk(k, dim=1).indices.tolist()
            hits = [any(captions[c] in [str(t).strip() for t in own[p]] for c in tops[p]) for p in asked]
            row = values[language, f"image_to_text_R@{k}"]
            assert row.value == pytest.approx(sum(hits) / len(asked))
            assert row.interval == pytest.approx(wilson_interval(row.value, len(asked)))
            tops = scores.T.topk(k, dim=1).indices.tolist()
            right = [[str(text).strip() for text in texts] for texts in own]
            hits = [any(captions[c] in right[p] for p in tops[c]) for c in range(len(captions))]
            assert values[language, f"text_to_image_R@{k}"].value == pytest.approx(sum(hits) / len(captions))
    assert ("en", "image_to_text_R@5") in values and ("en", "text_to_image_R@5") not in values
    row = found[0]
    assert (row.model, row.stage, row.set, row.protocol, row.seed) == (model.name, "aligned", "toy", "retrieval", 3)
    assert told == {"max_text_length": 32, "captions_cut": {"en": 0, "zh": 0}}


@pytest.mark.parametrize("at_once", [1, 20, 100, 10**6])
def test_ranks_in_parts_are_those_of_the_whole_matrix(at_once):
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (F.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (23, 40))
    drawn = torch.randint(40, (23, 3), generator=generator)
    pairs = torch.stack([torch.arange(23).repeat_interleave(3), drawn.flatten()], 1)[torch.randperm(69)]
    assert torch.equal(ranks(queries, candidates, pairs, at_once), right_ranks(queries @ candidates.T, pairs))


def test_queries_without_an_answer_are_not_asked():
    queries = torch.eye(4)
    found = ranks(queries, queries, torch.tensor([[3, 3], [1, 0]]))
    assert found.tolist() == [3, 0]  # of query 1, all others stand before or beside; query 3 finds its own


def test_one_model_can_see_and_another_read(model, pair_set, altclip_folder):
    other = ZeroShotModel.from_pretrained(altclip_folder)
    crossed, told = measure(model, pair_set, text_model=other)
    assert crossed[0].model == f"{model.name} pictures, {other.name} texts"
    assert told["max_text_length"] == other.texts.max_length


def test_embedded_corpus_is_searched_in_both_languages(model, corpus):
    rows = load_source(str(corpus / "unseen_style.parquet"))
    found, _ = measure(model, PairSet.of(rows, "unseen_style", {"en": "en", "zh": "zh"}))
    by_metric = {(row.language, row.metric): row.value for row in found}
    for language in ("en", "zh"):
        for way in ("image_to_text", "text_to_image"):
            values = [by_metric[language, f"{way}_R@{k}"] for k in (1, 5) if (language, f"{way}_R@{k}") in by_metric]
            assert values == sorted(values)


# bad input


def test_missing_column_is_refused(rows):
    with pytest.raises(ValueError, match=r"'toy' has no column 'fr'.*--caption_columns"):
        PairSet.of(rows, "toy", {"fr": "fr"})


def test_language_without_captions_is_refused(rows):
    with pytest.raises(ValueError, match=r"retrieval: 'toy' has no zh caption in column 'zh'"):
        PairSet.of(rows.select([2]), "toy", {"zh": "zh"})
