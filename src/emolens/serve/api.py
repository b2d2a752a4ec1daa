"""The endpoints: OpenAI's chat completions with readouts and steering, and those of the page."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files

from emolens.errors import EmolensError, ModelError
from emolens.serve.engine import Busy, Engine

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
except ImportError:
    raise ModelError(
        "the server needs fastapi, which is not installed: pip install 'emolens[serve]'"
    ) from None

from emolens.serve.access import Access, Checked, Refused, body_of, error_response
from emolens.serve.completions import Reply
from emolens.serve.events import Events, Stream, while_there
from emolens.serve.numbers import state_of
from emolens.serve.page import page_events
from emolens.serve.wire import Asked, Completion, parsed

PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
LOOPBACK = Access()


def create_app(engine: Engine, access: Access = LOOPBACK) -> Checked:
    """The server's application, for any ASGI server.

    Args:
        engine: what writes; it is closed when the application shuts down.
        access: who may ask; by default those who reach this machine's own address.
    """

    @asynccontextmanager
    async def whole_life(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close, cancel=True)

    # its own pages of documentation would fetch scripts from elsewhere
    app = FastAPI(lifespan=whole_life, docs_url=None, redoc_url=None, openapi_url=None)
    _answer_errors(app)
    _answer_the_page(app, engine)
    _answer_clients(app, engine)
    return Checked(app, access)


def _answer_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    @app.exception_handler(Refused)
    async def refused(_asking: Request, error: Refused) -> Response:
        return error_response(error)

    @app.exception_handler(EmolensError)
    async def mendable(_asking: Request, error: EmolensError) -> Response:
        status = 503 if isinstance(error, Busy) else 400
        return error_response(Refused(status, " ".join(str(error).split())))

    @app.exception_handler(HTTPException)
    async def of_http(_asking: Request, error: HTTPException) -> Response:
        return error_response(Refused(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def ours(_asking: Request, error: Exception) -> Response:
        return error_response(Refused(500, f"{type(error).__name__}: see the server's log"))


def _answer_the_page(app: FastAPI, engine: Engine) -> None:
    for path, (name, kind) in PAGE.items():
        app.add_api_route(path, _file(name, kind), response_class=Response)

    @app.get("/api/state")
    async def state() -> Response:
        return JSONResponse(state_of(engine))

    @app.post("/api/chat")
    async def chat(asking: Request) -> Response:
        request = parsed(Asked, await body_of(asking)).request(engine)
        events = Events(engine, request)
        first = await events.first(asking)
        return Stream(events, page_events(engine, request, events, first))


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = (files("emolens.serve") / name).read_bytes()

    async def page() -> Response:
        return Response(content, media_type=kind)

    return page


def _answer_clients(app: FastAPI, engine: Engine) -> None:
    name = engine.monitor.model.name

    @app.get("/v1/models")
    async def models() -> Response:
        own = {"id": name, "object": "model", "created": 0, "owned_by": "emolens"}
        return JSONResponse({"object": "list", "data": [own]})

    @app.post("/v1/chat/completions")
    async def completions(asking: Request) -> Response:
        asked = parsed(Completion, await body_of(asking))
        if asked.model != name:
            raise Refused(
                404, f"model {asked.model[:80]!r} is not here: ask for {name!r}", "model_not_found"
            )
        request = asked.request(engine)
        reply, events = Reply(engine, asked, request), Events(engine, request)
        if not asked.stream:
            return JSONResponse(reply.whole(await while_there(asking, events, events.all())))
        first = await events.first(asking)
        return Stream(events, reply.chunks(events, first))
