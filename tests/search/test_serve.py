"""The page on localhost: answers, what it refuses, and that it reads nothing but photographs of the index."""

import io
import json
import os
import socket
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from modeling_dcclip.search import command, commands, decoding, local_server, previews, serve
from modeling_dcclip.search.files import FileState
from modeling_dcclip.search.previews import Previews
from modeling_dcclip.search.serve import Indexing, SearchServer
from tests.local_server import ask, serving


@pytest.fixture
def server(index, photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    exif[0x010F] = "the camera"
    Image.new("RGB", (60, 30), (0, 255, 0)).save(photos / "rotated.jpg", exif=exif)
    index.add(photos)
    with serving(SearchServer(index, port=0)) as server:
        yield server


@pytest.fixture
def get(server):
    return partial(ask, server)


def search(get, query):
    response, body = get(f"/search?{query}")
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(body)


def found(get, query):
    return [hit["name"] for hit in search(get, query)["hits"]]


def id_of(get, name):
    return next(hit["id"] for hit in search(get, "")["hits"] if hit["name"] == name)


def test_a_query_finds_photographs(get):
    answer = search(get, "q=%E7%BA%A2")  # 红
    first = answer["hits"][0]
    assert first["name"] == "red.jpg"
    assert first["score"] == pytest.approx(1, abs=0.01)
    assert answer["total"] == 6
    assert answer["notes"] == []


@pytest.fixture
def dated(server, photos):
    """Photographs of 2020, 2023 and 2026."""
    for number, name in enumerate(("red.jpg", "green.png", "white.png")):
        os.utime(photos / name, (1_600_000_000 + 9e7 * number,) * 2)
    server.index.add()


def test_dates_in_the_query_filter_it_until_they_are_switched_off(get, dated):
    query = "q=2020%E5%B9%B4%E7%9A%84red"  # 2020年的red
    assert search(get, query)["dates"] == {"words": "2020年", "after": "2020", "before": "2020"}
    assert found(get, query) == ["red.jpg"]
    assert search(get, f"{query}&dates=off")["total"] == 6
    answer = search(get, "q=red%20before%202023")
    assert answer["dates"] == {"words": "before 2023", "before": "2022-12-31"}
    assert [hit["name"] for hit in answer["hits"]] == ["red.jpg"]


def test_results_are_sorted_by_date(get, dated):
    expected = ["white.png", "green.png", "red.jpg"]
    assert found(get, "q=red&sort=date&before=2026-09") == expected


@pytest.mark.parametrize("query", ["skip=x", "after=2023-13", "example=none", f"q={1001 * '1'}"])
def test_malformed_parameters_are_refused(get, query):
    assert get(f"/search?{query}")[0].status == 400


def test_months_count_what_the_timeline_shows(get, dated):
    months = json.loads(get("/months?before=2024")[1])
    assert months == [["2023-07", 1], ["2020-09", 1]]


PAGE = {"X_DCCLIP": "1"}  # the header that the page sends


@pytest.fixture
def opened(monkeypatch):
    """Paths that the file manager has shown."""
    paths = []
    monkeypatch.setattr(serve, "_file_manager", lambda path: paths.append(path) or ["true"])
    return paths


def test_the_page_opens_the_folder_of_a_photograph(get, photos, opened):
    assert get(f"/open/{id_of(get, 'blue.jpg')}", "POST", **PAGE)[0].status == 200
    assert opened == [str(photos / "a" / "blue.jpg")]
    assert get("/open/99", "POST", **PAGE)[0].status == 404


def test_only_the_page_on_this_machine_opens_a_folder(get, server, opened):
    path = f"/open/{id_of(get, 'blue.jpg')}"
    assert get(path, "POST")[0].status == 403
    assert get(path, "POST", **PAGE, Sec_Fetch_Site="cross-site")[0].status == 403
    server.host = "192.168.1.2"
    assert get(path, "POST", **PAGE)[0].status == 403
    assert not opened


@pytest.mark.parametrize("kind", ["thumbnail", "photo"])
def test_images_are_upright_jpeg_files_without_metadata(get, kind):
    response, body = get(f"/{kind}/{id_of(get, 'rotated.jpg')}")
    assert response.status == 200
    assert response.headers["Content-Type"] == "image/jpeg"
    image = Image.open(io.BytesIO(body))
    assert image.size == (30, 60)
    assert not image.getexif()
    assert b"camera" not in body


def test_every_answer_has_the_security_headers(get):
    for path in ("/", "/page.js", "/search?q=red", "/thumbnail/1", "/none"):
        headers = get(path)[0].headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_other_host_names_are_refused(get, server):
    port = server.server_address[1]
    for host in (f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", ""):
        assert get("/search?q=red", Host=host)[0].status == 403


def test_addresses_of_this_machine_are_accepted(get, server):
    port = server.server_address[1]
    for host in ("LOCALHOST", "[::1]", f"192.168.1.2:{port}"):
        assert get("/search?q=red", Host=host)[0].status == 200


def test_an_answer_with_its_version_is_kept_by_the_browser(get):
    hit = search(get, "q=red")["hits"][0]
    address = f"/thumbnail/{hit['id']}"
    response, _ = get(f"{address}?version={hit['version']}")
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert get(address)[0].headers["Cache-Control"] == "no-store"


def test_a_number_that_another_file_has_now_shows_nothing(get):
    """A page that is open has the numbers of an earlier state of the index."""
    first, second, *_ = search(get, "q=red")["hits"]
    assert get(f"/thumbnail/{first['id']}?version={second['version']}")[0].status == 404


@pytest.mark.parametrize("path", ["/photo/../../etc/passwd", "/photo/-1", "//etc/passwd"])
def test_nothing_but_photographs_of_the_index_can_be_read(get, path):
    response, body = get(path)
    assert response.status == 404
    assert set(json.loads(body)) == {"error"}


def test_a_file_that_was_replaced_is_not_shown(get, photos, tmp_path, paint):
    address = f"/photo/{id_of(get, 'red.jpg')}"
    (photos / "red.jpg").unlink()
    assert get(address)[0].status == 404
    (photos / "red.jpg").symlink_to(paint(tmp_path / "private" / "secret.jpg", "white", width=99))
    response, body = get(address)
    assert response.status == 404
    assert b"changed since it was indexed" in body


def test_what_takes_too_much_memory_is_not_shown(get, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    response, body = get("/thumbnail/3")
    assert response.status == 404
    assert b"too many pixels" in body


def test_what_takes_the_memory_of_48_megapixels_of_heic_is_shown(get, monkeypatch):
    monkeypatch.setattr(decoding, "PLAIN_BYTES", 439_000_000 // (24 * 16))
    assert get(f"/thumbnail/{id_of(get, 'red.jpg')}")[0].status == 200


def test_a_tile_has_the_shape_of_its_photograph_before_it_has_a_thumbnail(get, server, photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # Pillow turns a TIFF itself
    Image.new("RGB", (60, 30)).save(photos / "rotated.tif", exif=exif)
    server.index.add()
    hits = {hit["name"]: hit for hit in search(get, "")["hits"]}
    assert hits["rotated.tif"]["ratio"] == hits["rotated.jpg"]["ratio"] == 0.5


def test_the_second_look_decodes_nothing(get, monkeypatch):
    first = get("/thumbnail/3")[1]
    monkeypatch.setattr(previews, "make_thumbnail", None)
    assert get("/thumbnail/3")[1] == first


def test_the_oldest_previews_leave_a_full_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(previews, "MAX_BYTES", 250)
    (tmp_path / "00").mkdir()
    for number in range(4):
        path = tmp_path / "00" / f"{number}.jpg"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 + number,) * 2)
    Previews(tmp_path).close()
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["2.jpg", "3.jpg"]


def test_previews_are_kept_with_other_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert previews.cache_folder() == tmp_path / "dcclip" / "previews"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert previews.cache_folder() == tmp_path / ".cache" / "dcclip" / "previews"


def test_previews_are_for_this_user_alone(tmp_path):
    Previews(tmp_path / "previews").close()
    assert (tmp_path / "previews").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def video(server, photos):
    """Address of a video with its content, which is not decoded."""
    path, catalog = photos / "clip.mp4", server.index.catalog
    path.write_bytes(bytes(range(256)) * 40)
    red = catalog.digest(os.fsencode(photos / "red.jpg"))
    with catalog.writing():
        catalog.add_files([(FileState.of(os.fsencode(path), path.stat()), red)])
    return f"/video/{catalog.file_at(os.fsencode(path)).id}", path.read_bytes()


def test_a_part_of_a_video_is_sent(get, video):
    address, content = video
    response, body = get(address, Range="bytes=100-199")
    assert response.status == 206
    assert body == content[100:200]
    assert response.headers["Content-Range"] == f"bytes 100-199/{len(content)}"
    assert response.headers["Content-Type"] == "video/mp4"


def test_the_rest_of_a_video_is_sent_in_parts(get, video, monkeypatch):
    address, content = video
    monkeypatch.setattr(serve, "RANGE_BYTES", 1000)
    assert get(address, Range="bytes=500-")[1] == content[500:1500]


def test_a_wrong_range_of_a_video_is_refused(get, video):
    assert get(video[0], Range="bytes=99999999-")[0].status == 416


@pytest.fixture
def upload(get, photos):
    """Function that sends an example image."""
    return partial(get, "/example", "POST", (photos / "a" / "blue.jpg").read_bytes(), X_DCCLIP="1")


def test_an_example_image_is_searched_with(get, upload):
    name = json.loads(upload()[1])["name"]
    assert found(get, f"example={name}")[0] == "blue.jpg"
    assert get(f"/example/{name}")[0].headers["Content-Type"] == "image/jpeg"


def test_an_example_image_waits_for_memory(upload):
    sending = Thread(target=upload)
    with decoding.MEMORY.scope():
        decoding.MEMORY.take(decoding.MAX_BYTES)
        sending.start()
        sending.join(0.3)
        assert sending.is_alive()
    sending.join()


def test_bodies_in_flight_have_a_limit(upload, monkeypatch):
    monkeypatch.setattr(local_server, "MAX_IN_FLIGHT", 10)
    assert upload()[0].status == 503


def test_a_long_address_is_refused_before_it_is_parsed(get):
    assert get("/search?q=" + "1" * 60_000)[0].status == 414


def test_a_request_that_comes_slowly_is_ended_and_holds_up_no_other(get, server, monkeypatch):
    monkeypatch.setattr(local_server, "REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", server.server_address[1]), 30) as slow:
        slow.sendall(b"GET /search?q=red HTTP/1.0\r\n")
        assert get("/search?q=red")[0].status == 200
        assert slow.recv(100) == b""


def test_the_state_of_the_indexing_is_told(get, server, photos, paint):
    paint(photos / "new.png", "blue", width=80)
    with Indexing(server.index, [], None, lambda report, files: None) as server.indexing:
        server.indexing.join()
    state = json.loads(get("/status")[1])
    fields = {"running", "done", "total", "seconds_left", "error", "left_out", "files"}
    assert state.keys() == fields
    assert state["files"] == 7
    assert state["done"] == state["total"] == 1
    assert not state["running"]


def test_an_indexing_that_fails_says_why(index, tmp_path, capsys):
    with Indexing(index, [tmp_path / "none"], None, lambda report, files: None) as indexing:
        indexing.join()
    assert "is not a folder" in indexing.state()["error"]
    assert "is not a folder" in capsys.readouterr().err


@pytest.fixture
def serve_index(index, monkeypatch):
    """Function that runs `dcclip serve` on an index up to where it waits for requests."""
    monkeypatch.setattr(SearchServer, "serve_forever", lambda server: None)

    def run(*options):
        command.main(["serve", "--index", str(index.folder), *options])

    return run


@pytest.fixture
def taken_port():
    """A port that another program listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_the_command_warns_of_an_address_that_others_reach(serve_index, capsys):
    serve_index("--port", "0", "--host", "0.0.0.0")
    assert "everyone who reaches this address sees the photographs" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error(serve_index, taken_port, capsys):
    with pytest.raises(SystemExit):
        serve_index("--port", str(taken_port))
    assert "port: cannot listen on 127.0.0.1:" in capsys.readouterr().err


def test_the_next_free_port_is_taken_and_named(serve_index, taken_port, monkeypatch, capsys):
    monkeypatch.setattr(commands, "PORT", taken_port)
    serve_index()
    assert f"port {taken_port} is taken, so the page is at port " in capsys.readouterr().err
