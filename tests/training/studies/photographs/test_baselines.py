"""Baselines on frozen towers, with a tower of random weights and a sentence encoder of two words."""

import timm
import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL import Image

from training.demo.photo_teacher.lite2 import Lite2
from training.evaluation.embedding_cache import CachedEncoder, EmbeddingCache, find_processes
from training.evaluation.options import EvalOptions
from training.evaluation.plan import EvalPlan
from training.evaluation.runner import Outcome, Runner
from training.studies.photographs.frozen import FrozenTowers, Towers
from training.studies.photographs.heads import Both, Captions, Conse, train_heads


def make_lite2():
    torch.manual_seed(0)
    tower = timm.create_model("tf_efficientnet_lite2", num_classes=0).state_dict()
    return Lite2(tower, torch.randn(1000, 1280), torch.zeros(1000))


def encode(texts):
    """Embed a text by its first character."""
    return torch.stack([F.one_hot(torch.tensor(ord(text[0]) % 512), 512).float() for text in texts])


def test_conse_weighs_the_names_by_the_probabilities():
    lite2 = Lite2({}, torch.eye(1000, 1280) * 50, torch.zeros(1000))
    names = torch.randn(1000, 512)
    pooled = torch.eye(1280)[[3, 999]]
    torch.testing.assert_close(Conse(lite2, names)(pooled), names[[3, 999]], atol=1e-4, rtol=0)


def test_similarities_of_both_are_the_mean_of_each():
    a, b, c, d = (torch.nn.Linear(8, 4) for _ in range(4))
    features = torch.randn(5, 8)
    images, texts = Both(a, b)(features), Both(c, d)(features)
    first, second = (F.cosine_similarity(x(features), y(features)) for x, y in ((a, c), (b, d)))
    torch.testing.assert_close(F.cosine_similarity(images, texts), (first + second) / 2)


def test_heads_learn_to_find_the_captions():
    pooled = F.one_hot(torch.arange(8), 1280).float() * 8
    captions = {language: Captions.of([[chr(65 + n)] for n in range(8)], encode) for language in ("en", "zh")}
    heads = train_heads(pooled, captions, seed=1)
    with torch.no_grad():
        similarities = (
            F.normalize(heads.image(pooled), dim=-1) @ F.normalize(heads.text(captions["en"].embeddings), dim=-1).T
        )
    assert similarities.argmax(1).tolist() == list(range(8))
    again = train_heads(pooled, captions, seed=1)
    assert all(torch.equal(old, new) for old, new in zip(heads.parameters(), again.parameters(), strict=True))


def test_captions_are_drawn_of_the_right_image():
    captions = Captions.of([["a", "b", "c"], ["d"], ["b", "e"]], encode)
    images = torch.tensor([2, 0, 1] * 20)
    rows = captions.draw(images, torch.Generator().manual_seed(0))
    assert {(image, row) for image, row in zip(images.tolist(), rows.tolist(), strict=True)} == {
        (0, 0), (0, 1), (0, 2), (1, 3), (2, 4), (2, 5),
    }  # fmt: skip
    assert captions.ids.tolist() == [0, 1, 2, 3, 1, 4]


def test_a_baseline_is_evaluated_like_any_model(tmp_path):
    images = [Image.effect_noise((40, 40), 60).convert("RGB") for _ in range(3)]
    Dataset.from_dict({"image": images, "en": [["cat"], ["dog"], ["fox"]]}).to_parquet(tmp_path / "pairs.parquet")
    plan = EvalPlan.open(EvalOptions(model=["x"], output_dir="out", retrieval=[f"mine={tmp_path}/pairs.parquet"]))
    towers = Towers(make_lite2(), encode)
    pooled = towers.pooled(plan.retrieval_sets[0].rows)
    head = torch.linalg.lstsq(pooled, encode(["cat", "dog", "fox"])).solution
    model = FrozenTowers(towers, name="linear", image_head=lambda features: features @ head)
    encoder = CachedEncoder(model, EmbeddingCache(tmp_path / "cache", find_processes()))
    rows = Runner(plan, encoder.cache, seed=4).measure(encoder, encoder, Outcome())
    assert {(row.model, row.seed, row.value) for row in rows if row.metric == "text_to_image_R@1"} == {
        ("linear", 4, 1.0)
    }
