"""Metrics compared with the code of ELEVATER's toolkit, with slow references, and with hand-computed values."""

import multiprocessing

import numpy as np
import pytest
import torch
import vision_evaluation.evaluators as official
from torch import Tensor

from training.evaluation.metrics import (
    eleven_point_map,
    grouped_interval,
    mean_per_class_accuracy,
    recall_at_k,
    right_ranks,
    roc_auc,
    top_k_accuracy,
    wilson_interval,
)
from training.evaluation.metrics.modules import Accuracy, ElevenPointMAP, MeanPerClass, Recall, RocAuc


def report(evaluator, scores: Tensor, targets: Tensor) -> float:
    """Result of the official code; one evaluator reports one number."""
    evaluator.add_predictions(scores.numpy(), targets.numpy())
    return next(iter(evaluator.get_report().values()))


def equals(value: float):
    return pytest.approx(value, abs=1e-9)


KINDS = ["float32", "float64", "float16", "ties", "softmax", "equal"]


def make_scores(kind: str, num_samples: int, num_classes: int, generator: torch.Generator) -> Tensor:
    scores = torch.randn(num_samples, num_classes, generator=generator, dtype=torch.float64)
    return {
        "float32": scores.float(),
        "float64": scores,
        "float16": scores.half(),
        "ties": scores.round().float(),
        "softmax": (100 * scores).float().softmax(1),  # most values are exactly 0 or 1
        "equal": torch.full((num_samples, num_classes), 0.25),
    }[kind]


@pytest.fixture(params=KINDS)
def cases(request) -> list[tuple[Tensor, Tensor]]:
    """Scores and labels of many shapes: one sample, one class, absent classes, few and many samples per class."""
    generator = torch.Generator().manual_seed(KINDS.index(request.param))
    shapes = [(1, 1), (1, 4), (2, 2), (5, 8), (10, 3), (40, 6), (100, 2), (90, 12)] * 2
    return [
        (make_scores(request.param, n, c, generator), torch.randint(c, (n,), generator=generator)) for n, c in shapes
    ]


def test_accuracy_equals_the_official_code(cases):
    for scores, labels in cases:
        expected = report(official.TopKAccuracyEvaluator(1), scores, labels)
        assert top_k_accuracy(scores, labels) == equals(expected)


def test_top_k_equals_the_official_code_without_ties():
    scores = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 9
    for k in range(1, 10):
        expected = report(official.TopKAccuracyEvaluator(k), scores, labels)
        assert top_k_accuracy(scores, labels, k) == equals(expected)


def test_top_k_ranks_the_lower_index_first_among_ties(cases):
    for scores, labels in cases:
        order = [sorted(range(len(row)), key=lambda column: (-row[column], column)) for row in scores.tolist()]
        for k in {1, min(3, scores.shape[1]), scores.shape[1]}:
            expected = np.mean([label in row[:k] for row, label in zip(order, labels.tolist(), strict=True)])
            assert top_k_accuracy(scores, labels, k) == equals(expected)


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_mean_per_class_equals_the_official_code(cases):
    for scores, labels in cases:
        expected = report(official.BalancedAccuracyScoreEvaluator(), scores, labels)
        assert mean_per_class_accuracy(scores, labels) == equals(expected)


def test_mean_per_class_never_predicts_an_absent_class():
    scores = torch.tensor([[0.1, 0.2, 0.9], [0.3, 0.2, 0.9], [0.2, 0.1, 0.0]])
    labels = torch.tensor([1, 1, 0])
    assert top_k_accuracy(scores, labels) == equals(1 / 3)
    assert mean_per_class_accuracy(scores, labels) == equals((1 / 2 + 1) / 2)


def test_eleven_point_map_equals_the_official_code(cases):
    generator = torch.Generator().manual_seed(0)
    compared = 0
    for scores, _ in cases:
        for rate in (0.05, 0.3, 1.0):  # many absent classes; several labels per sample, or none; all labels
            targets = (torch.rand(scores.shape, generator=generator) < rate).long()
            if targets.any():
                expected = report(official.MeanAveragePrecisionNPointsEvaluator(11), scores, targets)
                assert eleven_point_map(scores, targets) == equals(expected)
                compared += 1
    assert compared > len(cases)


def test_eleven_point_map_reaches_every_level_of_recall():
    # ten positive samples reach each of 0.1, 0.2 ... exactly, where rounding could miss one
    for seed in range(20):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        scores, targets = order.float()[:, None] / 40, (torch.arange(40)[:, None] < 10).long()
        expected = report(official.MeanAveragePrecisionNPointsEvaluator(11), scores, targets)
        assert eleven_point_map(scores, targets) == equals(expected)


