"""One page on this computer, for one browser: a server that listens on 127.0.0.1 and knows two addresses.

A scan must not be read by others on the same machine, nor by web sites that the browser has open:

- the address holds a random token, so that another user of the machine cannot guess it;
- the browser is started with a link that works once, because other users may see the command lines of its processes;
- requests for another host than 127.0.0.1 or localhost are refused, which ends DNS rebinding
  (https://en.wikipedia.org/wiki/DNS_rebinding);
- nothing else is there: no folder, no file, no other method than GET and HEAD.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from medunet.errors import OutputError

ADDRESS = "127.0.0.1"

_TOKEN_BYTES = 24
_IDLE_SECONDS = 30
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageServer(ThreadingHTTPServer):
    """Serves one page; `url` and `take_link` say where.

    Args:
        html: The page.
        port: Where to listen; 0 takes a free one.

    Raises:
        OutputError: If the port cannot be had.
    """

    daemon_threads = True
    # Another program that still listens there must not be pushed aside, as Windows would.
    allow_reuse_address = False

    def __init__(self, html: str, *, port: int = 0) -> None:
        self.content = html.encode("utf-8", "backslashreplace")
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._links: set[str] = set()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            msg = f"Cannot listen on port {port} of {ADDRESS}: {reason}. Give another --port, or none for a free one."
            raise OutputError(msg) from error

    @property
    def url(self) -> str:
        """The address of the page, for as long as the server runs."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def take_link(self) -> str:
        """A new address that leads to the page once."""
        link = secrets.token_urlsafe(_TOKEN_BYTES)
        self._links.add(link)
        return f"http://{ADDRESS}:{self.server_port}/{link}"

    def use_link(self, link: str) -> bool:
        """Whether it leads to the page; from now on it does not."""
        try:
            self._links.remove(link)
        except KeyError:
            return False
        return True

    def is_host(self, host: str) -> bool:
        """Whether a request names this server, and not a name that somebody let point to it."""
        return host.lower() in (f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}")


def serve_page(html: str, *, port: int = 0, on_ready: Callable[[PageServer], Any]) -> None:
    """Serve a page until Ctrl-C.

    Args:
        html: The page.
        port: Where to listen; 0 takes a free one.
        on_ready: Called once the server listens.

    Raises:
        OutputError: If the port cannot be had.
    """
    with PageServer(html, port=port) as server:
        try:
            on_ready(server)
            server.serve_forever()
        except KeyboardInterrupt:
            return


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version = "medunet"
    sys_version = ""
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: Any) -> None:
        """Nothing: the addresses hold the token."""

    def _answer(self, *, with_body: bool) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.is_host(hosts[0]):
            self._send(HTTPStatus.FORBIDDEN, b"This server answers to 127.0.0.1 alone.\n", with_body=with_body)
        elif secrets.compare_digest(self.path.encode("latin-1", "replace"), f"/{self.server.token}/".encode()):
            self._send(HTTPStatus.OK, self.server.content, kind="text/html", with_body=with_body)
        elif with_body and self.server.use_link(self.path.removeprefix("/")):
            self._send(HTTPStatus.SEE_OTHER, b"", location=f"/{self.server.token}/")
        else:
            self._send(
                HTTPStatus.NOT_FOUND,
                b"There is no such page. A link that opened the browser works once: take the address in the terminal.\n",
                with_body=with_body,
            )

    def _send(
        self,
        status: HTTPStatus,
        content: bytes,
        *,
        kind: str = "text/plain",
        location: str = "",
        with_body: bool = True,
    ) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)
