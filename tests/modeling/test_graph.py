"""The graph of an index: results against a scan, vectors written later, filters, and the engine of the manifest."""

import json

import numpy as np
import pytest
from PIL import Image

from modeling_dcclip import graph_dcclip, index_dcclip
from modeling_dcclip.catalog_dcclip import Catalog
from modeling_dcclip.command import main
from modeling_dcclip.files_dcclip import FileState
from modeling_dcclip.graph_dcclip import Graph, GraphError, graph_path, remove_graph, update_graph
from modeling_dcclip.index_dcclip import Index
from modeling_dcclip.query_dcclip import QueryWarning
from modeling_dcclip.upgrade_dcclip import upgrade_index
from modeling_dcclip.vectors_dcclip import DTYPES, VectorStore
from tests.modeling.color_model import save_color_model

COUNT, DIMENSION, TOP = 6000, 64, 10


@pytest.fixture(scope="module")
def usearch():
    """Skip a test where USearch is not installed."""
    return pytest.importorskip("usearch", reason='pip install -e ".[usearch]"')


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.standard_normal((60, DIMENSION))
    vectors = centres[random.integers(60, size=COUNT)] + random.standard_normal((COUNT, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Rows:
    """A catalog and a store with vectors, without files."""

    def __init__(self, folder, vectors: np.ndarray, dtype: str = "int8"):
        self.catalog, self.store = Catalog(folder / "catalog"), VectorStore(folder / "vectors", DIMENSION, dtype)
        self.add(vectors)

    def add(self, vectors: np.ndarray) -> np.ndarray:
        contents = [(np.random.default_rng().bytes(16), None) for _ in vectors]
        with self.catalog.writing():
            rows = self.catalog.allocate(contents)
            self.store.write(rows, vectors)
            states = [FileState(digest, 1, 1) for digest, _ in contents]
            self.catalog.add_files([(state, state.path) for state in states])
        return rows

    def open(self) -> Graph:
        return Graph(graph_path(self.store, self.catalog.graph), self.store)

    def search(self, query, allowed=None):
        count = self.catalog.num_rows
        return self.open().search(query, count, TOP, allowed, self.catalog.rows_outside_graph())

    def recall(self, queries, allowed=None) -> float:
        """Share of the scan's results that the graph finds; the scores of common results are equal."""
        shares = []
        for query in queries:
            expected, scores = self.store.search(query, self.catalog.num_rows, TOP, allowed)
            found, found_scores = self.search(query, allowed)
            common, first, second = np.intersect1d(expected, found, return_indices=True)
            np.testing.assert_allclose(scores[first], found_scores[second], atol=1e-6)
            shares.append(len(common) / len(expected))
        return float(np.mean(shares))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph_finds_what_a_scan_finds(tmp_path, vectors, dtype, usearch):
    rows = Rows(tmp_path, vectors, dtype)
    assert update_graph(rows.catalog, rows.store) and not update_graph(rows.catalog, rows.store)
    allowed = np.arange(COUNT) % 3 != 0
    queries = vectors[:40]
    least = 0.95 if dtype == "binary" else 0.97  # the scan of signs misses some itself
    assert rows.recall(queries) >= least
    assert rows.recall(queries, allowed) >= least
    assert all(allowed[rows.search(query, allowed)[0]].all() for query in queries)


def test_the_graph_does_the_work_unless_a_filter_leaves_few_rows(tmp_path, vectors, usearch, monkeypatch):
    rows, scans = Rows(tmp_path, vectors), []
    update_graph(rows.catalog, rows.store)
    scan = VectorStore.search
    monkeypatch.setattr(VectorStore, "search", lambda *arguments: scans.append(1) or scan(*arguments))
    rows.search(vectors[0])
    assert not scans
    few = np.zeros(COUNT, bool)
    few[[5, 17]] = True
    assert sorted(rows.search(vectors[0], few)[0]) == [5, 17] and scans


def test_vectors_that_were_written_later_are_found(tmp_path, vectors, usearch):
    rows = Rows(tmp_path, vectors[:5000])
    update_graph(rows.catalog, rows.store)
    new = rows.add(vectors[5000:5100])
    assert rows.catalog.rows_outside_graph().tolist() == new.tolist()
    assert [rows.search(vector)[0][0] for vector in vectors[5000:5020]] == new[:20].tolist()
    assert rows.recall(vectors[4980:5020]) >= 0.97


def test_a_row_that_was_written_again_is_found_by_its_new_vector_only(tmp_path, vectors, usearch):
    rows = Rows(tmp_path, vectors[:5000])
    update_graph(rows.catalog, rows.store)
    with rows.catalog.writing():  # row 7 is free, and takes another vector
        rows.catalog._execute("DELETE FROM files WHERE row = 7")
        rows.catalog._execute("DELETE FROM contents WHERE row = 7")
        rows.catalog._execute("INSERT INTO free_rows VALUES (7)")
    assert rows.add(vectors[5500:5501]).tolist() == [7]
    assert rows.search(vectors[5500])[0][0] == 7
    found, scores = rows.search(vectors[7])
    assert scores[found == 7].sum() < 0.9


def test_many_new_vectors_make_a_new_graph(tmp_path, vectors, usearch, monkeypatch):
    monkeypatch.setattr(graph_dcclip, "MAX_OUTSIDE", 100)
    rows = Rows(tmp_path, vectors[:3000])
    update_graph(rows.catalog, rows.store)
    rows.add(vectors[3000:3200])
    assert not update_graph(rows.catalog, rows.store)  # a tenth may be outside
    rows.add(vectors[3200:4000])
    assert update_graph(rows.catalog, rows.store)
    assert not len(rows.catalog.rows_outside_graph())
    assert [path.name for path in rows.store.folder.glob("graph-*")] == ["graph-2.usearch"]
    assert rows.recall(vectors[3990:4010]) >= 0.97
    remove_graph(rows.catalog, rows.store)
    assert not list(rows.store.folder.glob("graph-*")) and rows.catalog.graph == 0
    update_graph(rows.catalog, rows.store)
    assert rows.catalog.graph == 3  # a process that has the first one open notices the change


def test_a_damaged_graph_is_an_error_that_says_how_to_build_it_again(tmp_path, vectors, usearch):
    rows = Rows(tmp_path, vectors[:3000])
    update_graph(rows.catalog, rows.store)
    path = graph_path(rows.store, 1)
    whole = path.read_bytes()
    for content in (b"", whole[:40], b"no graph" * 100):
        path.write_bytes(content)
        with pytest.raises(GraphError, match="Build it again: dcclip index --engine usearch"):
            rows.open()
    path.unlink()
    with pytest.raises(GraphError, match="missing or damaged"):
        rows.open()
    assert update_graph(rows.catalog, rows.store)
    assert rows.open().path.name == "graph-2.usearch"


def test_a_full_disk_leaves_the_index_as_it_was(index_folder, usearch, monkeypatch):
    from usearch.index import Index as USearch

    def fail(self, path):
        path.write_bytes(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(USearch, "save", fail)
    with Index.open(index_folder) as index:
        expected = index.search("red")
        with pytest.raises(OSError, match="No space left on device"):
            index.use_engine("usearch")
        assert index.engine == "scan" and index.search("red") == expected
        assert not list(index.store.folder.glob("graph-*"))


def test_an_empty_index_gets_its_graph_with_its_first_photographs(photos, color_model, usearch):
    with Index.open(photos.parent / "index", color_model, create=True) as index:
        index.use_engine("usearch")
        assert index.catalog.graph == 0 and index.search("red") == []
        index.add(photos)
        assert index.catalog.graph == 1


@pytest.fixture
def photos(tmp_path):
    """Thirty photographs of different colours."""
    random = np.random.default_rng(1)
    (tmp_path / "photos").mkdir()
    for number in range(30):
        pixels = np.repeat(np.repeat(random.integers(0, 256, (2, 2, 3), np.uint8), 8, 0), 8, 1)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def index_folder(photos, color_model):
    folder = photos.parent / "index"
    with Index.open(folder, color_model, create=True) as index:
        index.add(photos)
    return folder


def test_an_index_with_a_graph_answers_as_before(index_folder, photos, color_model, usearch, monkeypatch, capsys):
    with Index.open(index_folder) as index:
        expected = index.search("red", top=5, path="photos")
    main(["index", "--index", str(index_folder), "--engine", "usearch"])
    monkeypatch.setattr(graph_dcclip, "MAX_SHARE", 1.0)  # else so few photographs are scanned
    monkeypatch.setattr(graph_dcclip, "MIN_CANDIDATES", 15)
    monkeypatch.setattr(graph_dcclip, "CANDIDATES", 1)
    monkeypatch.setattr(VectorStore, "search", None)
    with Index.open(index_folder) as index:
        assert index.manifest["engine"] == "usearch"
        found = index.search("red", top=5, path="photos")
        assert [hit.path for hit in found] == [hit.path for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    (photos / "00.png").unlink()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(photos / "red.png")
    main(["index", "--index", str(index_folder)])
    with Index.open(index_folder) as index:  # which the graph does not have
        assert index.search("red", top=1)[0].path == str(photos / "red.png")
        assert all(hit.path != str(photos / "00.png") for hit in index.search("red", top=10))


def test_an_upgrade_keeps_the_engine_and_another_space_is_refused(index_folder, tmp_path, usearch):
    other = save_color_model(tmp_path / "other", turn=1)
    with Index.open(index_folder) as index:
        index.use_engine("usearch")
        with pytest.raises(ValueError, match="has another embedding space"):
            Index.open(index_folder, other)
        upgrade_index(index, other)
        assert index.engine == "usearch" and index.catalog.graph == 1
        assert (index.folder / "data-2" / "vectors" / "graph-1.usearch").exists()
        index.use_engine("scan")
        assert not list((index.folder / "data-2" / "vectors").glob("graph-*"))
    manifest = json.loads((index_folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["engine"] == "scan"


def test_without_usearch_an_index_is_scanned_with_a_note(index_folder, usearch, monkeypatch, capsys):
    with Index.open(index_folder) as index:
        expected = index.search("red", top=5)
        index.use_engine("usearch")
        for module in (graph_dcclip, index_dcclip):
            monkeypatch.setattr(module, "has_usearch", lambda: False)
        with pytest.warns(QueryWarning, match="all vectors are scanned"):
            assert index.search("red", top=5) == expected
        with pytest.raises(ValueError, match=r"engine: usearch is not installed.*--engine scan"):
            index.add()
    with pytest.raises(SystemExit):
        main(["index", "--index", str(index_folder), "--engine", "usearch"])
    assert "engine: usearch is not installed" in capsys.readouterr().err
    main(["index", "--index", str(index_folder), "--engine", "scan"])
    assert "30 unchanged" in capsys.readouterr().out


def test_a_missing_package_is_refused_before_anything_is_indexed(photos, tmp_path, color_model, monkeypatch, capsys):
    monkeypatch.setattr(graph_dcclip, "has_usearch", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "index",
                str(photos),
                "--index",
                str(tmp_path / "new"),
                "--model",
                str(color_model),
                "--engine",
                "usearch",
            ]
        )
    assert stopped.value.code == 2 and "engine: usearch is not installed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    with Index.open(tmp_path / "new", color_model, create=True) as index, pytest.raises(ValueError, match="no 'tree'"):
        index.use_engine("tree")
