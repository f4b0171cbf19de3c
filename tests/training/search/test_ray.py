"""`Embedder` in Ray Data: a real local cluster of two workers, of which one is killed midway."""

import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Image

from training.search.embedder import Embedder
from training.search.run import write_index

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason='pip install "ray[data]"')

ROWS, BATCH_SIZE = 48, 4


class KilledEmbedder(Embedder):
    """Logs the batches that each worker has begun. The first worker to begin its third one is killed in it."""

    def __init__(self, model: Path, log: Path):
        super().__init__(model, name_column="key")
        self.log, self.num_batches = log, 0

    def __call__(self, batch):
        begun = self.log / f"{os.getpid()}.txt"
        with begun.open("a") as file:
            file.write("\n".join(batch["key"]) + "\n")
        self.num_batches += 1
        if self.num_batches == 3:
            try:
                (self.log / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default others on the machine go first
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_killed_worker_loses_and_doubles_nothing(cluster, train_rows, color_model, tmp_path):
    cells = train_rows.select(range(ROWS)).cast_column("image", Image(decode=False))["image"]
    rows = [{"key": f"key {number}", "image": cell["bytes"]} for number, cell in enumerate(cells)]
    (log := tmp_path / "log").mkdir()
    dataset = ray.data.from_items([*rows, {"key": "damaged", "image": b"no"}], override_num_blocks=ROWS // BATCH_SIZE)
    embedded = dataset.map_batches(
        KilledEmbedder,
        fn_constructor_args=(color_model, log),
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=BATCH_SIZE,
        num_cpus=0.5,
    )
    embedded.write_parquet(str(tmp_path / "shards"))
    assert (log / "killed").exists()
    begun = [name for path in log.glob("*.txt") for name in path.read_text().splitlines()]
    assert len(list(log.glob("*.txt"))) >= 2 and len(begun) > ROWS + 1  # another worker has done what the first began

    shards = sorted((tmp_path / "shards").glob("*.parquet"))
    found = [row for path in shards for row in pq.read_table(path).to_pylist()]
    expected = Embedder(color_model, name_column="key")({name: [row[name] for row in rows] for name in rows[0]})
    by_name = sorted(expected.to_pylist(), key=lambda row: row["name"])
    assert [row for row in sorted(found, key=lambda row: row["name"]) if row["name"] != "damaged"] == by_name
    assert [row["error"] for row in found if row["name"] == "damaged"] == ["not an image, or damaged"]
    assert write_index(shards, tmp_path / "index", color_model) == ROWS
