"""`Embedder` in Ray Data: a real local cluster of two workers."""

import pyarrow.parquet as pq
import pytest
from datasets import Image

from training.embedding.embedder import Embedder
from training.embedding.run import write_index

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason='pip install "ray[data]"')


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default others on the machine go first
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False
    )
    yield
    ray.shutdown()


def test_batches_on_two_workers_become_an_index(cluster, train_rows, color_model, tmp_path):
    cells = train_rows.select(range(24)).cast_column("image", Image(decode=False))["image"]
    rows = [{"key": f"{number:02}", "image": cell["bytes"]} for number, cell in enumerate(cells)]
    dataset = ray.data.from_items(
        [*rows, {"key": "damaged", "image": b"no"}], override_num_blocks=6
    )
    options = {"compute": ray.data.ActorPoolStrategy(size=2), "batch_size": 4, "num_cpus": 0.5}
    embedded = dataset.map_batches(
        Embedder, fn_constructor_args=(color_model, "image", "key"), **options
    )
    embedded.write_parquet(str(tmp_path / "shards"))
    shards = sorted((tmp_path / "shards").glob("*.parquet"))
    *found, damaged = sorted(
        (row for path in shards for row in pq.read_table(path).to_pylist()),
        key=lambda row: row["name"],
    )
    expected = Embedder(color_model, name_column="key")(
        {name: [row[name] for row in rows] for name in rows[0]}
    )
    assert found == expected.to_pylist() and damaged["error"] == "not an image, or damaged"
    assert write_index(shards, tmp_path / "index", color_model) == len(rows)
