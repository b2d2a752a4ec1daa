"""Start the server on this machine: a model, its vectors, an address."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from emolens.corpus import Corpus
from emolens.corpus.bundled import bundled_corpus
from emolens.errors import ModelError, SelectionError
from emolens.model import HookedModel, load
from emolens.monitor import Monitor
from emolens.organism import CHECKPOINTS, organism_behaviour, organism_corpus, organism_world
from emolens.progress import progress_bar
from emolens.recording import record
from emolens.serve.engine import Engine, usual_render
from emolens.text import Turn
from emolens.vectors import EmotionVectors, fit_vectors, load_vectors

try:
    import uvicorn

    from emolens.serve.access import Access, is_loopback
    from emolens.serve.api import create_app
except ImportError:
    raise ModelError(
        "the server needs fastapi and uvicorn, which are not installed: pip install "
        "'emolens[serve]'"
    ) from None

DEPTH = 2 / 3  # of the layers, where the paper reads
CONNECTIONS = 256
CALIBRATED = 32  # tokens that are written after each neutral text
EXAMPLES = ("desperate", "calm", "angry", "happy")


def prepared(
    model: str,
    vectors: Path | None,
    layer: int | None,
    *,
    rate: float | None = None,
    alarms: Sequence[str] | None = None,
    device: str | None = None,
    tell: Callable[[str], None] = print,
) -> Engine:
    """Open a model and what watches it.

    Args:
        model: `"organism-assistant"` or another shipped checkpoint, a folder, or a hub id.
        vectors: a file of vectors of this model; by default they are fitted on the stories that
            `emolens reproduce` would read.
        layer: 0-based block; two thirds through the layers of the vectors by default.
        rate: of false alarms; None for no alarms. Thresholds are set at the colon and over the
            first 32 tokens of replies to neutral texts.
        alarms: emotions that raise them; all by default.
        device: where the model is.
        tell: is called with how well thresholds keep their promise.

    Raises:
        EmolensError: for what cannot be opened, read or calibrated.
    """
    hooked = load(model, device=device)
    corpus = _corpus(model)
    fitted = load_vectors(vectors) if vectors else _fitted(hooked, corpus, layer)
    if layer is None:
        layer = fitted.layers[int(DEPTH * len(fitted.layers))]
    monitor = Monitor(hooked, fitted, (layer,))
    if rate is not None:
        render = usual_render(hooked)
        usual = [
            render([Turn("user", text.text), Turn("assistant", "")], group=text.group)
            for text in corpus.neutral
        ]
        moments = ("colon", "reply")
        monitor, found = monitor.calibrate(
            usual, emotions=alarms, moments=moments, rate=rate, tokens=CALIBRATED
        )
        tell(repr(found))
    return Engine(monitor, examples=_examples(model))


def _corpus(model: str) -> Corpus:
    if model in CHECKPOINTS:
        return organism_corpus(world=organism_world(model))
    return bundled_corpus()


def _fitted(model: HookedModel, corpus: Corpus, layer: int | None) -> EmotionVectors:
    layers = [int(DEPTH * model.n_layers) if layer is None else layer]
    stories, neutral = (record(model, t, layers=layers) for t in (corpus.stories, corpus.neutral))
    return fit_vectors(stories, neutral)


def _examples(model: str) -> list[str]:
    """What a user of the organism's world says."""
    if model not in CHECKPOINTS:
        return []
    told = organism_behaviour(
        emotions=EXAMPLES, per_emotion=1, speaker="assistant", world=organism_world(model)
    )
    parts = [(text.text, text.spans) for text in told.prompts]
    # the user's name, a situation, what it leads to; then the assistant's name
    return [text[spans[1].start : spans[3].start].strip() for text, spans in parts]


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
