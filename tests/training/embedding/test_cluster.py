"""`training/embed.py --ray` and `Embedder` in Ray Data: a real cluster of two nodes, one of which is killed."""

import socket
import threading
import time
from contextlib import suppress

import psutil
import pyarrow.parquet as pq
import pytest
from datasets import Image

from tests.training.data.shards import read_samples, write_shards
from tests.training.embedding.test_embed import STREAMED, arguments_of, embed_into, rows_of
from training import embed
from training.embedding.embedder import Embedder

ray = pytest.importorskip("ray", reason='pip install -e ".[ray]"')
pytestmark = pytest.mark.stress

KILLS = 10  # nodes that end, each in a run of its own
SHARDS = 50


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default others on the machine go first
    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    yield cluster
    cluster.shutdown()


@pytest.mark.parametrize("number", range(1, 1 + 4 * KILLS, 4))
def test_a_collection_is_complete_although_a_node_ends(
    cluster, train_rows, color_model, tmp_path, number
):
    """The node ends in the middle of a shard, when at least `number` shards are written."""
    samples = 4 * read_samples(train_rows, 150)
    tars = write_shards(tmp_path / "tars", samples, SHARDS)
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    embed_into(tmp_path / "one", color_model, tars, *STREAMED)
    shards = tmp_path / "two" / "shards"
    left = []

    def end_the_node():
        while len([*shards.glob("*.parquet")]) < number or not writes_in(shards, node):
            time.sleep(0.002)
        cluster.remove_node(node, allow_graceful=False)
        left.append(SHARDS - len([*shards.glob("*.parquet")]))

    ending = threading.Thread(target=end_the_node, daemon=True)
    ending.start()
    embed_into(tmp_path / "two", color_model, tars, *STREAMED, "--ray", cluster.address)
    ending.join(60)
    assert left[0] > 0
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")


def writes_in(folder, node):
    """Whether a process of a node has a file of this folder open."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    files = []
    for worker in raylet.children():
        with suppress(psutil.Error):
            files += worker.open_files()
    return any(file.path.startswith(str(folder)) for file in files)


def test_a_node_without_the_model_is_named(cluster, train_rows, tmp_path, refusal):
    tars = write_shards(tmp_path / "tars", read_samples(train_rows, 4), 1)
    arguments = arguments_of(tmp_path / "out", tmp_path / "missing", tars, *STREAMED)
    arguments += ["--format=parquet", f"--ray={cluster.address}"]
    assert f"on the node {socket.gethostname()}" in refusal(embed.main, *arguments)


def test_batches_of_ray_data_are_embedded_as_in_one_process(
    cluster, train_rows, color_model, tmp_path
):
    ray.init(address=cluster.address, log_to_driver=False)
    undecoded = train_rows.select(range(20)).cast_column("image", Image(decode=False))["image"]
    cells = [{"name": str(row), "image": cell["bytes"]} for row, cell in enumerate(undecoded)]
    cells.append({"name": "damaged", "image": b"no"})
    arguments = (str(color_model), "image", "name")
    rows = ray.data.from_items(cells, override_num_blocks=4)
    embedded = rows.map_batches(
        Embedder, fn_constructor_args=arguments, batch_size=4, concurrency=2
    )
    embedded.write_parquet(str(tmp_path / "shards"))
    ray.shutdown()
    found = pq.read_table(tmp_path / "shards").sort_by("name")
    whole = Embedder(*arguments)({name: [row[name] for row in cells] for name in cells[0]})
    assert found.to_pylist() == whole.sort_by("name").to_pylist()
