"""How a request ends before it is answered: its client goes, or the server ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .asked import RefusedError

ENDED = "structsam demo has ended; start it again"

T = TypeVar("T")


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work for a client that waits for it. When it goes, the work is cancelled: a step that
    has begun in a thread ends by itself, and no other one begins.

    Args:
        request: its body, if it has one, is read.
        work: what is done.

    Raises:
        RefusedError: the client has gone, and reads this no more.
    """
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise RefusedError(400, "the client has gone")
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Ending:
    """Answers with one line what is cancelled, as everything is when the server ends.

    Args:
        app: answers everything else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            if not begun:
                await JSONResponse({"error": ENDED}, 503)(scope, receive, send)