def test_eleven_point_map_equals_a_hand_computed_value():
    # correct, wrong, correct, wrong: precision 1 up to recall 0.5, then 2/3
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    assert eleven_point_map(scores, torch.tensor([[1], [0], [1], [0]])) == equals((6 * 1 + 5 * 2 / 3) / 11)
    # the correct one last: the point at recall 0 still counts 1
    assert eleven_point_map(scores, torch.tensor([[0], [0], [0], [1]])) == equals((1 + 10 / 4) / 11)


def test_roc_auc_equals_the_official_code(cases):
    compared = 0
    for scores, labels in cases:
        if scores.shape[1] == 2 and 0 < labels.sum() < len(labels):
            assert roc_auc(scores, labels) == equals(report(official.RocAucEvaluator(), scores, labels))
            compared += 1
    assert compared >= 2


def test_roc_auc_uses_the_second_column_and_counts_a_tie_half():
    second = torch.tensor([0.1, 0.4, 0.4, 0.8])
    scores = torch.stack([torch.zeros(4), second], dim=1)
    assert roc_auc(scores, torch.tensor([0, 0, 1, 1])) == equals(3.5 / 4)


def slow_recall(scores: Tensor, right: list[set[int]], k: int) -> float:
    """Sort the candidates of each query, wrong ones first among equals, and check the first k."""
    hits = 0
    for row, correct in zip(scores.tolist(), right, strict=True):
        order = sorted(range(len(row)), key=lambda candidate: (-row[candidate], candidate in correct))
        hits += bool(correct & set(order[:k]))
    return hits / len(right)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_in_both_directions_equals_a_slow_reference(kind):
    generator = torch.Generator().manual_seed(7)
    owner = torch.randint(12, (40,), generator=generator)
    owner[:12] = torch.arange(12)  # every image has a text, most have several
    pairs = torch.stack([owner, torch.arange(40)], dim=1)
    pairs = torch.cat([pairs, torch.tensor([[3, 0]]), pairs[:1]])  # a text with two images; a pair given twice
    scores = make_scores(kind, 12, 40, generator)
    to_text, to_image = [set() for _ in range(12)], [set() for _ in range(40)]
    for image, text in pairs.tolist():
        to_text[image].add(text)
        to_image[text].add(image)
    for k in (1, 5, 10, 12):
        assert recall_at_k(scores, pairs, k) == equals(slow_recall(scores, to_text, k))
        assert recall_at_k(scores.T, pairs.flip(1), k) == equals(slow_recall(scores.T, to_image, k))


def test_recall_is_zero_if_all_scores_are_equal():
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 3]])
    scores = torch.ones(2, 4)
    assert right_ranks(scores, pairs).tolist() == [2, 2]  # behind the two texts of the other image
    assert recall_at_k(scores, pairs, 2) == 0
    assert recall_at_k(scores, pairs, 3) == 1


def test_chunks_give_the_same_results_as_the_whole_matrix(monkeypatch):
    scores = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).round()
    labels = torch.arange(50) % 6
    targets = torch.nn.functional.one_hot(labels)
    pairs = torch.stack([torch.arange(50), labels], dim=1)

    def results():
        return (
            top_k_accuracy(scores, labels, 2),
            mean_per_class_accuracy(scores, labels),
            eleven_point_map(scores, targets),
            right_ranks(scores, pairs).tolist(),
            right_ranks(scores.T, pairs.flip(1)).tolist(),
        )

    whole = results()
    for size in (1, 20):  # one row per chunk; three rows, and two in the last
        monkeypatch.setattr("training.evaluation.metrics.checks.CHUNK_SIZE", size)
        assert results() == whole


SCORES = torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
LABELS = torch.tensor([1, 0, 0])
TARGETS = torch.tensor([[0, 1], [1, 0], [1, 1]])
PAIRS = torch.tensor([[0, 1], [1, 0], [2, 0]])
BY_SCORES = [
    (top_k_accuracy, LABELS),
    (mean_per_class_accuracy, LABELS),
    (eleven_point_map, TARGETS),
    (roc_auc, LABELS),
]
BY_SCORES += [(right_ranks, PAIRS)]
BY_LABELS = [top_k_accuracy, mean_per_class_accuracy, roc_auc]


