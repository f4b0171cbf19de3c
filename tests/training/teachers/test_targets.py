"""Targets that are computed at every step, with a stand-in for the teacher."""

import torch

from training.teachers import Targets, targets
from training.teachers.targets import CPU_CHUNK, LiveTargets, TargetSpec, encode_bank, resample_map


class Echo:
    """Returns its input: the token ids with their sum."""

    def __init__(self):
        self.lengths = []

    def text_targets(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Targets:
        self.lengths.append(input_ids.shape[1])
        states = (input_ids * attention_mask).float()[:, :, None]
        return Targets(states, states.sum(1))


def test_texts_are_encoded_by_length_and_returned_in_order():
    lengths = torch.arange(2 * CPU_CHUNK + 3).remainder(7) + 1
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = mask * torch.arange(1, len(mask) + 1)[:, None]
    batch = {"input_ids": ids, "attention_mask": mask, "teacher_lengths": lengths}
    batch |= {"teacher_input_ids": ids, "teacher_attention_mask": mask}
    teacher = Echo()
    found = LiveTargets(teacher, TargetSpec(("text",), token_maps=True)).texts(batch)
    assert torch.equal(found.embedding[:, 0], ids.sum(1).float())
    assert torch.equal(found.feature_map[:, :, 0], ids.float())
    assert teacher.lengths == sorted(teacher.lengths) and len(teacher.lengths) == 3
    assert LiveTargets(teacher, TargetSpec(("text",))).texts(batch).feature_map is None


def test_evenly_spaced_texts_of_a_large_bank_are_encoded(monkeypatch, teacher):
    monkeypatch.setattr(targets, "MAX_BANK", 3)
    texts = ["owl", "frog", "a red apple", "ship", "青蛙", "dog", "a cat on a table"]
    assert torch.equal(encode_bank(teacher, texts), teacher.encode_texts(texts[::3]))


def test_maps_are_resampled_with_antialiasing():
    spot = torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16)
    spot[..., 3, 3] = 1
    found = resample_map(spot, (4, 4))  # a triangle of 4 pixels: 1/8, 3/8, 3/8, 1/8
    assert found.dtype == torch.bfloat16
    expected = torch.tensor([9 / 64, 3 / 64])
    torch.testing.assert_close(found[0, 0, 1, 1:3].float(), expected, rtol=0, atol=1e-2)
