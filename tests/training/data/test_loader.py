import pytest

from tests.training.data.rows import make_cell, make_plan, make_rows
from tests.training.data.shards import assert_equal_batches
from training.data import make_loader


def test_damaged_image_is_replaced_by_the_next_row_so_that_batches_stay_full(make_dataset, images):
    cells = [make_cell(image) for image in images[:4]]
    cells[1] = {"bytes": b"broken", "path": None}
    built = make_dataset(make_rows(cells, en=["frog", "cat", "dog", "fox"]), ("en",), max_skip_share=0.5)
    loader = make_loader(built, make_plan(batch_size=1, stop=4))
    rows = [batch["rows"].item() for batch in loader]
    assert sorted(rows) == [0, 2, 2, 3]
    assert loader.skipped.causes == {1: "image does not decode"}
    assert loader.state() == {"causes": [[1, "image does not decode"]]}


def test_data_without_an_image_that_decodes_raises_an_error(make_dataset):
    built = make_dataset(make_rows([{"bytes": b"broken", "path": None}] * 2, en=["frog", "cat"]), ("en",))
    with pytest.raises(ValueError, match="no image of 'tiny' decodes"):
        list(make_loader(built, make_plan(batch_size=1, stop=1)))


def test_worker_processes_make_the_same_batches(make_dataset):
    loaded = []
    for workers in (0, 2):
        built = make_dataset(workers=workers)
        loaded.append(list(make_loader(built, make_plan(stop=3))))
    assert_equal_batches(*loaded)
