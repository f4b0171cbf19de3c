"""Words in photographs: which are read, what finds them, and that a search puts them first."""

import json
import os
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

from modeling_dcclip.search import command
from modeling_dcclip.search import texts as texts_module
from modeling_dcclip.search.background import command_of_main
from modeling_dcclip.search.query import Filter
from modeling_dcclip.search.serve import SearchServer
from modeling_dcclip.search.texts import TextReader, candidates, find
from modeling_dcclip.search.upgrade import upgrade_index
from tests.local_server import client_of

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


def number_read(index):
    return index.catalog.value("SELECT count(*) FROM texts")


def test_photographs_are_read_while_nothing_else_happens(readable, photos, tmp_path, monkeypatch):
    (tmp_path / "PIL.py").write_text("raise SystemExit")  # in the current folder
    monkeypatch.chdir(tmp_path)
    os.utime(photos / "red.jpg", (1, 1))  # it may have a different content now
    with TextReader(readable, lambda: False):
        deadline = time.monotonic() + 60
        while number_read(readable) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    found = readable.search("北京大学")
    assert sorted(hit.path.rpartition("/")[2] for hit in found if hit.match) == [
        "blue.jpg",
        "green.png",
        "yellow.webp",
    ]
    # the white one ended the process, and is not tried again
    assert [os.path.basename(state.path) for state in candidates(readable)] == [b"red.jpg"]


def test_a_photograph_that_cannot_be_read_ends_no_reader(readable, photos):
    (photos / "broken.png").write_bytes(b"no image")
    names = ("broken.png", "missing.png", "green.png")
    lines = "".join(json.dumps(str(photos / name)) + "\n" for name in names)
    command = command_of_main("modeling_dcclip.search.texts")
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    ready, *answers = done.stdout.splitlines()
    assert ready == "ready"
    assert [json.loads(each).partition("\n")[0] for each in answers] == ["", "", "Total: 45.00"]


def test_no_photograph_leaves_the_index_while_candidates_are_chosen(readable, monkeypatch):
    def delete_one(rows):
        (path,) = readable.folder.glob("catalog-*.sqlite")
        with closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("DELETE FROM files")
            other.commit()

    monkeypatch.setattr(readable.store, "read", delete_one)
    with pytest.raises(OSError, match="locked"):
        candidates(readable)


def test_nothing_is_read_while_something_else_happens(readable):
    with TextReader(readable, lambda: True):
        time.sleep(0.2)
    assert number_read(readable) == 0


@pytest.fixture
def written(calibrated, photos):
    """An index whose blue photograph shows the words TOTAL and red."""
    digest = calibrated.catalog.digest(os.fsencode(photos / "a" / "blue.jpg"))
    calibrated.catalog.add_texts([(digest, "TOTAL: red")])
    return calibrated


def test_photographs_with_the_words_come_first_and_are_marked(written, photos):
    with SearchServer(written, port=0) as server, client_of(server) as client:
        answer = client.get("/search?q=red").json()
    hits = answer["hits"]
    assert [(hit["name"], hit["match"], hit["words"]) for hit in hits[:2]] == [
        ("red.jpg", "name", ["red"]),
        ("blue.jpg", "text", ["red"]),
    ]
    assert hits[1]["text"] == "TOTAL: red"
    assert -1 <= hits[1]["score"] < 0.9
    assert {hit["match"] for hit in hits[2:]} == {None}
    assert answer["fits"] == 2
    # what words find changes nothing in the probabilities of the others
    others = {hit.path: hit.fit for hit in written.search("red") if hit.match is None}
    written.catalog.execute("DELETE FROM words")
    assert others.items() <= {hit.path: hit.fit for hit in written.search("red")}.items()


def test_a_text_is_found_within_a_filter_and_on_the_next_page(written):
    (hit,) = find(written, "total", chosen=Filter(path="blue"))
    assert hit.match == "text"
    (hit,) = written.search("total", top=1, skip=0)
    assert hit.match == "text"
    assert written.search("total", top=1, skip=1)[0].match is None


def test_the_text_stays_with_a_moved_photograph_and_an_upgrade(written, photos, color_model):
    (photos / "a" / "blue.jpg").rename(photos / "other.jpg")
    written.add()
    assert written.search("total")[0].match == "text"
    upgrade_index(written, color_model)
    assert written.search("total")[0].match == "text"
    (photos / "other.jpg").unlink()
    written.add()
    assert written.search("total")[0].match is None


def test_status_tells_how_many_photographs_were_read(written, capsys):
    command.main(["status", "--index", str(written.folder)])
    assert "searched for text: 1\n" in capsys.readouterr().out
