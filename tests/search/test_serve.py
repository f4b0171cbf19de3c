"""The page on localhost: answers, what it refuses, and that it reads nothing but photographs of the index."""

import io
import json
import os
import re
import socket
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from modeling_dcclip.search import command, commands
from modeling_dcclip.search.index.hubs import BANK_FILE, write_bank
from modeling_dcclip.search.index.index import Index, may_fit
from modeling_dcclip.search.photos import decoding, previews
from modeling_dcclip.search.photos.files import FileState
from modeling_dcclip.search.photos.previews import Previews
from modeling_dcclip.search.serve import local_server
from modeling_dcclip.search.serve.page_server import Indexing, SearchServer
from tests.local_server import client_of, serving


@pytest.fixture
def server(index, photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    exif[0x010F] = "the camera"
    Image.new("RGB", (60, 30), (0, 255, 0)).save(photos / "rotated.jpg", exif=exif)
    index.add(photos)
    with SearchServer(index, port=0) as server:
        yield server


@pytest.fixture
def get(client):
    return client.get


def search(get, query):
    response = get(f"/search?{query}")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    return response.json()


def found(get, query):
    return [hit["name"] for hit in search(get, query)["hits"]]


def id_of(get, name):
    return next(hit["id"] for hit in search(get, "")["hits"] if hit["name"] == name)


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
    assert get(f"/search?{query}").status_code == 400


def test_months_count_what_the_timeline_shows(get, dated):
    months = get("/months?before=2024").json()
    assert months == [["2023-07", 1], ["2020-09", 1]]


@pytest.mark.parametrize("kind", ["thumbnail", "photo"])
def test_images_are_upright_jpeg_files_without_metadata(get, kind):
    response = get(f"/{kind}/{id_of(get, 'rotated.jpg')}")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "image/jpeg"
    image = Image.open(io.BytesIO(response.content))
    assert image.size == (30, 60)
    assert not image.getexif()
    assert b"camera" not in response.content


def test_every_answer_has_the_security_headers(get):
    for path in ("/", "/page.js", "/search?q=red", "/thumbnail/1", "/none"):
        headers = get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (["LOCALHOST", "[::1]", "192.168.1.2:8420"], 200),
        (["evil.example:1", "127.0.0.1.evil.example:1", ""], 403),
    ],
)
def test_only_addresses_of_this_machine_are_accepted_as_hosts(get, hosts, status):
    found = [get("/search?q=red", headers={"Host": host}).status_code for host in hosts]
    assert found == [status] * 3


def test_an_address_of_ipv6_is_listened_on(index):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6")
    with SearchServer(index, host="::1", port=0) as server:
        assert server.url.startswith(f"http://[::1]:{server.port}/")
        socket.create_connection(("::1", server.port), 10).close()


def test_an_answer_with_its_version_is_kept_by_the_browser(get):
    hit, other, *_ = search(get, "q=red")["hits"]
    address = f"/thumbnail/{hit['id']}"
    response = get(f"{address}?version={hit['version']}")
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert get(address).headers["Cache-Control"] == "no-store"
    # a page that is open has the numbers of an earlier state of the index
    assert get(f"{address}?version={other['version']}").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/photo/%2e%2e/%2e%2e/etc/passwd", "/%2e%2e/serve.py", "//etc/passwd", "/photo/-1", "/page"],
)
def test_nothing_but_photographs_of_the_index_can_be_read(get, path):
    response = get(path)
    assert response.status_code == 404
    assert response.json().keys() == {"error"}


def test_a_file_that_was_replaced_is_not_shown(get, photos, tmp_path, paint):
    address = f"/photo/{id_of(get, 'red.jpg')}"
    (photos / "red.jpg").unlink()
    assert get(address).status_code == 404
    (photos / "red.jpg").symlink_to(paint(tmp_path / "private" / "secret.jpg", "white", width=99))
    response = get(address)
    assert response.status_code == 404
    assert "changed since it was indexed" in response.text


def test_what_takes_too_much_memory_is_not_shown(get, monkeypatch):
    monkeypatch.setattr(decoding.PAGE_MEMORY, "limit", 1000)
    response = get("/thumbnail/3")
    assert response.status_code == 404
    assert "too many pixels" in response.text


