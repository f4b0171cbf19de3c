"""Words in photographs: which are read, what finds them, and that a search puts them first."""

import os
import sqlite3
import time
from contextlib import closing

import pytest

from modeling_dcclip.search import command
from modeling_dcclip.search import texts as texts_module
from modeling_dcclip.search.query import Filter
from modeling_dcclip.search.serve import SearchServer
from modeling_dcclip.search.texts import NAME, TextReader, Texts, _written, candidates
from tests.local_server import client_of
from tests.search.conftest import names

# a package that reads a text in every image, and ends its process for a white one
READER = """
class RapidOCR:
    def __init__(self, params):
        pass
    def __call__(self, image):
        if image.mean() > 250:
            raise SystemExit
        return type("Result", (), {"txts": ("Total: 45.00", "北京大学 %d" % image[0, 0, 2])})
"""


@pytest.fixture
def texts(index):
    with closing(Texts(index.folder)) as texts:
        yield texts


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("北京大学", True),
        ("学", True),
        ("北大", False),
        ("total 45.00", True),
        ("ＴＯＴＡＬ 北京", True),
        ("tot", False),
        ('"', False),
    ],
)
def test_all_words_of_a_query_are_found(texts, query, is_found):
    texts.add(b"/a.png", "1", "Total: 45.00\n北京大学")
    assert texts.find(query) == ([(b"/a.png", "1")] if is_found else [])


def test_a_text_takes_the_place_of_an_earlier_one(texts):
    texts.add(b"/a.png", "1", "old")
    texts.add(b"/a.png", "2", "new")
    assert not texts.find("old")
    assert texts.find("new") == [(b"/a.png", "2")]
    assert texts.has(b"/a.png", "2")
    assert not texts.has(b"/a.png", "1")
    assert len(texts) == 1


def test_a_damaged_file_is_begun_again(tmp_path):
    (tmp_path / NAME).write_bytes(b"no database" * 1000)
    with closing(Texts(tmp_path)) as texts:
        assert len(texts) == 0


def test_damage_that_a_query_finds_begins_the_file_again(index, texts):
    texts.add(b"/a.png", "1", "old " * 9000)
    texts.close()
    content = (index.folder / NAME).read_bytes()
    half = len(content) // 2
    (index.folder / NAME).write_bytes(content[:4096] + b"\1" * half + content[half + 4096 :])
    assert _written(index, "old", Filter()) == []
    with closing(Texts(index.folder)) as again:
        again.add(b"/a.png", "1", "new")
        assert again.find("new")


def test_the_texts_of_files_that_left_the_index_leave_the_disk(written, photos, texts):
    texts.add(b"/elsewhere.png", "1", "secret")
    assert b"secret" in (written.folder / NAME).read_bytes()
    texts.remove_missing(written.catalog)
    assert len(texts) == 1
    assert texts.find("red")
    assert b"secret" not in (written.folder / NAME).read_bytes()


def test_the_words_of_a_folder_are_forgotten_with_it(written, photos, texts, capsys):
    command.main(["index", "--index", str(written.folder), "--forget", str(photos)])
    assert len(texts) == 0


def test_photographs_elsewhere_do_not_hide_those_of_a_filter(written, texts, monkeypatch):
    monkeypatch.setattr(texts_module, "MOST", 1)
    state = written.catalog.file_at(os.fsencode(written.newest()[0].path)).state
    texts.add(b"/elsewhere.png", "1", "red")
    texts.add(state.path, state.version, "red red red")
    assert len(_written(written, "red", Filter())) == 1
    assert names(_written(written, "red", Filter(path="blue"))) == ["blue.jpg"]


@pytest.fixture
def readable(calibrated, monkeypatch, tmp_path):
    """An index whose photographs all look as if they had text, and a package that reads them."""
    package = tmp_path / "packages" / "rapidocr.py"
    package.parent.mkdir()
    package.write_text(READER)
    # an empty part would be the current folder
    parts = filter(None, [str(package.parent), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(parts))
    monkeypatch.setattr(texts_module, "LINE", -100)
    monkeypatch.setattr(texts_module, "CHECK_S", 0.01)
    return calibrated


def test_photographs_are_read_while_nothing_else_happens(readable, texts, tmp_path, monkeypatch):
    (tmp_path / "PIL.py").write_text("raise SystemExit")  # in the current folder
    monkeypatch.chdir(tmp_path)
    with TextReader(readable, lambda: False):
        deadline = time.monotonic() + 60
        while len(texts) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
    found = names(_written(readable, "北京大学 0", Filter()))
    assert sorted(found) == ["blue.jpg", "green.png"]
    # the white one ended the process, and is not tried again
    assert candidates(readable, texts) == []


def test_no_photograph_leaves_the_index_while_candidates_are_chosen(readable, texts, monkeypatch):
    def delete_one(rows):
        (path,) = readable.folder.glob("catalog-*.sqlite")
        with closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("DELETE FROM files")
            other.commit()

    monkeypatch.setattr(readable.store, "read", delete_one)
    with pytest.raises(OSError, match="locked"):
        candidates(readable, texts)


def test_nothing_is_read_while_something_else_happens(readable, texts):
    with TextReader(readable, lambda: True):
        time.sleep(0.2)
    assert len(texts) == 0


@pytest.fixture
def written(calibrated, photos, texts):
    """An index whose blue photograph shows the word red."""
    state = calibrated.catalog.file_at(os.fsencode(photos / "a" / "blue.jpg")).state
    texts.add(state.path, state.version, "red")
    return calibrated


def test_a_photograph_with_the_words_comes_first_on_the_page(written):
    with SearchServer(written, port=0) as server, client_of(server) as client:
        answer = client.get("/search?q=red").json()
    assert [hit["name"] for hit in answer["hits"]][:2] == ["blue.jpg", "red.jpg"]
    assert answer["fits"] == 2
    assert len(answer["hits"]) == 5


def test_the_words_of_a_file_that_has_changed_are_forgotten(written, photos):
    os.utime(photos / "a" / "blue.jpg", (1, 1))
    written.add()
    assert _written(written, "red", Filter()) == []


def test_status_tells_how_many_photographs_were_read(written, capsys):
    command.main(["status", "--index", str(written.folder)])
    assert "searched for text: 1\n" in capsys.readouterr().out
