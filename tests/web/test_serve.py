"""The local server of the page: answers this machine's names only, and many requests at once."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest

from training.edge.web import serve as module


@pytest.fixture
def port(tmp_path):
    (tmp_path / "index.html").write_text("page", encoding="utf-8")
    server = module.make_server(tmp_path, 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def get(port: int, host: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("GET", "/index.html", skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_requests_of_this_machine_are_answered(port, host):
    assert get(port, host) == (200, b"page")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "[::1"]
)
def test_requests_that_name_another_machine_are_refused(port, host):
    assert get(port, host)[0] == 403


def test_two_hundred_requests_at_once_are_answered(port):
    with ThreadPoolExecutor(200) as pool:
        assert set(pool.map(lambda _: get(port, "localhost"), range(200))) == {(200, b"page")}


def test_a_silent_connection_is_closed_and_a_body_is_not_read(port, monkeypatch):
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
        assert silent.recv(1) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as large:
        large.sendall(b"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 100000000000\r\n\r\n")
        assert b" 501 " in large.recv(100)  # at once, and not after the body


@pytest.mark.parametrize("port_number", [-1, 65536, 99999])
def test_a_port_out_of_range_is_refused(tmp_path, port_number):
    with pytest.raises(ValueError, match=r"port: must be in 0\.\.65535"):
        module.make_server(tmp_path, port_number)
