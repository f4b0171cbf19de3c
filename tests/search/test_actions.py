"""Copies, ZIP files, the trash and its undo, and what the page tells of a file."""

import os
import sys
import zipfile

import pytest
from PIL import Image
from starlette.testclient import TestClient

from modeling_dcclip.search import actions
from modeling_dcclip.search.facts import read_facts


@pytest.fixture
def trash(tmp_path, monkeypatch):
    """The trash of a user with nothing in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in [name for name in sys.modules if name.startswith("send2trash")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "data" / "Trash"


def ids(client, *names):
    hits = {hit["name"]: hit["id"] for hit in client.get("/search").json()["hits"]}
    return [hits[name] for name in names]


def found(client):
    return {hit["name"] for hit in client.get("/search").json()["hits"]}


@pytest.mark.parametrize("as_zip", [False, True])
def test_photographs_are_copied_and_nothing_is_overwritten(client, photos, tmp_path, as_zip):
    target = tmp_path / "new" / "selection"
    (photos / "green.png").unlink()  # vanishes after it was found
    asked = {"ids": ids(client, "red.jpg", "green.png", "blue.jpg"), "folder": str(target)}
    for place in ("", " (2)"):
        answer = client.post("/copy", json=asked | {"zip": as_zip}).json()
        assert answer["number"] == 2
        assert answer["failed"] == [
            {"path": str(photos / "green.png"), "cause": "changed since it was indexed"}
        ]
        red = (photos / "red.jpg").read_bytes()
        if as_zip:
            assert answer["target"] == str(target / f"photographs{place}.zip")
            with zipfile.ZipFile(answer["target"]) as archive:
                assert archive.testzip() is None
                assert {*archive.namelist()} == {"red.jpg", "blue.jpg"}
                assert archive.read("red.jpg") == red
        else:
            copy = target / f"red{place}.jpg"
            assert copy.read_bytes() == red
            assert int(copy.stat().st_mtime) == int((photos / "red.jpg").stat().st_mtime)


@pytest.mark.parametrize(
    ("folder", "message"),
    [("selection", "is not a whole path"), ("/dev/null/selection", "cannot write to")],
)
def test_a_folder_that_cannot_be_written_is_named(client, folder, message):
    answer = client.post("/copy", json={"ids": ids(client, "red.jpg"), "folder": folder})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_a_zip_of_photographs_that_all_vanish_leaves_no_file(client, photos, tmp_path):
    chosen = ids(client, "red.jpg")
    (photos / "red.jpg").unlink()
    answer = client.post("/copy", json={"ids": chosen, "folder": str(tmp_path / "to"), "zip": True})
    assert answer.json()["number"] == 0
    assert not [*(tmp_path / "to").iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="the trash of freedesktop.org")
def test_what_goes_to_the_trash_can_be_put_back(client, photos, trash):
    before = (photos / "a" / "blue.jpg").stat()
    chosen = ids(client, "blue.jpg")
    assert client.post("/trash", json={"ids": chosen}).json() == {"moved": chosen, "failed": []}
    assert os.listdir(trash / "files") == ["blue.jpg"]
    assert not (photos / "a" / "blue.jpg").exists()
    assert "blue.jpg" not in found(client)
    assert client.get("/search").json()["total"] == 4
    assert client.post("/restore", json={"ids": chosen}).json() == {"moved": chosen, "failed": []}
    after = (photos / "a" / "blue.jpg").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "blue.jpg" in found(client)
    assert not os.listdir(trash / "info")


@pytest.mark.skipif(sys.platform != "linux", reason="the trash of freedesktop.org")
@pytest.mark.parametrize("what", ["emptied", "taken"])
def test_what_cannot_be_put_back_is_said_and_nothing_is_overwritten(client, photos, trash, what):
    chosen = ids(client, "red.jpg")
    client.post("/trash", json={"ids": chosen})
    if what == "emptied":
        (trash / "files" / "red.jpg").unlink()
    else:
        (photos / "red.jpg").write_text("new")
    answer = client.post("/restore", json={"ids": chosen}, headers={"Accept-Language": "zh-CN"})
    causes = {"emptied": "已不在回收站中", "taken": "那里现在有另一个文件"}
    assert answer.json()["failed"] == [{"path": str(photos / "red.jpg"), "cause": causes[what]}]
    if what == "taken":
        assert (photos / "red.jpg").read_text() == "new"
        assert (trash / "files" / "red.jpg").exists()


def test_a_trash_that_refuses_leaves_the_photograph(client, photos, trash):
    trash.parent.mkdir()
    trash.write_text("a file, not a folder")
    chosen = ids(client, "red.jpg")
    answer = client.post("/trash", json={"ids": chosen}).json()
    assert answer["moved"] == []
    assert answer["failed"][0]["path"] == str(photos / "red.jpg")
    assert (photos / "red.jpg").exists()
    assert "red.jpg" in found(client)


@pytest.mark.parametrize("path", ["/copy", "/trash", "/restore", "/open/1", "/reveal/1"])
def test_only_the_page_on_this_machine_acts(client, server, photos, path):
    assert client.get(path).status_code == 404
    content = {"ids": ids(client, "red.jpg"), "folder": str(photos / "to")}
    assert (
        client.post(path, json=content, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    )
    with TestClient(server, server.origin, client=("192.168.1.2", 1)) as phone:
        phone.get(server.url)  # which gives it a cookie
        assert phone.post(path, json=content, headers={"X-DCCLIP": "1"}).status_code == 403
    del client.headers["X-DCCLIP"]
    assert client.post(path, json=content).status_code == 403
    assert (photos / "red.jpg").exists()
    assert not (photos / "to").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"ids": [1]}', b'{"ids": ["../x"]}'])
def test_a_malformed_request_is_refused(client, content):
    answer = client.post("/trash", content=content)
    assert answer.status_code in (400, 404)
    assert answer.json().keys() == {"error"}


def test_a_program_that_is_missing_is_said(client, monkeypatch):
    monkeypatch.setattr(actions, "opener", lambda path: ["no-such-program", path])
    answer = client.post("/open/1")
    assert answer.status_code == 404
    assert "no program" in answer.json()["error"]


def test_duplicates_tell_what_is_freed_and_the_largest_comes_first(client, server, photos):
    with Image.open(photos / "a" / "blue.jpg") as image:
        image.resize((800, 533)).save(photos / "copy.png")
    (photos / "twin.jpg").write_bytes((photos / "red.jpg").read_bytes())
    server.index.add()
    (group,) = client.get("/duplicates").json()["groups"]
    assert {file["name"] for file in group["files"]} == {"red.jpg", "twin.jpg"}
    assert group["freed"] == group["files"][0]["bytes"] == (photos / "red.jpg").stat().st_size


def test_what_was_left_out_is_listed_by_cause(client, server, photos):
    (photos / "broken.jpg").write_bytes(b"no image")
    server.index.add()
    (cause,) = client.get("/left-out").json()["causes"]
    assert cause == {"cause": "not an image, or damaged", "paths": [str(photos / "broken.jpg")]}


@pytest.fixture
def camera(tmp_path):
    """A photograph with EXIF of a camera that was turned."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Canon", "Canon EOS R6\0", 6
    shot = exif.get_ifd(0x8769)
    shot[0x829A], shot[0x829D], shot[0x8827], shot[0x920A] = 1 / 250, 2.8, 400, 35.0
    shot[0xA434] = "RF35mm F1.8"
    place = exif.get_ifd(0x8825)
    place[1], place[2], place[3], place[4] = "N", (39.0, 54.0, 25.2), "E", (116.0, 23.0, 29.0)
    Image.new("RGB", (60, 40)).save(tmp_path / "shot.jpg", exif=exif)
    return str(tmp_path / "shot.jpg")


def test_a_file_tells_its_camera_exposure_and_place(camera):
    assert read_facts(camera) == {
        "width": 40,
        "height": 60,
        "camera": "Canon EOS R6",
        "lens": "RF35mm F1.8",
        "exposure": "1/250 s · f/2.8 · ISO 400 · 35 mm",
        "place": "39.90700° N, 116.39139° E",
    }


def test_a_file_without_exif_or_without_an_image_tells_less(photos, tmp_path):
    assert read_facts(str(photos / "red.jpg")) == {"width": 24, "height": 16}
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert read_facts(str(tmp_path / "broken.jpg")) == {}
