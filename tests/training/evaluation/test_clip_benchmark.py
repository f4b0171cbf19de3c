import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from datasets import Dataset
from torch.utils.data import DataLoader

from training.data import load_source
from training.evaluation.classify import class_embeddings
from training.evaluation.clip_benchmark import load_dcclip, register
from training.evaluation.metrics import top_k_accuracy
from training.evaluation.retrieval import make_retrieval_set, score
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.zero_shot_model import ZeroShotModel

# warnings of clip-benchmark about classes that are never predicted and shards that are not shuffled
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:y_pred contains"),
    pytest.mark.filterwarnings("ignore:WebDataset"),
]

TEMPLATES = {"en": ["{c}", "a drawing of {c}."], "zh": ["{c}", "一幅{c}的画。"]}


@pytest.fixture(scope="module", autouse=True)
def registered():
    register()


@pytest.fixture(scope="module")
def rows(corpus) -> Dataset:
    return load_source(str(corpus / "unseen_style.parquet"))


@pytest.fixture(scope="module")
def class_names(corpus) -> ClassNames:
    return ClassNames.read(corpus / "class_names.json")


class Classes(torch.utils.data.Dataset):
    """Samples with class names, as clip-benchmark needs them."""

    def __init__(self, samples: list, classes: list[str]):
        self.samples, self.classes = samples, classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int):
        return self.samples[number]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_classification_in_clip_benchmark_gives_our_numbers(language, teacher_folder, rows, class_names):
    names, labels = class_names.in_language(language), class_names.label_ids(rows["label"])
    model, transform, tokenizer = load_dcclip(model_name=str(teacher_folder), pretrained="", cache_dir=None)
    samples = [(transform(row["image"]), int(label)) for row, label in zip(rows, labels, strict=True)]
    loader = DataLoader(Classes(samples, names), batch_size=7)
    peer = zeroshot_classification.evaluate(model, loader, tokenizer, names, TEMPLATES[language], "cpu", amp=False)
    model = ZeroShotModel.from_pretrained(teacher_folder)
    templates = [template.replace("{c}", "{}") for template in TEMPLATES[language]]
    scores = model.encode_images(rows) @ class_embeddings(model, names, templates).T
    assert (peer["acc1"], peer["acc5"]) == (top_k_accuracy(scores, labels, 1), top_k_accuracy(scores, labels, 5))


def test_retrieval_in_clip_benchmark_gives_our_numbers(teacher_folder, rows):
    rows = rows.select(sorted({text: number for number, text in enumerate(rows["en"])}.values()))
    model, transform, tokenizer = load_dcclip(model_name=str(teacher_folder))
    samples = [(transform(row["image"]), [row["en"]]) for row in rows]
    loader = DataLoader(
        samples, batch_size=5, collate_fn=lambda batch: (torch.stack([p for p, _ in batch]), [t for _, t in batch])
    )
    peer = zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 3])
    zero_shot, pair_set = model.zero_shot, make_retrieval_set("drawings", rows, {"en": "en"}, "image", "")
    images, texts = zero_shot.encode_images(pair_set.rows), zero_shot.encode_texts(pair_set.captions["en"])
    found = {row.metric: row.value for row in score(pair_set, "en", images, texts, "model", ks=(1, 3))}
    for k in (1, 3):
        assert peer[f"image_retrieval_recall@{k}"] == pytest.approx(found[f"text_to_image_R@{k}"])
        assert peer[f"text_retrieval_recall@{k}"] == pytest.approx(found[f"image_to_text_R@{k}"])
