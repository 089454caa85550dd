"""The server of the page: where it listens, who may ask, and the browser that it opens."""

import contextlib
import ipaddress
import re
import socket
import threading
import webbrowser
from urllib.parse import quote

import uvicorn

from ..errors import UserError
from .app import Demo, application

LOOPBACK = "127.0.0.1"
TOKEN = 16
"""The fewest letters of a token."""


class _Server(uvicorn.Server):
    """A server that cancels what is under way when it ends: `Ending` answers it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; uvicorn itself waits for what is under way, and then prints a traceback for each."""
        for task in self.server_state.tasks:
            task.cancel()
        await super().shutdown(sockets)


def check_access(host: str, token: str | None) -> None:
    """Refuse an address that others reach without a token.

    Raises:
        UserError: the host is not loopback and there is no token, or it is short or cannot be sent.
    """
    if token is None and not _is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines in; give --token too, {TOKEN} letters or more that they need"
        )
    if token is not None and not re.fullmatch(f"[!-~]{{{TOKEN},}}", token):  # a header carries these whole
        raise UserError(
            f"--token is short, or has spaces or letters beyond ASCII; expected {TOKEN} or more of ASCII, "
            "without spaces"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        UserError: this machine has no such address, or another program has the port.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:  # the last: it can be no name of a machine
        told = f"cannot listen at {host}, port {port}: {error}; choose another --host or --port"
        raise UserError(told) from error


def serve(demo: Demo, listening: socket.socket, token: str | None, browser: bool) -> None:
    """Answer until Ctrl-C or SIGTERM.

    Args:
        demo: the answers.
        listening: from `listen`.
        token: that requests need; None on a loopback address.
        browser: whether to open the page.
    """
    server = _Server(
        uvicorn.Config(
            application(demo, None if token else hosts(listening), token),
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    address = url(listening, token)
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if browser:  # one for the terminal would wait for its user
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # how a server ends
        server.run(sockets=[listening])


def hosts(listening: socket.socket) -> frozenset[str]:
    """What Host is for those who ask this machine itself."""
    host, port = listening.getsockname()[:2]
    names = {_bracketed(host), LOOPBACK, "localhost", "[::1]"}
    return frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == 80 else frozenset())


def url(listening: socket.socket, token: str | None) -> str:
    """The address of the page. Browsers do not send what is behind #, the token, with any request; the page
    reads it as a browser reads a form, where + is a space."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:  # every address of this machine
        host = socket.gethostname()
    return f"http://{_bracketed(host)}:{port}/" + (f"#token={quote(token, safe='')}" if token else "")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any address
        return False
