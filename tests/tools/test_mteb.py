"""mteb runs a zero-shot and a retrieval task on a folder, on local data and in both languages."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Image

# scikit-learn's warning about classes that are never predicted
pytestmark = [pytest.mark.tools, pytest.mark.filterwarnings("ignore:Precision is ill-defined")]
mteb = pytest.importorskip("mteb", reason="python -m tests.tools")

from mteb.abstasks import AbsTaskRetrieval, AbsTaskZeroShotClassification  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

from modeling_dcclip import DCCLIPModel  # noqa: E402
from modeling_dcclip.integrations.mteb import model_meta  # noqa: E402

COMMON = {
    "description": "Drawings and their names.",
    "reference": "https://openmoji.org",
    "dataset": {"path": "local/drawings", "revision": "1"},
    "eval_splits": ["test"],
    "date": ("2025-01-01", "2025-12-31"),
    "domains": ["Web"],
    "license": "cc-by-sa-4.0",
    "annotations_creators": "derived",
    "dialect": [],
    "modalities": ["text", "image"],
    "sample_creation": "found",
    "bibtex_citation": "",
}
CODES = {"en": "eng-Latn", "zh": "zho-Hans"}


@pytest.fixture(scope="module")
def model(model_folder):
    return model_meta(model_folder, "me/dcclip-tiny").load_model(device="cpu")


def rows(paths: list[str], **columns) -> Dataset:
    return Dataset.from_dict({"image": paths, **columns}).cast_column("image", Image())


def run(model, task) -> dict:
    (result,) = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results
    return result.scores["test"][0]


@pytest.mark.parametrize("language", CODES)
def test_zero_shot_accuracy_is_that_of_transformers(model, expected, language):
    names = expected.texts[language]

    class Drawings(AbsTaskZeroShotClassification):
        metadata = TaskMetadata(
            name=f"DrawingsZeroShot{language.title()}",
            type="ZeroShotClassification",
            category="i2t",
            eval_langs=[CODES[language]],
            main_score="accuracy",
            task_subtypes=["Object recognition"],
            **COMMON,
        )

        def load_data(self, **options):
            self.dataset = DatasetDict({"test": rows(expected.paths, label=list(range(len(names))))})
            self.data_loaded = True

        def get_candidate_labels(self):
            return names

    predictions = (expected.images @ expected.embeddings[language].T).argmax(1)
    assert run(model, Drawings())["accuracy"] == pytest.approx((predictions == np.arange(len(names))).mean())


@pytest.mark.parametrize("language", CODES)
def test_retrieval_recall_is_that_of_transformers(model, expected, language):
    names = expected.texts[language]
    ids = [f"{number:02}" for number in range(len(names))]

    class Drawings(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Drawings{language.title()}T2IRetrieval",
            type="Any2AnyRetrieval",
            category="t2i",
            eval_langs=[CODES[language]],
            main_score="recall_at_10",
            task_subtypes=["Image Text Retrieval"],
            **COMMON,
        )

        def load_data(self, **options):
            split = {
                "corpus": rows(expected.paths, id=ids),
                "queries": Dataset.from_dict({"id": ids, "text": names}),
                "relevant_docs": {name: {name: 1} for name in ids},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    scores = expected.embeddings[language] @ expected.images.T
    ranks = (scores > np.diag(scores)[:, None]).sum(1)
    assert run(model, Drawings())["recall_at_10"] == pytest.approx((ranks < 10).mean(), abs=1e-4)


def test_the_rotation_of_the_space_is_no_parameter(model_folder, tmp_path):
    DCCLIPModel.from_pretrained(model_folder, rotation="0" * 16).save_pretrained(tmp_path)
    assert model_meta(tmp_path, "me/dcclip").n_parameters == model_meta(model_folder, "me/dcclip").n_parameters


def test_metadata_describes_the_folder(model_folder):
    meta = model_meta(model_folder, "me/dcclip-tiny")
    model = DCCLIPModel.from_pretrained(model_folder)
    assert meta.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert meta.embed_dim == model.config.projection_dim and meta.max_tokens == model.config.max_text_length
    assert set(meta.languages) == set(CODES.values()) and set(meta.modalities) == {"image", "text"}