@pytest.mark.parametrize(("metric", "truth"), BY_SCORES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scores_that_are_not_finite_are_reported(metric, truth, bad, dtype):
    scores = SCORES.to(dtype, copy=True)
    scores[1, 0] = bad
    with pytest.raises(ValueError, match=f"scores: row 1, column 0 is {bad}"):
        metric(scores, truth)


@pytest.mark.parametrize(("metric", "truth"), BY_SCORES)
def test_scores_without_a_sample_or_of_another_shape_are_refused(metric, truth):
    for scores in (torch.zeros(0, 2), torch.zeros(3, 0), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"scores: got shape \("):
            metric(scores, truth[:0])


@pytest.mark.parametrize("metric", BY_LABELS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"labels: got shape \(2,\), need \(3,\)"),
        (TARGETS, r"labels: got shape \(3, 2\)"),
        (torch.tensor([0, 1, 2]), r"labels: 2 is out of range 0\.\.1"),
        (torch.tensor([0, -1, 1]), r"labels: -1 is out of range 0\.\.1"),
        (torch.tensor([0.0, 1.0, 1.0]), r"labels: got torch\.float32"),
    ],
)
def test_bad_labels_are_reported(metric, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(SCORES, labels)


@pytest.mark.parametrize("k", [0, -1, 3, 1.5])
def test_a_k_out_of_range_is_reported(k):
    with pytest.raises(ValueError, match=f"k: {k} is not an integer in 1..2, as the scores have 2 classes"):
        top_k_accuracy(SCORES, LABELS, k)
    with pytest.raises(ValueError, match=f"k: {k} is not an integer in 1..2, as the scores have 2 candidates"):
        recall_at_k(SCORES, PAIRS, k)


def test_bad_targets_are_reported():
    with pytest.raises(ValueError, match=r"targets: got shape \(3,\), need that of the scores, \(3, 2\)"):
        eleven_point_map(SCORES, LABELS)
    with pytest.raises(ValueError, match="targets: got -1, need 0 or 1"):
        eleven_point_map(SCORES, 2 * TARGETS - 1)
    with pytest.raises(ValueError, match="targets: no sample has a label"):
        eleven_point_map(SCORES, 0 * TARGETS)


def test_roc_auc_needs_two_columns_and_both_labels():
    with pytest.raises(ValueError, match="scores: got 3 columns, need 2"):
        roc_auc(SCORES.T.contiguous(), LABELS[:2])
    for label in (0, 1):
        with pytest.raises(ValueError, match=f"labels: all 3 are {label}, need both"):
            roc_auc(SCORES, torch.full((3,), label))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.tensor([0, 1, 0]), r"pairs: got shape \(3,\)"),
        (PAIRS.float(), r"pairs: got shape \(3, 2\) of torch\.float32"),
        (torch.tensor([[3, 0]]), r"pairs, first column: 3 is out of range 0\.\.2, as the scores have 3 queries"),
        (torch.tensor([[0, -1]]), r"pairs, second column: -1 is out of range 0\.\.1, as the scores have 2 candidates"),
        (PAIRS[:1], r"pairs: query 1 has no correct candidate \(2 of 3 queries have none\)"),
        (PAIRS[:0], r"pairs: query 0 has no correct candidate \(3 of 3 queries have none\)"),
    ],
)
def test_bad_pairs_are_reported(pairs, message):
    with pytest.raises(ValueError, match=message):
        right_ranks(SCORES, pairs)


