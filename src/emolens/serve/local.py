"""Start the server on this machine, at an address of its own."""

import socket
from collections.abc import Callable

from emolens.errors import ModelError, SelectionError
from emolens.progress import progress_bar
from emolens.serve.engine import Engine

try:
    import uvicorn

    from emolens.serve.access import Access, is_loopback
    from emolens.serve.api import create_app
except ImportError:
    raise ModelError(
        "the server needs fastapi and uvicorn, which are not installed: pip install "
        "'emolens[serve]'"
    ) from None

CONNECTIONS = 256


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there and nowhere else.

    Raises:
        SelectionError: if it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SelectionError(
            f"cannot listen at {host}:{port} ({error.strerror or error}): give another --port or "
            "--host"
        ) from None


def server_of(engine: Engine, access: Access) -> uvicorn.Server:
    """The server, not yet running; nothing of what is said goes into a log."""
    config = uvicorn.Config(
        create_app(engine, access),
        access_log=False,
        limit_concurrency=CONNECTIONS,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    return uvicorn.Server(config)


def serve(
    engine: Engine, host: str, port: int, token: str | None, tell: Callable[[str], None]
) -> None:
    """Run until it is interrupted.

    Args:
        engine: what writes.
        host: the address; beyond this machine a token is needed, and made if none is given.
        port: of the address; 0 for any that is free.
        token: that has to be shown.
        tell: is called once with the address.

    Raises:
        SelectionError: if nothing can listen there.
    """
    access = Access.of(host, token)
    with bound(host, port) as listening:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listening.getsockname()[1]}/"
        tell(address + (f"#token={access.token}" if access.token else ""))
        if not is_loopback(host):
            tell("others can reach this address: whoever has the token may use it, unencrypted")
        with progress_bar():  # so that no request draws one of its own
            server_of(engine, access).run(sockets=[listening])
