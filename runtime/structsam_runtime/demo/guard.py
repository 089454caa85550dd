"""Who may ask: the pages of this server, and programs that know its token."""

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import printable

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Of every answer: nothing is loaded from elsewhere, and no other page embeds or reads it."""


class Guard:
    """Refuses what is not meant for this server, and says so in one line of JSON.

    A page of another site may send its visitor's browser to a loopback address. It is told by its Origin,
    or, if its own name was bound to this address, by the Host. With a token neither matters: no other page
    knows it, and a proxy may have another name than this server.

    Args:
        app: answers the others.
        hosts: values of Host that are answered; None for any, which asks for a token.
        token: what ``Authorization: Bearer`` must give for everything but the page's files; None for nothing.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, token: str | None) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the start and the end of the server
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refused(scope)
        await (refused or self.app)(scope, receive, guarded)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts is not None and host.lower() not in self.hosts:
            return _refusal(403, f"the host '{host}' is not this server's; ask for http://{min(self.hosts)}")
        if self.token is None and origin is not None and origin.partition("://")[2].lower() != host.lower():
            return _refusal(403, f"a page of '{origin}' may not ask; open the page of this server")
        if self.token is None or scope["path"] == "/" or scope["path"].startswith("/static/"):
            return None
        if hmac.compare_digest(headers.get("authorization", "").encode(), f"Bearer {self.token}".encode()):
            return None
        return _refusal(401, "the token is missing or wrong; open the address that structsam demo printed")


def _refusal(status: int, message: str) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": printable(message)}, status, headers)
