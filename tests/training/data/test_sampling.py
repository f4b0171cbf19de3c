from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest

from tests.training.data.rows import sample_batches
from training.config import DataConfig
from training.data import BatchPlan, KeyedBatchSampler, sampling
from training.data.sampling import CYCLE, MixtureSchedule, data_loader, num_workers


@pytest.mark.parametrize("num_views", [0, 3])
@pytest.mark.parametrize("start", [1, 5, 11])
def test_start_at_any_step_continues_the_uninterrupted_run(num_views, start):
    whole = sample_batches(range(27), num_views=num_views, stop=12)
    resumed = sample_batches(range(27), num_views=num_views, start=start, stop=12)
    assert resumed == whole[start:]


@pytest.mark.parametrize("epoch", range(4))
def test_cached_views_take_turns_and_differ_between_the_rows_of_an_epoch(epoch):
    batches = sample_batches(range(16), num_views=3, start=2 * epoch, stop=2 * epoch + 2)
    expected = [(row, (epoch + row) % 3) for row in range(16)]
    assert sorted(chain.from_iterable(batches)) == expected


def test_weight_too_small_to_be_drawn_raises_an_error():
    with pytest.raises(ValueError, match="weight 1e-06 is less than 1/10000"):
        MixtureSchedule([1.0, 1e-6], (0,))


def test_processes_share_each_global_batch_of_a_mixture():
    rows = [np.arange(24), np.arange(24, 40)]

    def batches(size, *process):
        plan = BatchPlan(size, 0, 0, 0, 12, *process)
        return list(KeyedBatchSampler(rows, [3.0, 1.0], plan))

    shares = zip(batches(4, 0, 2), batches(4, 1, 2), strict=True)
    assert [left + right for left, right in shares] == batches(8)


def test_a_gpu_gets_decoding_processes_unless_a_number_is_given(monkeypatch):
    automatic = DataConfig(train="x")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert num_workers(automatic) == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(24)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert num_workers(automatic) == 6
    assert num_workers(DataConfig(train="x", workers=0)) == 0


def test_every_epoch_is_another_permutation_with_a_view_of_its_own():
    rows = list(range(3, 43))  # 40 rows, 5 steps an epoch
    keys = list(chain.from_iterable(sample_batches(rows, stop=10)))
    first = [row for row, view in keys[:40] if view == 0]
    second = [row for row, view in keys[40:] if view == 1]
    assert sorted(first) == sorted(second) == rows and first != second


def test_sources_are_drawn_by_their_shares_and_counted():
    schedule = MixtureSchedule([2.0, 2.0, 2.0], (0,))
    drawn = [schedule(number) for number in range(2 * CYCLE)]
    for source, share in enumerate([3334, 3333, 3333]):
        own = [count for number, count in drawn if number == source]
        assert own == list(range(2 * share))


def test_batches_that_do_not_fit_into_the_shared_memory_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sampling, "SHARED_MEMORY", tmp_path)
    usage = SimpleNamespace(free=64 * 2**20)  # a container's default
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    data_loader([], 2, 16 * 2**20)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")  # all of them share it
    data_loader([], 1, 8 * 2**20)
    needed = r"^data.workers: 1 workers of 3 processes need 96 MiB .* --shm-size"
    with pytest.raises(ValueError, match=needed):
        data_loader([], 1, 16 * 2**20)
