"""Batches on a device and values of all processes, in a run with one process."""

import torch

from training.tasks.spread import HOST_FIELDS, batches_on, gather, gather_on_host, gather_sizes


def test_ids_and_lengths_of_a_batch_stay_on_the_host():
    names = ["images", "input_ids", *HOST_FIELDS]
    batch = {name: torch.zeros(2) for name in names}
    [moved] = batches_on([batch], torch.device("meta"))
    on_host = {name for name, tensor in moved.items() if tensor.device.type == "cpu"}
    assert moved.keys() == batch.keys() and on_host == {*HOST_FIELDS}


def test_one_process_has_the_values_of_all():
    tensor = torch.rand(3, 2)
    assert gather(tensor, [3]) is tensor
    assert gather_on_host("a") == ["a"]
    sizes = gather_sizes({"images": tensor, "scale": torch.tensor(1.0)})
    assert sizes == {"images": [3], "scale": [0]}
