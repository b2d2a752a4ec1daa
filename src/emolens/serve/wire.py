"""What is sent: OpenAI's chat completions as far as they can be kept, and fields of our own."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emolens.errors import SelectionError
from emolens.serve.engine import Engine, Request
from emolens.text import Role, Turn

# OpenAI's fields that change nothing here
_IGNORED = {
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
# those that would change the reply and are not to be had, and the values with which they would not
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "top_p": (1,),
    "verbosity": (),
    "web_search_options": (),
}
_READOUTS = 256  # names in one request
_SEED = 2**63 - 1

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    """Types as they are sent; nothing is turned into another."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Part(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """What one side says."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def turn(self) -> Turn:
        """The same as a turn."""
        role: Role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return Turn(role, self.content)
        return Turn(role, "".join(part.text for part in self.content))


class StreamOptions(_Strict):
    """What comes with a stream."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool = False


class Asked(_Strict):
    """What the page asks for."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=0, le=_SEED)] | None = None
    steering: dict[str, Number] = {}
    layer: int | None = None

    def request(self, engine: Engine) -> Request:
        """The same for the engine, with a seed where none is given."""
        return Request(
            turns=tuple(message.turn() for message in self.messages),
            tokens=engine.limits.tokens if self.max_tokens is None else self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            seed=secrets.randbits(32) if self.seed is None else self.seed,
            steering=self.steering,
            layer=self.layer,
        )

    @model_validator(mode="after")
    def _ends_with_a_user(self) -> "Asked":
        if self.messages[-1].role == "assistant":
            raise ValueError("the last message is the assistant's: end with one to reply to")
        return self


class Completion(Asked):
    """What OpenAI's clients ask for."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    readouts: Annotated[list[str], Field(max_length=_READOUTS)] = []
    per_token: bool = False

    def request(self, engine: Engine) -> Request:
        """The same for the engine.

        Raises:
            SelectionError: for readouts that are not to be had.
        """
        asked = super().request(engine)
        tokens = self.max_completion_tokens or asked.tokens
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        for name in self.readouts:
            engine.monitor.vectors.row(name)
        return replace(asked, tokens=tokens, stops=tuple(stops))

    @model_validator(mode="after")
    def _nothing_is_left_out_in_silence(self) -> "Completion":
        for name, value in (self.model_extra or {}).items():
            if name in _IGNORED or value is None or value in _NEUTRAL.get(name, ()):
                continue
            known = "cannot be had here" if name in _NEUTRAL else "is unknown"
            raise ValueError(f"{name} {known} and would change the reply: leave it out")
        return self


A = TypeVar("A", bound=Asked)


def parsed(kind: type[A], body: bytes) -> A:
    """A body as what it should be.

    Raises:
        SelectionError: for anything else, naming the first field that is wrong.

    >>> parsed(Asked, b'{"messages": 1}')
    Traceback (most recent call last):
    emolens.errors.SelectionError: messages: Input should be a valid array
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise SelectionError(f"{where}: {said}" if where else said) from None
