"""Baselines have the sizes of their public configs."""

import pytest
import torch

from training.experiments.studies.baselines import BASELINES, ChineseCLIPRN50


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("chinese-clip-rn50", 77.0), ("altclip", 864.2)])
def test_a_baseline_has_its_published_size(name, parameters):
    with torch.device("meta"):
        model = BASELINES[name]()
    found = sum(each.numel() for each in model.parameters()) / 1e6
    assert found == pytest.approx(parameters, abs=0.05)


@pytest.mark.slow
@torch.no_grad()
def test_a_text_is_its_first_token_and_not_its_padding():
    model = ChineseCLIPRN50().eval()
    assert model.get_image_features(torch.zeros(1, 3, 224, 224)).pooler_output.shape == (1, 1024)
    ids = torch.tensor([[101, 7, 8], [101, 7, 0]])
    texts = model.get_text_features(ids, (ids > 0).long()).pooler_output
    assert texts.shape == (2, 1024)
    alone = model.get_text_features(ids[1:, :2], torch.ones(1, 2)).pooler_output
    torch.testing.assert_close(texts[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(texts[0], texts[1], atol=1e-3)