def test_a_tile_has_the_shape_of_its_photograph_before_it_has_a_thumbnail(get, server, photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # Pillow turns a TIFF itself
    Image.new("RGB", (60, 30)).save(photos / "rotated.tif", exif=exif)
    server.index.add()
    hits = {hit["name"]: hit for hit in search(get, "")["hits"]}
    assert hits["rotated.tif"]["ratio"] == hits["rotated.jpg"]["ratio"] == 0.5


@pytest.mark.parametrize("name", ["large.png", "large.webp"])
def test_the_shape_of_a_tile_is_read_without_decoding(tmp_path, monkeypatch, name):
    Image.new("RGB", (60, 30)).save(tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile._open", None)
    found = Previews(tmp_path / "cache")
    assert found.ratio(str(tmp_path / name), "version", None) == 2
    found.close()


def test_the_second_look_decodes_nothing(get, monkeypatch):
    first = get("/thumbnail/3").content
    monkeypatch.setattr(previews, "make_thumbnail", None)
    assert get("/thumbnail/3").content == first


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


def test_a_preview_is_kept_for_its_file_moment_and_size(tmp_path):
    """Two key frames may be within a second."""
    kept = Previews(tmp_path)
    made = [("a", None), ("a", 0.2), ("a", 0.6), ("a", 1.2), ("b", 0.2)]
    names = {kept._cached(*each, kind) for each in made for kind in ("thumbnail", "photo")}
    kept.close()
    assert len(names) == 10


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


@pytest.mark.parametrize(
    ("asked", "status", "sent"),
    [
        ("bytes=100-199", 206, slice(100, 200)),
        ("bytes=500-", 206, slice(500, None)),
        ("bytes=5-3", 400, None),
        ("bytes=99999999-", 416, None),
    ],
)
def test_the_part_of_a_video_that_is_asked_for_is_sent(get, video, asked, status, sent):
    address, content = video
    response = get(address, headers={"Range": asked})
    assert response.status_code == status
    if sent is None:
        assert len(response.content) < 100
    else:
        assert response.content == content[sent]
        first, end, _ = sent.indices(len(content))
        assert response.headers["Content-Range"] == f"bytes {first}-{end - 1}/{len(content)}"
        assert response.headers["Content-Type"] == "video/mp4"


def test_a_photograph_is_not_sent_as_it_is(get):
    assert get(f"/video/{id_of(get, 'rotated.jpg')}").status_code == 404


@pytest.fixture
def upload(client, photos):
    """Function that sends an example image."""
    return partial(client.post, "/example", content=(photos / "a" / "blue.jpg").read_bytes())


def test_an_example_image_is_searched_with(get, upload):
    name = upload().json()["name"]
    assert found(get, f"example={name}")[0] == "blue.jpg"
    assert get(f"/example/{name}").headers["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize("has_example", [False, True], ids=["text", "example"])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        pytest.param("绿", "", id="name"),
        pytest.param("red blue", "perhaps these; nothing is sure:", id="name that may fit"),
        pytest.param("蓝蓝绿绿蓝绿", "", id="caption"),
        pytest.param("black", "nothing like it was found; the most similar ones:", id="nothing"),
    ],
)
def test_page_terminal_json_and_index_agree(
    calibrated, run, tmp_path, paint, query, said, has_example
):
    """On the order, the scores and the state, by a model with a bank and a calibration."""
    runtime = calibrated.runtime
    bank = runtime.encode_texts(["red", "green", "white"])
    write_bank(runtime.folder / BANK_FILE, bank, calibrated.space.files)
    examples = [paint(tmp_path / "example.png", "yellow")] if has_example else []
    arguments = ["search", query, "--index", calibrated.folder]
    arguments += [part for path in examples for part in ("--image", path)]
    listed, printed = json.loads(run(*arguments, "--json")), run(*arguments).splitlines()
    with (
        Index.open(calibrated.folder) as index,
        SearchServer(index, port=0) as server,
        client_of(server) as client,
    ):
        hits = index.search(query, images=examples)
        asked = {"q": query}
        for path in examples:
            asked["example"] = client.post("/example", content=path.read_bytes()).json()["name"]
        whole, rest = (
            client.get("/search", params=asked | top).json() for top in ({}, {"skip": 2})
        )
    found = [(hit.path, round(hit.score, 3), hit.fits) for hit in hits]
    assert [(each["path"], round(each["score"], 3), each["fits"]) for each in listed] == found
    assert [(each["path"], each["score"], each["fits"]) for each in whole["hits"]] == found
    results = [line.split()[::2][:2] for line in printed if "/" in line]
    assert [(path, float(score)) for score, path in results] == [each[:2] for each in found]
    assert (printed[0] == said) if said and not examples else ("/" in printed[0])
    for answer in (whole, rest):
        fitting = None if examples else sum(hit.fits for hit in hits)
        assert (answer["fits"], answer["may"]) == (fitting, may_fit(hits))


def test_bodies_in_flight_have_a_limit(upload, monkeypatch):
    monkeypatch.setattr(local_server, "MAX_IN_FLIGHT", 10)
    assert upload().status_code == 503


def test_a_long_address_is_refused_before_it_is_parsed(get):
    assert get("/search?q=" + "1" * 60_000).status_code == 414


@pytest.fixture
def connect(server):
    """Function that opens a connection to the server, which sends what it is given."""
    with serving(server), ExitStack() as stack:

        def connect(content=b""):
            connection = socket.create_connection(("127.0.0.1", server.port), 30)
            connection.sendall(content.replace(b"TOKEN", server.access.token.encode()))
            return stack.enter_context(connection)

        yield connect


BODY = b"POST /example?token=TOKEN HTTP/1.1\r\nHost: localhost\r\nX-DCCLIP: 1\r\nContent-Length: 9\r\n\r\n1"


def test_a_body_that_comes_slowly_is_refused_and_holds_up_no_other(connect, get, monkeypatch):
    monkeypatch.setattr(local_server, "REQUEST_S", 0.3)
    slow = connect(BODY)
    assert get("/search?q=red").status_code == 200
    assert slow.recv(13) == b"HTTP/1.1 408 "


def test_the_state_of_the_indexing_is_told(get, server, photos, paint):
    paint(photos / "new.png", "blue", width=80)
    for name in ("one.jpg", "two.jpg"):
        (photos / name).write_bytes(b"no")
    shown = []
    bar = partial(nullcontext, lambda *numbers: shown.append(numbers))
    with Indexing(server.index, lambda report, files: None, bar) as server.indexing:
        server.indexing.add([])
        server.indexing.join()
    state = get("/status").json()
    fields = {"running", "done", "total", "seconds_left", "error", "left_out", "files"}
    assert state.keys() == fields
    assert state["files"] == 7
    assert state["done"] == state["total"] == 3
    assert shown[-1] == (3, 3)
    assert state["left_out"] == ["unreadable: 2 files (not an image, or damaged)"]
    assert not state["running"]


def test_an_indexing_that_fails_says_why(index, tmp_path, capsys):
    with Indexing(index, lambda report, files: None) as indexing:
        indexing.add([tmp_path / "none"])
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
    out, error = capsys.readouterr()
    assert re.fullmatch(r"http://[^/]+/\?token=\S+\n", out)
    assert "everyone who has this address, with its token, sees" in error


def test_the_page_has_no_request_that_writes_a_file_of_the_user(server, client, photos):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in photos.rglob("*")}

    before = state()
    methods = {route.path: getattr(route, "methods", None) for route in server._app.routes}
    posts = {path for path, names in methods.items() if names and names - {"GET", "HEAD"}}
    assert posts == {"/example", "/folders"}
    assert client.post("/trash", json={"ids": ["1"]}).status_code in (404, 405)
    assert state() == before


def test_a_photograph_is_described_by_its_id(get, photos):
    hit = get(f"/hit/{id_of(get, 'red.jpg')}").json()
    assert (hit["path"], hit["size"]) == (
        str(photos / "red.jpg"),
        (photos / "red.jpg").stat().st_size,
    )
    assert get("/hit/99").status_code == 404


def test_a_port_that_is_taken_is_an_error_or_the_next_is_tried(
    serve_index, taken_port, monkeypatch, capsys
):
    with pytest.raises(SystemExit):
        serve_index("--port", str(taken_port))
    assert "port: cannot listen on 127.0.0.1:" in capsys.readouterr().err
    monkeypatch.setattr(commands, "PORT", taken_port)
    serve_index()
    assert f"port {taken_port} is taken, so the page is at port " in capsys.readouterr().err
