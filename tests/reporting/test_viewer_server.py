"""The local server: one page for whoever holds its address, nothing for anybody else."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from medunet.errors import OutputError
from medunet.reporting import viewer_server
from medunet.reporting.viewer_server import PageServer, serve_page

HTML = "<!doctype html><title>Größe \udcff</title>"


@pytest.fixture
def server() -> Iterator[PageServer]:
    running = PageServer(HTML)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def ask(
    server: PageServer, path: str, *, method: str = "GET", hosts: tuple[str, ...] = ()
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        for host in hosts or (f"127.0.0.1:{server.server_port}",):
            connection.putheader("Host", host)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())
    finally:
        connection.close()


def test_the_page_is_at_its_address_alone(server: PageServer) -> None:
    path = f"/{server.token}/"
    assert server.url == f"http://127.0.0.1:{server.server_port}{path}"
    status, content, headers = ask(server, path)
    assert (status, content) == (200, HTML.encode("utf-8", "backslashreplace"))
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Python" not in headers["Server"]
    assert ask(server, path, method="HEAD")[:2] == (200, b"")


@pytest.mark.parametrize(
    "path", ["/", "", "/favicon.ico", "/x/", "//", "/../etc/passwd", "/%2e%2e/", "/%ff/", "http://127.0.0.1/"]
)
def test_nothing_else_is_there(server: PageServer, path: str) -> None:
    status, content, headers = ask(server, path)
    assert status in (400, 404)
    assert b"title>Gr" not in content
    assert path.strip("/.") == "" or path.encode("latin-1") not in content
    assert "Access-Control-Allow-Origin" not in headers


def test_near_misses_are_misses(server: PageServer) -> None:
    for path in (f"/{server.token}", f"/{server.token}/x", f"/{server.token}/?a=1", f"/{server.token.swapcase()}/"):
        assert ask(server, path)[0] == 404
    for method in ("POST", "PUT", "OPTIONS", "DELETE"):
        assert ask(server, f"/{server.token}/", method=method)[0] == 501


def test_other_names_of_this_computer_are_refused(server: PageServer) -> None:
    path, port = f"/{server.token}/", server.server_port
    assert ask(server, path, hosts=(f"localhost:{port}",))[0] == 200
    for hosts in (
        ("evil.example",), (f"evil.example:{port}",), ("127.0.0.1",), (f"127.0.0.1:{port + 1}",), (f"127.0.0.1.evil.example:{port}",),
        (f"127.0.0.1:{port}", "evil.example"), ("",),
    ):  # fmt: skip
        status, content, _ = ask(server, path, hosts=hosts)
        assert status == 403, hosts
        assert b"title>Gr" not in content


def test_a_link_leads_to_the_page_once(server: PageServer) -> None:
    path = server.take_link().removeprefix(f"http://127.0.0.1:{server.server_port}")
    assert server.token not in path
    assert ask(server, path, hosts=("evil.example",))[0] == 403
    assert ask(server, path, method="HEAD")[0] == 404  # asking what is there does not use it up
    status, _, headers = ask(server, path)
    assert (status, headers["Location"]) == (303, f"/{server.token}/")
    assert ask(server, path)[0] == 404
    assert ask(server, f"/{server.token}/")[0] == 200


def test_only_this_computer_reaches_it(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    tokens = set()
    for _ in range(3):
        with PageServer(HTML) as other:
            tokens.add(other.token)
    assert len(tokens - {server.token}) == 3
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize("port", [None, 70_000])
def test_a_port_that_cannot_be_had_is_one_error(port: int | None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1] if port is None else port
        with pytest.raises(OutputError, match=rf"Cannot listen on port {number} of 127.0.0.1.*--port"):
            PageServer(HTML, port=number)


def test_ctrl_c_ends_it_and_frees_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(viewer_server.PageServer, "serve_forever", interrupt)
    ports: list[int] = []
    serve_page(HTML, on_ready=lambda server: ports.append(server.server_port))
    with PageServer(HTML, port=ports[0]) as again:
        assert again.server_port == ports[0]
