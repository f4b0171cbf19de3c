import json
import sys
import tarfile
from io import BytesIO

import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from datasets import Dataset
from torch.utils.data import DataLoader

from training.data import load_source
from training.evaluation.classify import class_embeddings
from training.evaluation.clip_benchmark import load_dcclip, main, register
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


def test_command_of_clip_benchmark_runs_with_our_model(teacher_folder, rows, class_names, tmp_path, monkeypatch):
    names = class_names.in_language("zh")
    write_shards(tmp_path / "data", rows, class_names.label_ids(rows["label"]).tolist(), names, TEMPLATES["zh"])
    arguments = ["eval", "--model_type", "dcclip", "--model", str(teacher_folder), "--pretrained", "local", "--no_amp"]
    arguments += ["--dataset", "wds/drawings", "--dataset_root", str(tmp_path / "data"), "--num_workers", "0"]
    arguments += ["--quiet", "--task", "zeroshot_classification", "--output", str(tmp_path / "peer.json")]
    monkeypatch.setattr(sys, "argv", ["clip_benchmark_model", *arguments])
    main()
    peer = json.loads((tmp_path / "peer.json").read_text(encoding="utf-8"))["metrics"]
    model = ZeroShotModel.from_pretrained(teacher_folder)
    templates = [template.replace("{c}", "{}") for template in TEMPLATES["zh"]]
    scores = model.encode_images(rows) @ class_embeddings(model, names, templates).T
    assert peer["acc5"] == top_k_accuracy(scores, class_names.label_ids(rows["label"]), 5)


def write_shards(folder, rows, labels: list[int], names: list[str], templates: list[str]) -> None:
    """The file format of clip-benchmark: a tar of images and labels, with class names and templates beside it."""
    (folder / "test").mkdir(parents=True)
    (folder / "test/nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(names), encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates), encoding="utf-8")
    with tarfile.open(folder / "test/0.tar", "w") as tar:
        for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
            image = BytesIO()
            row["image"].convert("RGB").save(image, "PNG")
            for ending, content in (("png", image.getvalue()), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{number:06}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, BytesIO(content))
