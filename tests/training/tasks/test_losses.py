import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from training.tasks import losses
from training.tasks.losses import (
    affinity_loss,
    bank_loss,
    class_loss,
    feature_map_loss,
    info_nce,
    positives,
    relational_loss,
    sigmoid_loss,
    text_positives,
)


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def smooth_l1(difference: float, beta: float) -> float:
    size = abs(difference)
    return size * size / (2 * beta) if size < beta else size - beta / 2


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_map_loss_equals_a_plain_loop(draw, beta):
    student, teacher = 2 * draw(2, 4, 2, 3), draw(2, 4, 2, 3)
    total, count = 0.0, 0
    for b in range(2):
        for row in range(2):
            for column in range(3):
                target = teacher[b, :, row, column].double()
                target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt()
                for channel in range(4):
                    total += smooth_l1((student[b, channel, row, column] - target[channel]).item(), beta)
                    count += 1
    assert feature_map_loss(student, teacher, beta=beta).item() == pytest.approx(total / count, rel=1e-5)


def test_bank_loss_equals_a_plain_loop(draw):
    student, teacher, bank = draw(3, 5), draw(3, 5), draw(7, 5)

    def shares(vector: torch.Tensor) -> list[float]:
        scores = [4.0 * F.cosine_similarity(vector, text, dim=0).double() for text in bank]
        total = sum(score.exp() for score in scores)
        return [(score.exp() / total).item() for score in scores]

    expected = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        expected += sum(p * math.log(p / q) for p, q in zip(shares(theirs), shares(ours), strict=True)) / 3
    assert bank_loss(student, teacher, bank, 4.0).item() == pytest.approx(expected, rel=1e-4)


def test_class_loss_equals_a_plain_loop(draw):
    student, names, logits = draw(3, 5), draw(2, 7, 5), draw(3, 7)
    expected = 0.0
    for language in names:
        for image, scores in zip(student, logits, strict=True):
            ours = torch.stack([4.0 * F.cosine_similarity(image, name, dim=0) for name in language]).softmax(0)
            theirs = scores.softmax(0)
            expected += sum(p * math.log(p / q) for p, q in zip(theirs.tolist(), ours.tolist(), strict=True)) / 6
    assert class_loss(student, names, logits, 4.0).item() == pytest.approx(expected, rel=1e-4)


def test_masked_tokens_do_not_count(draw):
    student, teacher = draw(3, 5, 4), draw(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    losses = []
    for text in range(3):
        for token in range(int(mask[text].sum())):
            target = F.layer_norm(teacher[text, token], (4,))
            losses.append(sum(smooth_l1((student[text, token, d] - target[d]).item(), 2.0) for d in range(4)) / 4)
    loss = feature_map_loss(student, teacher, mask, dim=-1)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    student[0, 3:], teacher[2, 1:] = 1e4, -1e4
    assert torch.equal(feature_map_loss(student, teacher, mask, dim=-1), loss)


def test_empty_mask_gives_zero_and_not_nan(draw):
    assert feature_map_loss(draw(1, 3, 4), draw(1, 3, 4), torch.zeros(1, 3), dim=-1).item() == 0


@pytest.mark.parametrize("width", [8, 5])
def test_relational_loss_equals_a_plain_loop_at_any_width_of_the_teacher(draw, width):
    student, teacher = draw(4, 8), draw(4, width)

    def relations(embeddings: torch.Tensor) -> list[float]:
        unit = F.normalize(embeddings, dim=1)
        distances = [(unit[i] - unit[j]).norm().item() for i in range(4) for j in range(i + 1, 4)]
        return [distance / (sum(distances) / len(distances)) for distance in distances]

    pairs = zip(relations(student), relations(teacher), strict=True)
    expected = sum(smooth_l1(ours - theirs, 1.0) for ours, theirs in pairs) / 6
    assert relational_loss(student, 3 * teacher).item() == pytest.approx(expected, rel=1e-4)
    assert relational_loss(student[:1], teacher[:1]).item() == 0


def test_positives_are_own_captions_and_equal_ones():
    # images 0 and 2 are two drawings of the same thing; image 1 has two captions, image 3 none
    owner = torch.tensor([0, 1, 1, 2])
    caption_ids = torch.tensor([5, 6, 7, 5])
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert positives(owner, caption_ids, 4).int().tolist() == expected


def test_info_nce_with_several_positives_equals_a_plain_loop(draw):
    image, text = F.normalize(draw(4, 8), dim=1), F.normalize(draw(6, 8), dim=1)
    positive = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1], [0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]]).bool()

    def one_way(logits: torch.Tensor, right: torch.Tensor) -> float:
        rows = []
        for row in range(len(logits)):
            log_total = logits[row].logsumexp(0)
            terms = [(log_total - logits[row, c]).item() for c in range(logits.shape[1]) if right[row, c]]
            if terms:
                rows.append(sum(terms) / len(terms))
        return sum(rows) / len(rows)

    logits = 9.0 * image @ text.T
    expected = (one_way(logits, positive) + one_way(logits.T, positive.T)) / 2
    assert info_nce(image, text, torch.tensor(9.0), positive).item() == pytest.approx(expected, rel=1e-5)


