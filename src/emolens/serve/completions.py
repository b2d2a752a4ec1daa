"""Replies as OpenAI's clients know them, with `emolens` beside each choice."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from emolens.serve.engine import End, Engine, Failed, Piece, Read, Request, Told
from emolens.serve.events import Events, sent
from emolens.serve.numbers import number, told_alarms
from emolens.serve.wire import Completion


class Reply:
    """A reply as OpenAI's clients know it, with `emolens` beside each choice."""

    def __init__(self, engine: Engine, asked: Completion, request: Request) -> None:
        """What was asked for, and what the engine made of it."""
        self.asked, monitor = asked, engine.monitor
        self.names = {name: monitor.vectors.row(name) for name in asked.readouts}
        layer = engine.layer_of(request)
        self.column = monitor.layers.index(layer)
        self.told = {
            "layer": layer,
            "kind": monitor.kind,
            "steering": dict(request.steering),
            "seed": request.seed,
        }
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": monitor.model.name,
        }

    def values(self, row: Float[Tensor, " emotion"]) -> dict[str, float | None]:
        """By name, of a token's values."""
        return {name: number(float(row[i])) for name, i in self.names.items()}

    def summary(self, read: Read, end: End) -> dict[str, Any]:
        """What is told of a whole reply."""
        colon = self.values(read.watched.colon[self.column])
        mean = dict.fromkeys(colon) if end.mean is None else self.values(end.mean)
        readouts = {name: {"colon": colon[name], "mean": mean[name]} for name in colon}
        return self.told | {"readouts": readouts, "alarms": told_alarms(end.alarms)}

    def usage(self, end: End) -> dict[str, int]:
        """How many tokens."""
        return {
            "prompt_tokens": end.read,
            "completion_tokens": end.written,
            "total_tokens": end.read + end.written,
        }

    def whole(self, events: Sequence[Told]) -> dict[str, Any]:
        """The reply in one."""
        read, *pieces, end = events
        assert isinstance(read, Read)
        assert isinstance(end, End)
        own = self.summary(read, end)
        if self.asked.per_token:
            own["tokens"] = [
                {"text": piece.text, "values": self.values(piece.values)}
                for piece in pieces
                if isinstance(piece, Piece)
            ]
        message = {"role": "assistant", "content": end.reply, "refusal": None}
        choice = self._choice({"message": message}, own, end.reason)
        return self._answer("chat.completion", [choice]) | {"usage": self.usage(end)}

    async def chunks(self, events: Events, first: Told) -> AsyncIterator[str]:
        """The reply piece by piece."""
        assert isinstance(first, Read)
        colon = {n: {"colon": v} for n, v in self.values(first.watched.colon[self.column]).items()}
        begun = self.told | {"readouts": colon, "alarms": told_alarms(first.alarms)}
        yield self._chunk({"role": "assistant", "content": ""}, begun)
        async for told in events:
            if isinstance(told, Piece):
                own = {"values": self.values(told.values), "alarms": told_alarms(told.alarms)}
                yield self._chunk({"content": told.text}, own)
            elif isinstance(told, End):
                if told.text:
                    yield self._chunk({"content": told.text}, {})
                yield self._chunk({}, self.summary(first, told), told.reason)
                if self.asked.stream_options and self.asked.stream_options.include_usage:
                    last = self._answer("chat.completion.chunk", [])
                    yield sent(last | {"usage": self.usage(told)})
            elif isinstance(told, Failed):
                yield sent({"error": {"message": told.error, "type": "server_error"}})
        yield "data: [DONE]\n\n"

    def _chunk(
        self, delta: Mapping[str, Any], own: Mapping[str, Any], reason: str | None = None
    ) -> str:
        choice = self._choice({"delta": delta}, own, reason)
        return sent(self._answer("chat.completion.chunk", [choice]))

    def _choice(
        self, said: Mapping[str, Any], own: Mapping[str, Any], reason: str | None
    ) -> dict[str, Any]:
        rest = {"finish_reason": reason, "logprobs": None, "emolens": own}
        return {"index": 0, **said, **rest}

    def _answer(self, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**self.head, "object": kind, "choices": list(choices)}
