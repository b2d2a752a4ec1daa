"""What the page is told: a conversation as it is read and written."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from emolens.monitor import Watched
from emolens.serve.engine import End, Engine, Piece, Read, Request, Told
from emolens.serve.events import Events, sent
from emolens.serve.numbers import numbers, told_alarms


async def page_events(
    engine: Engine, request: Request, events: Events, first: Told
) -> AsyncIterator[str]:
    """Server-sent events, with the readouts of all emotions in their request."""
    layer = engine.layer_of(request)
    column = engine.monitor.layers.index(layer)
    yield sent(_page_event(first, column))
    async for told in events:
        more = {"seed": request.seed, "layer": layer, "steering": dict(request.steering)}
        yield sent(_page_event(told, column) | (more if isinstance(told, End) else {}))


def _page_event(told: Told, column: int) -> dict[str, Any]:
    if isinstance(told, Read):
        return {
            "type": "read",
            "tokens": list(_tokens(told.watched)),
            "values": [numbers(row) for row in told.watched.values[:, column]],
            "alarms": told_alarms(told.alarms),
        }
    if isinstance(told, Piece):
        values, alarms = numbers(told.values), told_alarms(told.alarms)
        return {"type": "piece", "text": told.text, "values": values, "alarms": alarms}
    if isinstance(told, End):
        return {
            "type": "end",
            "text": told.text,
            "reason": told.reason,
            "read": told.read,
            "written": told.written,
            "mean": None if told.mean is None else numbers(told.mean),
            "alarms": told_alarms(told.alarms),
            "seconds": round(told.seconds, 3),
        }
    return {"type": "error", "message": told.error}


def _tokens(read: Watched) -> Iterator[dict[str, Any]]:
    """Of each token its words with the space before, whose turn they are, and if it is unknown."""
    text, before = read.prompt.text, 0
    turns = [span for span in read.prompt.spans if span.name in ("system", "user", "assistant")]
    unknown = read.monitor.model.tokenizer.unk_token_id
    for token, (start, end) in zip(read.ids.tolist(), read.offsets.tolist(), strict=True):
        within = [i for i, span in enumerate(turns) if span.start < end and start < span.end]
        yield {
            "text": text[before:end],
            "turn": within[-1] if within else -1,
            "unknown": token == unknown,
        }
        before = end
