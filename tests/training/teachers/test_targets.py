"""Banks of texts, and feature maps on the grid of a student."""

import numpy as np
import torch

from training.teachers import targets
from training.teachers.targets import encode_bank, resample_map


def test_evenly_spaced_texts_of_a_large_bank_are_encoded(monkeypatch, teacher):
    monkeypatch.setattr(targets, "MAX_BANK", 3)
    texts = ["owl", "frog", "a red apple", "ship", "青蛙", "dog", "a cat on a table"]
    assert np.array_equal(encode_bank(teacher, texts), teacher.encode_texts(texts[::3]))


def test_maps_are_resampled_with_antialiasing():
    spot = torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16)
    spot[..., 3, 3] = 1
    found = resample_map(spot, (4, 4))  # a triangle of 4 pixels: 1/8, 3/8, 3/8, 1/8
    assert found.dtype == torch.bfloat16
    expected = torch.tensor([9 / 64, 3 / 64])
    torch.testing.assert_close(found[0, 0, 1, 1:3].float(), expected, rtol=0, atol=1e-2)