def test_equal_captions_are_never_negatives():
    # two drawings of the same thing, perfectly embedded: the loss is at its minimum, and the gradient is zero
    image = torch.eye(3)[[0, 0, 1]].requires_grad_()
    text = torch.eye(3)[[0, 0, 1]]
    loss = info_nce(image, text, torch.tensor(50.0), positives(torch.arange(3), torch.tensor([4, 4, 9]), 3))
    assert loss.item() == pytest.approx(2 / 3 * torch.tensor(2.0).log().item(), abs=1e-4)
    loss.backward()
    assert image.grad.abs().max() < 1e-4


def test_no_positive_at_all_gives_zero_and_not_nan(draw):
    assert info_nce(draw(2, 4), draw(3, 4), torch.tensor(1.0), torch.zeros(2, 3).bool()).item() == 0


def test_captions_of_the_same_image_match():
    # en, zh of three images; the English captions of the first two are equal, the Chinese ones are not
    positive = positives(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([5, 6, 5, 7, 8, 9]), 3)
    english, chinese = positive[:, ::2], positive[:, 1::2]
    assert text_positives(english, chinese).int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert text_positives(chinese, chinese).int().tolist() == torch.eye(3).int().tolist()


def unit(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(F.normalize(tensor, dim=1) for tensor in tensors)


POSITIVE = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]).bool()


def test_sigmoid_loss_equals_a_plain_loop(draw):
    image, text = unit(draw(4, 8), draw(5, 8))
    scale, bias = torch.tensor(7.0), torch.tensor(-3.0)
    expected = 0.0
    for row in range(4):
        for column in range(5):
            logit = 7.0 * (image[row] @ text[column]).item() - 3.0
            share = 1 / (1 + math.exp(-logit))
            expected -= math.log(share if POSITIVE[row, column] else 1 - share) / 5
    assert sigmoid_loss(image, text, scale, bias, POSITIVE).item() == pytest.approx(expected, rel=1e-5)


def test_affinity_loss_equals_a_plain_loop_at_another_width(draw):
    student, teacher = unit(draw(4, 8), draw(5, 8)), unit(draw(4, 6), draw(5, 6))

    def shares(scale: float, vector: torch.Tensor, others: torch.Tensor) -> list[float]:
        scores = [math.exp(scale * (vector @ other).item()) for other in others]
        return [score / sum(scores) for score in scores]

    expected = 0.0
    for side, other, count in ((0, 1, 4), (1, 0, 5)):
        for anchor in range(count):
            ours = shares(5.0, student[side][anchor], student[other])
            theirs = shares(9.0, teacher[side][anchor], teacher[other])
            expected += sum(p * math.log(p / q) for p, q in zip(theirs, ours, strict=True)) / count / 2
    assert affinity_loss(student, teacher, torch.tensor(5.0), 9.0).item() == pytest.approx(expected, rel=1e-4)


def test_a_batch_without_captions_of_a_language_gives_zero_and_not_nan(draw):
    image, text = unit(draw(3, 4), draw(0, 4))
    positive = torch.zeros(3, 0).bool()
    scale = torch.tensor(3.0)
    assert sigmoid_loss(image, text, scale, torch.tensor(0.0), positive).item() == 0
    assert affinity_loss((image, text), (image, text), scale, 2.0).item() == 0


# large batches

LARGE_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "info_nce": lambda student, teacher, scale, positive: info_nce(*student, scale, positive),
    "sigmoid": lambda student, teacher, scale, positive: sigmoid_loss(*student, scale, scale - 9.0, positive),
    "affinity": lambda student, teacher, scale, positive: affinity_loss(student, teacher, scale, 8.0),
    "bank": lambda student, teacher, scale, positive: bank_loss(student[0], teacher[0], student[1], 9.0),
}


@pytest.mark.parametrize("name", LARGE_LOSSES)
def test_a_large_matrix_in_slices_gives_the_same_loss_and_gradients(draw, monkeypatch, name):
    positive = draw(7, 10) > 0.5
    student, teacher = ([F.normalize(draw(n, 6), dim=-1) for n in (7, 10)] for _ in range(2))
    found, most = [], []
    for limit in (2**22, 25):
        monkeypatch.setattr(losses, "MAX_PAIRS", limit)
        leaves = [tensor.clone().requires_grad_() for tensor in student]
        scale = torch.tensor(10.0, requires_grad=True)
        kept: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor, kept=kept) -> torch.Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = LARGE_LOSSES[name](tuple(leaves), tuple(teacher), scale, positive)
        gradients = torch.autograd.grad(loss, [*leaves, scale], allow_unused=True, materialize_grads=True)
        found.append((loss, *gradients))
        most.append(max(tensor.numel() for tensor in kept))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
    assert most[0] == 70 and most[1] < 70  # saved for the backward pass: embeddings, and no matrix