def make_modules() -> dict:
    """Inputs and expected result of each module."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(50, 6, generator=generator)
    labels = torch.randint(6, (50,), generator=generator)
    targets = (torch.rand(50, 6, generator=generator) < 0.3).long()
    right = [sorted({int(label), int(label) * 5 % 6}) for label in labels]  # one or two a query
    pairs = torch.tensor([[query, candidate] for query, row in enumerate(right) for candidate in row])
    recalls = {f"recall@{k}": recall_at_k(scores, pairs, k) for k in (1, 5)}
    tops = {f"top{k}": top_k_accuracy(scores, labels, k) for k in (1, 5)}
    return {
        Accuracy: (scores, labels, tops, {"ks": (1, 5)}),
        MeanPerClass: (scores, labels, {"mean_per_class": mean_per_class_accuracy(scores, labels)}, {}),
        ElevenPointMAP: (scores, targets, {"11_point_map": eleven_point_map(scores, targets)}, {}),
        RocAuc: (scores[:, :2], labels % 2, {"roc_auc": roc_auc(scores[:, :2], labels % 2)}, {}),
        Recall: (scores, right, recalls, {"ks": (1, 5)}),
    }


MODULES = make_modules()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_returns_the_result_of_its_function(module, tmp_path):
    scores, references, expected, options = MODULES[module]
    metric = module(cache_dir=str(tmp_path))
    assert metric.compute(predictions=scores, references=references, **options) == expected
    for start in range(0, 50, 17):  # again, in batches
        part = slice(start, start + 17)
        metric.add_batch(predictions=scores[part], references=references[part])
    assert metric.compute(**options) == expected


def test_a_module_is_exact_in_half_precision(tmp_path):
    scores, labels, *_ = MODULES[Accuracy]
    for dtype in (torch.float16, torch.bfloat16):
        metric = Accuracy(cache_dir=str(tmp_path))
        result = metric.compute(predictions=(scores / 50).to(dtype), references=labels)
        assert result == {"top1": top_k_accuracy((scores / 50).to(dtype), labels)}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_refuses_the_inputs_that_its_function_refuses_and_remains_usable(module, tmp_path, monkeypatch):
    # evaluate waits so many seconds for the lock of a failed call before it uses another file
    monkeypatch.setattr(module._create_cache_file, "__defaults__", (0.01,))
    scores, references, expected, options = MODULES[module]
    metric = module(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="scores: row 2, column 1 is nan"):
        broken = scores.clone()
        broken[2, 1] = float("nan")
        metric.compute(predictions=broken, references=references, **options)
    with pytest.raises(ValueError, match="scores: got shape"):
        metric.compute(predictions=[], references=[], **options)
    with pytest.raises(ValueError, match=r"predictions: rows of \[1, 2\] scores, need equal lengths"):
        metric.compute(predictions=[[0.1, 0.2], [0.3]], references=references[:2], **options)
    assert metric.compute(predictions=scores, references=references, **options) == expected


def _evaluate_a_share(module, process_id: int, folder: str, results):
    torch.set_num_threads(1)
    scores, references, _, options = MODULES[module]
    metric = module(num_process=2, process_id=process_id, experiment_id="shared", cache_dir=folder)
    share = slice(0, 31) if process_id == 0 else slice(31, 50)
    metric.add_batch(predictions=scores[share], references=references[share])
    results.put((process_id, metric.compute(**options)))


@pytest.mark.parametrize("module", MODULES)
def test_two_processes_return_the_result_of_one(module, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_evaluate_a_share, args=(module, i, str(tmp_path), results)) for i in range(2)]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(timeout=60)
    assert found == {0: MODULES[module][2], 1: None}


def test_top_k_equals_a_hand_computed_value():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.3, 0.4, 0.2], [0.9, 0.05, 0.05]])
    labels = torch.tensor([1, 2, 2, 0])  # ranks 1, 2, 3, 1
    assert [top_k_accuracy(scores, labels, k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.uint32, torch.uint64])
def test_labels_may_have_any_integer_dtype(dtype):
    scores, labels = torch.tensor([[0.1, 0.9], [0.7, 0.3], [0.4, 0.6]]), torch.tensor([1, 0, 0])
    assert top_k_accuracy(scores, labels.to(dtype), np.int64(1)) == top_k_accuracy(scores, labels)
    for metric in (mean_per_class_accuracy, roc_auc):
        assert metric(scores, labels.to(dtype)) == metric(scores, labels)


def test_wilson_interval_of_a_published_example():
    # 81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_wilson_interval_is_within_0_and_1_and_contains_the_share():
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_wilson_interval_narrows_with_more_trials():
    widths = [high - low for low, high in (wilson_interval(0.4, count) for count in (10, 100, 1000))]
    assert widths[0] > widths[1] > widths[2]


def test_grouped_interval_is_that_of_the_trials_or_of_the_groups():
    hits = torch.tensor([True, False, False, True, True, False, True, True])
    assert grouped_interval(hits, torch.arange(8)) == pytest.approx(wilson_interval(5 / 8, 8))
    assert grouped_interval(hits.repeat_interleave(5), torch.arange(8).repeat_interleave(5)) == pytest.approx(
        wilson_interval(5 / 8, 8)
    )
    assert grouped_interval(torch.ones(10, dtype=torch.bool), torch.arange(10) // 5) == wilson_interval(1.0, 2)


def test_grouped_interval_covers_the_true_share_in_19_of_20_samples():
    generator = torch.Generator().manual_seed(0)
    covered = {grouped_interval: 0, wilson_interval: 0}
    groups = torch.arange(200).repeat_interleave(5)
    for _ in range(400):  # images that are easy or hard, with five captions each; the mean share is 0.5
        chances = torch.rand(200, generator=generator)
        hits = torch.rand(1000, generator=generator) < chances[groups]
        for interval, arguments in (
            (grouped_interval, (hits, groups)),
            (wilson_interval, (hits.double().mean().item(), 1000)),
        ):
            low, high = interval(*arguments)
            covered[interval] += low <= 0.5 <= high
    assert covered[grouped_interval] / 400 == pytest.approx(0.95, abs=0.025)
    assert covered[wilson_interval] / 400 < 0.9
