"""Images that rows name by path or URL: refused by default."""

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Image

from training.config import DataConfig
from training.data import PairDataset, load_source, require_allowed
from training.data.reader import PATH_REFUSED, URL_REFUSED


@pytest.fixture
def table(tmp_path, images):
    """Function that writes a parquet file with an image of its own and one that it names, and returns its name."""
    images[0].save(tmp_path / "outside.png")

    def write(path):
        own = {"bytes": (tmp_path / "outside.png").read_bytes(), "path": None}
        rows = Dataset.from_dict({"image": [own, {"bytes": None, "path": path}]})
        rows = rows.cast_column("image", Image(decode=False))
        # `datasets` would copy the file into the table
        pq.write_table(rows.with_format("arrow")[:], tmp_path / "a.parquet")
        return str(tmp_path / "a.parquet")

    return write


def test_a_file_outside_the_data_is_refused_with_its_row_unless_allowed(table, tmp_path):
    source = table(str(tmp_path / "outside.png"))
    rows = load_source(source)
    with pytest.raises(ValueError, match=f"row 1 of .*: {PATH_REFUSED}"):
        require_allowed(rows, source, "image")
    assert len(require_allowed(rows, source, "image", allow_paths=True)) == 2


def test_training_reads_no_file_outside_its_data_by_default(table, tmp_path):
    config = DataConfig(train=table(str(tmp_path / "outside.png")))
    dataset = PairDataset([load_source(str(config.train))], config, None, 8)
    own, other = dataset.load_images([0, 1])
    assert isinstance(own, torch.Tensor)
    assert other == PATH_REFUSED


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "simplecache::file:///etc/hostname"])
def test_a_url_is_refused_even_if_paths_are_allowed(table, url):
    source = table(url)
    with pytest.raises(ValueError, match=f"row 1 of .*: {URL_REFUSED}"):
        require_allowed(load_source(source), source, "image", allow_paths=True)


def test_a_column_without_images_is_refused():
    rows = Dataset.from_dict({"image": [[0.5, 0.5]]})
    with pytest.raises(ValueError, match=r"holds .*not encoded images"):
        require_allowed(rows, "x.parquet", "image")
