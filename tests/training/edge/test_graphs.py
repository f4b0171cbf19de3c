import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from modeling_dcclip import DCCLIPModel
from tests.tiny import make_model
from training.edge.graphs import trace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def student(exported) -> DCCLIPModel:
    return DCCLIPModel.from_pretrained(exported).eval()


@pytest.fixture(scope="module")
def sessions(exported) -> dict[str, onnxruntime.InferenceSession]:
    return {
        name: onnxruntime.InferenceSession(exported / "onnx" / f"{name}.onnx")
        for name in ("vision_model", "text_model", "model")
    }


@pytest.mark.parametrize(("batch_size", "length"), [(1, 1), (1, 32), (2, 9), (5, 32)])
def test_text_graph_accepts_any_batch_size_and_length(student, sessions, batch_size, length):
    generator = torch.Generator().manual_seed(length)
    input_ids = torch.randint(5, 500, (batch_size, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if batch_size > 1:
        input_ids[1, length // 2 :], attention_mask[1, length // 2 :] = 1, 0
    with torch.no_grad():
        expected = F.normalize(student.get_text_features(input_ids, attention_mask).pooler_output, dim=-1)
    inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
    (embeddings,) = sessions["text_model"].run(["text_embeds"], inputs)
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_image_graph_accepts_any_batch_size(student, sessions, inputs, batch_size):
    pixel_values = inputs["pixel_values"][:batch_size]
    with torch.no_grad():
        expected = F.normalize(student.get_image_features(pixel_values).pooler_output, dim=-1)
    (embeddings,) = sessions["vision_model"].run(["image_embeds"], {"pixel_values": pixel_values.numpy()})
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-5)


def test_padding_does_not_change_embeddings(sessions, inputs):
    session = sessions["text_model"]
    arrays = {name: inputs[name].numpy() for name in ("input_ids", "attention_mask")}
    (batched,) = session.run(None, arrays)
    for row, mask in enumerate(arrays["attention_mask"]):
        single = {name: values[row : row + 1, : mask.sum()] for name, values in arrays.items()}
        np.testing.assert_allclose(session.run(None, single)[0][0], batched[row], atol=1e-5)


def test_joined_graph_gives_the_logits_of_the_package(student, sessions, inputs):
    with torch.no_grad():
        outputs = student(**inputs)
    names = [value.name for value in sessions["model"].get_outputs()]
    assert names == ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    results = sessions["model"].run(names, {name: values.numpy() for name, values in inputs.items()})
    for name, values in zip(names, results, strict=True):
        np.testing.assert_allclose(values, outputs[name].numpy(), atol=2e-4)


def test_tower_that_cannot_be_traced_is_named(student, tmp_path, monkeypatch):
    model = make_model()
    forward = model.vision_model.forward

    def data_dependent(pixel_values, **kwargs):
        return forward(pixel_values=pixel_values * (1 if pixel_values.sum() > 0 else 2), **kwargs)

    monkeypatch.setattr(model.vision_model, "forward", data_dependent)
    with pytest.raises(ValueError, match=r"vision tower 'vit' cannot be traced.*--towers text"):
        trace(model, "vision", tmp_path / "vision_model.onnx")
    assert not list(tmp_path.iterdir())


def test_graphs_have_no_local_paths(exported):
    for path in (exported / "onnx").iterdir():
        assert b".py" not in path.read_bytes()
