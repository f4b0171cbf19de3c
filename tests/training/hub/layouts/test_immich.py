"""The folder of Immich, run as Immich's server does. The server is not on PyPI, so its code path is re-created."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from tests.tiny import IMAGE_SIZE, MAX_TEXT_LENGTH, PROJECTION_DIM
from training import export
from training.hub import list_contents
from training.hub.layouts.immich import ImmichEncoder
from training.utils.results import Results

pytestmark = pytest.mark.slow

FILES = {
    "config.json",
    "textual/model.onnx",
    "textual/tokenizer.json",
    "textual/tokenizer_config.json",
    "visual/model.onnx",
    "visual/preprocess_cfg.json",
}


@pytest.fixture(scope="module")
def folder(finished, labelled, tmp_path_factory):
    """A model folder with the folder of Immich. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("immich") / "model"
    export.main([str(finished), "--output_dir", str(folder), "--format", "immich", *labelled])
    return folder


def test_the_server_ranks_as_transformers(folder):
    record = Results.read(folder / "results.json").meta["layouts"]["immich"]
    assert record["text_difference"] <= 1e-5 and record["image_cosine"] >= 0.999
    assert record["recall"] == record["expected_recall"]
    assert min(record["same_top"][language] for language in ("en", "zh")) >= 0.99


@torch.no_grad()
def test_embeddings_are_those_of_transformers_with_unit_length(folder, images, texts):
    model, processor = DCCLIPModel.from_pretrained(folder).eval(), DCCLIPProcessor.from_pretrained(folder)
    texts = [*texts, "a frog that sits on a leaf " * 20]
    inputs = processor(images=images, text=texts, return_tensors="pt", truncation=True, max_length=MAX_TEXT_LENGTH)
    encoder = ImmichEncoder(folder / "immich")
    expected = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    np.testing.assert_allclose(encoder.encode_texts(texts), F.normalize(expected, dim=-1).numpy(), atol=1e-5)
    square = [image.resize((IMAGE_SIZE, IMAGE_SIZE)) for image in images]  # nothing is resized by either side
    pixels = processor(images=square, return_tensors="pt")["pixel_values"]
    expected = F.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    found = encoder.encode_images(square)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_graphs_have_the_inputs_that_the_server_feeds(folder):
    expected = {
        "textual": ("text", "tensor(int32)", [1, MAX_TEXT_LENGTH]),
        "visual": ("image", "tensor(float)", [1, 3, IMAGE_SIZE, IMAGE_SIZE]),
    }
    for tower, (name, kind, shape) in expected.items():
        session = onnxruntime.InferenceSession(folder / "immich" / tower / "model.onnx")
        (value,) = session.get_inputs()
        assert (value.name, value.type, value.shape) == (name, kind, shape)
        assert session.get_outputs()[0].shape == [1, PROJECTION_DIM]


def test_all_files_are_written_and_published(folder):
    found = {path.relative_to(folder / "immich").as_posix() for path in (folder / "immich").rglob("*.*")}
    assert found == FILES
    assert {f"immich/{name}" for name in FILES} <= {content.path for content in list_contents(folder)}


def test_preprocessing_that_the_server_lacks_is_refused(finished, labelled, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(finished, folder)
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"size": {"shortest_edge": IMAGE_SIZE + 8}}), encoding="utf-8")
    with pytest.raises(SystemExit) as exit_info:
        export.main([str(folder), "--output_dir", str(folder), "--format", "immich", *labelled])
    assert exit_info.value.code == 2
    assert "has no counterpart in open_clip" in capsys.readouterr().err
    assert not (folder / "immich").exists()
