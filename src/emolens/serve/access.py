"""Who may ask: a token, the host that is asked for, the page that asks; and how much is read."""

import asyncio
import ipaddress
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES = 256 * 1024
BODY_SECONDS = 30
_GUARDED = ("/api/", "/v1/")  # the page itself holds nothing that is secret
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that is answered with an error alone."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        """A status of HTTP and one line."""
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Access:
    """Who may ask.

    A page elsewhere can have its own name point to this machine, and a browser would then take what
    is here for its own; so the name that was asked for is checked. An address in figures cannot
    be turned around like that.

    Attributes:
        host: what the server is bound to.
        token: that has to be shown; none on this machine alone.
    """

    host: str = "127.0.0.1"
    token: str | None = None

    @classmethod
    def of(cls, host: str, token: str | None) -> "Access":
        """With a token of its own making where others than this machine can reach it."""
        if not token and not is_loopback(host):
            token = secrets.token_urlsafe(32)
        return cls(host, token or None)

    def check(self, headers: Headers, method: str, path: str) -> None:
        """See that a request may be answered.

        Raises:
            Refused: if not.
        """
        asked = headers.get("host", "")
        if not self._is_ours(asked):
            raise Refused(403, f"host {asked[:80]!r} is not this server: ask it by its address")
        origin = headers.get("origin")
        ours = (None, f"http://{asked}", f"https://{asked}")
        if method == "POST" and origin not in ours:
            raise Refused(403, f"a page of {str(origin)[:80]!r} may not ask here")
        if self.token is not None and path.startswith(_GUARDED):
            shown = headers.get("authorization", "").encode()
            if not secrets.compare_digest(shown, f"Bearer {self.token}".encode()):
                raise Refused(
                    401, "the token that this server printed is needed: Authorization: Bearer TOKEN"
                )

    def _is_ours(self, asked: str) -> bool:
        try:
            name = urlsplit(f"//{asked}").hostname
        except ValueError:
            return False
        if name is None or any(mark in asked for mark in "@/?#"):
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name == self.host.lower()
        return address.is_loopback or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(at[0]).partition("%")[0]).is_loopback for *_, at in found)


@dataclass(frozen=True)
class Checked:
    """An application behind the checks; each of its answers tells browsers to be careful."""

    app: ASGIApp
    access: Access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        try:
            self.access.check(headers, scope["method"], scope["path"])
        except Refused as refusal:
            await error_response(refusal)(scope, receive, careful)
        else:
            await self.app(scope, receive, careful)


def error_response(refusal: Refused) -> Response:
    """An error in OpenAI's form."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    told = {"message": str(refusal), "type": kind, "param": None, "code": refusal.code}
    return JSONResponse({"error": told}, refusal.status)


async def body_of(request: Request) -> bytes:
    """The body of a request, read no further than it may be long, whatever length it claims.

    Raises:
        Refused: if it is too long, too slow, or not said to be JSON, which a form of another page
            cannot say.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "the body has to be JSON: send Content-Type: application/json")
    too_long = Refused(413, f"the body is too long: send at most {BODY_BYTES} bytes")
    claimed = request.headers.get("content-length", "0")
    if not claimed.isdecimal() or int(claimed) > BODY_BYTES:
        raise too_long
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                found += part
                if len(found) > BODY_BYTES:
                    raise too_long
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_SECONDS} seconds") from None
    return bytes(found)
