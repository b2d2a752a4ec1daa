"""From the engine's thread to an answer that is sent as it comes, and back when nobody listens."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from starlette.requests import Request as Asking
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from emolens.serve.access import Refused
from emolens.serve.engine import End, Engine, Failed, Request, Told

T = TypeVar("T")


class Events:
    """What the engine tells of one request, as it comes, in the server's thread."""

    def __init__(self, engine: Engine, request: Request) -> None:
        """Put it in line."""
        loop, self.found = asyncio.get_running_loop(), asyncio.Queue[Told]()
        self.over = False

        def deliver(told: Told) -> None:
            loop.call_soon_threadsafe(self.found.put_nowait, told)

        self.job = engine.submit(request, deliver)

    def __aiter__(self) -> "Events":
        """Until the reply is there or has failed."""
        return self

    async def __anext__(self) -> Told:
        """The next of them."""
        if self.over:
            raise StopAsyncIteration
        told = await self.found.get()
        self.over = isinstance(told, End | Failed)
        return told

    async def all(self) -> list[Told]:
        """All of them, at once.

        Raises:
            Refused: if there is no reply.
        """
        found = [told async for told in self]
        _raise(found[-1])
        return found

    async def first(self, asking: Asking) -> Told:
        """The first, before an answer begins, so that what fails at once has its own status.

        Raises:
            Refused: if there is no reply, or whoever asked has gone.
        """
        told = await while_there(asking, self, anext(self))
        _raise(told)
        return told


def _raise(told: Told) -> None:
    if isinstance(told, Failed):
        raise Refused(400 if told.own else 500, told.error)


async def while_there(asking: Asking, events: Events, work: Awaitable[T]) -> T:
    """What comes of the work, unless who asked goes away before; then the job is cancelled.

    Raises:
        Refused: in that case.
    """
    own, gone = asyncio.ensure_future(work), asyncio.ensure_future(asking.receive())
    try:
        await asyncio.wait({own, gone}, return_when=asyncio.FIRST_COMPLETED)
        if own.done():
            return own.result()
        events.job.cancel()
        raise Refused(499, "whoever asked has gone")
    except asyncio.CancelledError:
        events.job.cancel()
        raise
    finally:
        own.cancel()
        gone.cancel()


class Stream(StreamingResponse):
    """Server-sent events; when the answer ends, for whatever reason, so does the job."""

    def __init__(self, events: Events, content: AsyncIterator[str]) -> None:
        """The events and what is sent of them."""
        super().__init__(content, media_type="text/event-stream")
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.events.job.cancel()


def sent(value: object) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, allow_nan=False, separators=(',', ':'))}\n\n"
