"""Targets that are computed at every step, with a stand-in for the teacher."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from training.teachers import Targets, targets
from training.teachers.targets import CPU_CHUNK, LiveTargets, TargetSpec, encode_bank, resample_map

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Echo:
    """Returns its input: the mean of the pixels, and the token ids with their sum."""

    image_size = 16
    image_processor = SimpleNamespace(image_mean=MEAN, image_std=STD)

    def __init__(self):
        self.lengths = []

    def image_targets(self, pixels: torch.Tensor) -> Targets:
        self.pixels = pixels
        return Targets(F.avg_pool2d(pixels, 4), pixels.mean((2, 3)))

    def text_targets(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Targets:
        self.lengths.append(input_ids.shape[1])
        states = (input_ids * attention_mask).float()[:, :, None]
        return Targets(states, states.sum(1))


def test_images_are_resized_and_normalized_for_the_teacher():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    teacher = Echo()
    found = LiveTargets(teacher, TargetSpec(("vision",), grid=(2, 2))).images(images, {})
    resized = F.interpolate(images, (16, 16), mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = (resized / 255 - mean) / std
    torch.testing.assert_close(teacher.pixels, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.embedding, expected.mean((2, 3)))
    assert found.feature_map.shape == (2, 3, 2, 2)
    assert LiveTargets(teacher, TargetSpec(("vision",))).images(images, {}).feature_map is None


@pytest.mark.parametrize("field", ["", "teacher_"])
def test_texts_are_encoded_by_length_and_returned_in_order(field):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 12, (2 * CPU_CHUNK + 3,), generator=generator)
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.randint(1, 100, mask.shape, generator=generator)
    batch = {
        "input_ids": torch.zeros_like(ids),
        "attention_mask": mask,
        f"{field}input_ids": ids * mask,
    }
    batch |= {f"{field}attention_mask": mask, f"{field}lengths": lengths}
    teacher = Echo()
    found = LiveTargets(teacher, TargetSpec(("text",), token_maps=True)).texts(batch)
    assert torch.equal(found.embedding[:, 0], (ids * mask).sum(1).float())
    assert torch.equal(found.feature_map[:, :, 0], (ids * mask).float())
    ordered = lengths.sort().values
    assert teacher.lengths == [
        int(ordered[stop - 1]) for stop in (CPU_CHUNK, 2 * CPU_CHUNK, len(lengths))
    ]
    assert LiveTargets(teacher, TargetSpec(("text",))).texts(batch).feature_map is None


def test_evenly_spaced_texts_of_a_large_bank_are_encoded(monkeypatch, teacher):
    monkeypatch.setattr(targets, "MAX_BANK", 3)
    texts = ["owl", "frog", "a red apple", "ship", "青蛙", "dog", "a cat on a table"]
    assert torch.equal(encode_bank(teacher, texts), teacher.encode_texts(texts[::3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_are_resampled_with_antialiasing(dtype):
    feature_map = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    halved = resample_map(feature_map.to(dtype), (4, 4))
    mean = feature_map.to(dtype).float().mean((2, 3), keepdim=True).to(dtype)
    assert torch.equal(resample_map(feature_map.to(dtype), (1, 1)), mean)
    assert halved.dtype == dtype and resample_map(halved, [4, 4]) is halved
    spot = torch.zeros(1, 1, 8, 8, dtype=dtype)
    spot[..., 3, 3] = 1
    found = resample_map(spot, (4, 4))[0, 0].float()  # a triangle of 4 pixels: 1/8, 3/8, 3/8, 1/8
    torch.testing.assert_close(found[1, 1:3], torch.tensor([9 / 64, 3 / 64]), rtol=0, atol=1e-2)
    torch.testing.assert_close(resample_map(torch.ones(1, 1, 8, 8), (3, 5)), torch.ones(1, 1, 3, 5))
