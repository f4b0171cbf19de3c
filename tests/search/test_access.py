"""Who may see the page: its token, the file that keeps it, and a second command that finds the first."""

import json
import os
import signal
import subprocess
import sys
import time
from urllib.request import build_opener

import pytest
from starlette.testclient import TestClient

from modeling_dcclip.search.serve import access
from modeling_dcclip.search.serve.access import FILE, KEY_HEADER, read_access, write_access
from modeling_dcclip.search.serve.page_server import SearchServer
from tests.tiny import ROOT


@pytest.fixture
def stranger(server):
    """Client that knows where the server is, and no secret of it."""
    with TestClient(server, server.origin, headers={"X-DCCLIP": "1"}) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/page.js",
        "/search?q=red",
        "/thumbnail/1",
        "/months",
        "/status",
        "/none",
        "/?token=",
        "/search?token=wrong",
    ],
)
def test_without_the_token_nothing_is_shown(stranger, server, path):
    for cookie in ("", "wrong", server.access.key, server.access.token):
        stranger.cookies = {f"dcclip-{server.port}": cookie}
        response = stranger.get(path)
        assert response.status_code == 403
        assert response.json().keys() == {"error"}
        assert "set-cookie" not in response.headers


def test_a_person_without_the_token_reads_what_to_do(stranger):
    headers = {"Accept": "text/html,*/*", "Accept-Language": "zh"}
    assert stranger.get("/", headers=headers).text == "请打开 dcclip 显示的地址（含令牌）。"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows does not tell the user")
@pytest.mark.parametrize(("user", "status"), [(0, 200), (None, 200), (54321, 403)])
def test_the_token_alone_is_of_no_use_to_another_user(server, tmp_path, monkeypatch, user, status):
    place = tmp_path / "connections"
    user = os.getuid() if user is None else user
    monkeypatch.setattr(access, "CONNECTIONS", (str(place),))
    with TestClient(server, server.origin, client=("127.0.0.1", 5000)) as client:
        for port in (5001, 5000):  # the first is of a different connection
            line = f"0: 0100007F:{port:04X} 0100007F:{server.port:04X} 01 0:0 0:0 0 "
            place.write_text(f"sl local_address rem_address st\n{line}{user} 0\n")
            expected = status if port == 5000 else 200
            assert client.get(f"/search?token={server.access.token}").status_code == expected


def test_the_token_of_the_address_gives_a_cookie(stranger, server):
    response = stranger.get(server.url, follow_redirects=False)
    assert response.headers["Location"] == "/"
    cookie = response.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert stranger.get("/search?q=red").status_code == 200


def test_a_program_may_send_the_token_with_each_request(stranger, server):
    assert stranger.get(f"/search?q=red&token={server.access.token}").status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"folders": ["/none"], "exclude": null}'])
def test_only_a_command_of_this_user_adds_folders_and_only_folders(stranger, server, body):
    stranger.get(server.url)
    assert stranger.post("/folders", content=body).status_code == 403
    key = {KEY_HEADER: server.access.key}
    assert stranger.post("/folders", content=body, headers=key).status_code == 400


def test_the_secrets_last_and_are_for_this_user_alone(server):
    folder = server.index.folder
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    with SearchServer(server.index, port=0) as again:
        assert again.access.token == server.access.token
        assert read_access(folder).origin == again.origin


@pytest.mark.parametrize("damage", ["readable", "empty", "short", "list"])
def test_secrets_that_others_may_know_are_replaced(server, damage):
    path = server.index.folder / FILE
    fields = json.loads(path.read_bytes())
    if damage == "readable":
        path.chmod(0o644)
    else:
        contents = {"empty": "", "short": json.dumps(fields | {"token": ""}), "list": "[]"}
        path.write_text(contents[damage])
    assert read_access(path.parent).token not in ("", fields["token"])


def test_an_index_that_cannot_be_written_has_secrets_for_one_run(server, tmp_path):
    write_access(tmp_path / "none", server.access)
    assert read_access(tmp_path / "none").token != server.access.token


def test_all_devices_get_an_address_of_this_machine_in_its_network(filled):
    with SearchServer(filled, "0.0.0.0", 0) as server:
        assert server.origin == f"http://127.0.0.1:{server.port}"
        assert server.url.endswith(f":{server.port}/?token={server.access.token}")
        assert "0.0.0.0" not in server.url


@pytest.mark.slow
def test_a_second_command_adds_its_folder_to_the_page_and_takes_over(
    filled, photos, paint, tmp_path
):
    paint(tmp_path / "more" / "new.png", "red", width=80)
    environment = os.environ | {"BROWSER": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "modeling_dcclip.search.command"]

    def start(folder, *options):
        arguments = [*command, str(folder), "--index", str(filled.folder), *options]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)

    def files(url):
        origin, _, token = url.strip().partition("?")
        with build_opener().open(f"{origin}status?{token}") as answer:
            return json.load(answer)["files"]

    first = start(photos, "--port", "0")
    second = None
    try:
        url = first.stdout.readline()
        assert files(url) == 5
        second = start(tmp_path / "more")
        assert second.stdout.readline() == url
        ends = time.monotonic() + 20
        while files(url) < 6 and time.monotonic() < ends:
            time.sleep(0.1)
        assert files(url) == 6
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0
        taken = next(line for line in second.stdout if line.startswith("http"))
        assert taken.partition("?")[2] == url.partition("?")[2]
        assert files(taken) == 6
        second.send_signal(signal.SIGINT)
        assert second.wait(20) == 0
    finally:
        for each in filter(None, (first, second)):
            each.kill()
            each.wait()
