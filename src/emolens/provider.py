"""A model provider for Inspect (`emolens[evals]`): any of its tasks, run under steering.

    inspect eval TASK --model emolens/organism -M vectors=FILE -M steer=calm=0.1 -M readouts=calm

Inspect finds it by an entry point. Each reply's steering, seed and readouts stand in its log, under
`metadata["emolens"]` of the model's output.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.dialogue import usual_render
from emolens.errors import CorpusError, EmolensError, ModelError, SelectionError
from emolens.generation import (
    GENERATED_TOGETHER,
    UNCHANGED,
    Steering,
    generate,
    parse_steps,
    steps_along,
)
from emolens.interventions import Residual
from emolens.model import HookedModel, load
from emolens.readout import Readout
from emolens.rollouts import Render
from emolens.sites import two_thirds
from emolens.text import Text, Tokens, Turn, begun
from emolens.vectors import EmotionVectors, load_vectors

try:
    import anyio
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessage,
        ChatMessageAssistant,
        GenerateConfig,
        Model,
        ModelAPI,
        ModelOutput,
        ModelUsage,
        StopReason,
        modelapi,
    )
    from inspect_ai.tool import ToolChoice, ToolInfo
except ImportError:
    raise ModelError(
        "a model for Inspect needs inspect-ai, which is not installed: pip install 'emolens[evals]'"
    ) from None

LENGTH = 2048  # most tokens of a reply where a task sets no limit, as Inspect's own providers have
# What a task may ask of sampling that `emolens.generate` does not do, and what changes nothing.
_UNKNOWN: Mapping[str, Any] = {
    "best_of": 1,
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "num_choices": 1,
    "presence_penalty": 0,
    "prompt_logprobs": None,
    "response_schema": None,
    "top_k": -1,
    "top_p": 1,
}

Steps = Mapping[str, float]  # emotions, and how far to step along each, in residual norms
Asked = Steering | Steps | Sequence[str] | str | None


def inspect_model(
    model: HookedModel,
    steering: Steering | Steps = UNCHANGED,
    *,
    vectors: EmotionVectors | None = None,
    layer: int | None = None,
    readouts: Sequence[str] = (),
    render: Render | None = None,
    config: GenerateConfig | None = None,
) -> Model:
    """A model that is open already as one of Inspect's, for `inspect_ai.eval(task, model=...)`.

    A reply depends on its prompt, its seed and the steering, not on what is asked beside it (in
    float32). Without a seed each draws anew; with one, a prompt that is asked again (epochs) gets
    the same reply.

    Args:
        model: a decoder.
        steering: what is done while it reads and writes, or by emotion a strength in fractions of
            the mean residual norm, for example `{"calm": 0.1}`.
        vectors: of this model; for strengths by emotion and for readouts.
        layer: 0-based block that is steered by emotion and read; two thirds through the layers
            of the vectors by default.
        readouts: emotions whose centred readout is told with each reply: at the last token of the
            prompt, where the reply begins, and as the mean over the tokens of the reply that the
            model read back (thus without the very last).
        render: how messages become what the model reads, as `emolens.plain`; by default its chat
            template where it has one, else `emolens.plain`.
        config: Inspect's own options of generation.

    Raises:
        ModelError: for an encoder, or vectors of another model.
        SelectionError: for an emotion or layer that the vectors lack, or emotions without vectors.

    >>> import emolens
    >>> str(inspect_model(emolens.load("organism")))
    'emolens/organism'
    """
    config = config or GenerateConfig()
    api: Any = emolens_provider
    made = api(
        model.name,
        config=config,
        model=model,
        vectors=vectors,
        steer=steering,
        layer=layer,
        readouts=readouts,
        render=render,
    )
    return Model(made, config, made.told)


@modelapi(name="emolens")
def emolens_provider() -> type[ModelAPI]:
    """What Inspect looks up as `emolens/NAME`."""
    return SteeredModel


@dataclass(eq=False)
class _Request:
    """One reply that is asked for, and what came of it."""

    text: Text
    size: int
    tokens: int
    temperature: float
    seed: int
    stops: tuple[str, ...]
    output: ModelOutput | None = None

    def goes_with(self, other: "_Request") -> bool:
        """Whether another one is yet to be written, and can be in the same batch."""
        alike = (self.tokens, self.temperature) == (other.tokens, other.temperature)
        return alike and other.output is None


class SteeredModel(ModelAPI):
    """A model under steering, as Inspect talks to it: by messages, one reply at a time.

    Replies that are asked for at the same time are written together.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (a value, as in Inspect's own)
        *,
        model: HookedModel | None = None,
        vectors: EmotionVectors | Path | str | None = None,
        steer: Asked = None,
        layer: int | None = None,
        readouts: Sequence[str] | str = (),
        render: Render | None = None,
        device: str | None = None,
        dtype: str = "float32",
        **others: Any,
    ) -> None:
        """Open the model, and see that all that is asked can be done.

        Args:
            model_name: as for `emolens.load`.
            base_url: not used; nothing is on a network.
            api_key: not used.
            config: Inspect's own options of generation.
            model: one that is open already.
            vectors: or the file that `EmotionVectors.save` wrote.
            steer: as in `inspect_model`, or `"calm=0.1,desperate=-0.05"`.
            layer: as in `inspect_model`.
            readouts: as in `inspect_model`, or `"calm,desperate"`.
            render: as in `inspect_model`.
            device: as for `emolens.load`.
            dtype: for example `"bfloat16"`.
            others: no more are known.

        Raises:
            ModelError: as `inspect_model` and `emolens.load`, and for unknown arguments.
            SelectionError: as `inspect_model`.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        if others:
            raise ModelError(
                f"unknown model argument {next(iter(others))!r}: there are vectors, steer, layer, "
                "readouts, device and dtype"
            )
        self.model = model or load(model_name, device=device, dtype=_dtype(dtype))
        self.model.require_logits("a reply")
        self.vectors = load_vectors(vectors) if isinstance(vectors, str | Path) else vectors
        if self.vectors is not None:
            self.model.check_origin(self.vectors.provenance, "this set of vectors")
            if layer is None:
                layer = two_thirds(self.vectors.layers)
        self.layer = layer
        names = readouts.split(",") if isinstance(readouts, str) else readouts
        self.readouts = tuple(name.strip() for name in names)
        self.reader: tuple[Readout, list[int]] | None = None
        if self.readouts:
            fitted = self._fitted(f"the readout of {self.readouts[0]!r}")
            assert self.layer is not None
            ready = Readout.prepare(fitted, self.layer, device=self.model.device)
            self.reader = ready, [fitted.row(name) for name in self.readouts]
        self.steering, steered = self._steering(steer)
        self.told = {"steer": steered, "layer": layer, "readouts": list(self.readouts)}
        self.render = render or usual_render(self.model)
        self._waiting: list[_Request] = []
        self._lock = Lock()

    def _fitted(self, what: str) -> EmotionVectors:
        """The vectors, at a layer that they have."""
        if self.vectors is None or self.layer is None:
            raise SelectionError(
                f"{what} needs vectors: give vectors=FILE, from EmotionVectors.save"
            )
        self.vectors.column(self.layer)
        return self.vectors

    def _steering(self, asked: Asked) -> tuple[Steering, Any]:
        """What is done, and how a log tells it."""
        if isinstance(asked, Steering):
            changes = {k: type(change).__name__ for k, change in asked.changes.items()}
            return asked, {f"layer {k}": name for k, name in changes.items()}
        if isinstance(asked, Mapping):
            steps = dict(asked)
        else:  # Inspect's command line makes a list of what stands between commas
            words = asked if isinstance(asked, str) else ",".join(asked or ())
            steps = parse_steps(words) if words else {}
        if not steps:
            return UNCHANGED, {}
        vectors, layer = self._fitted(f"steering by {next(iter(steps))!r}"), self.layer
        assert layer is not None
        return steps_along(vectors, layer, steps), steps

    def max_tokens(self) -> int:
        """Most tokens of a reply where a task sets no limit."""
        return LENGTH

    def max_connections(self) -> int:
        """How many replies Inspect asks for at a time: as many as are written together."""
        return GENERATED_TOGETHER

    def collapse_user_messages(self) -> bool:
        """Messages of one side that follow on each other are one turn."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Messages of one side that follow on each other are one turn."""
        return True

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002 (Inspect hands it over)
        config: GenerateConfig,
    ) -> ModelOutput:
        """A reply to some messages.

        Raises:
            ModelError: for tools, or ways of sampling that are not emolens's.
            CorpusError: for messages with more than text, or that the template does not take.
            SelectionError: for messages that fill the context.
        """
        _refuse(tools, config)
        turns = [_turn(message) for message in input]
        return await anyio.to_thread.run_sync(self._reply, turns, config)

    def _reply(self, turns: Sequence[Turn], config: GenerateConfig) -> ModelOutput:
        """In a thread of its own: wait for the model, and write with whoever waits as well."""
        request = self._request(turns, config)
        self._waiting.append(request)
        with self._lock:
            if request.output is None:
                others = [r for r in [*self._waiting] if r is not request and request.goes_with(r)]
                try:
                    self._write([request, *others][:GENERATED_TOGETHER])
                finally:
                    self._waiting.remove(request)
            else:
                self._waiting.remove(request)
        assert request.output is not None
        return request.output

    def _request(self, turns: Sequence[Turn], config: GenerateConfig) -> _Request:
        first = ""
        if turns and turns[-1].role == "assistant":  # a reply that was begun for the model
            turns, first = turns[:-1], turns[-1].text
        text = self.render([*turns, Turn("assistant", "")])
        text = begun(text, first) if first else text
        size = len(self.model.tokenizer(text.text)["input_ids"])
        if size >= self.model.n_ctx:
            raise SelectionError(
                f"messages of {size} tokens leave no room to reply in a context of "
                f"{self.model.n_ctx}: give shorter ones"
            )
        seed = secrets.randbits(32) if config.seed is None else config.seed
        if seed < 0:
            raise SelectionError(f"seed {seed} is below 0: give one of 0 or more")
        # each prompt draws by itself: with one seed for all, alike prompts would choose alike
        own = np.random.SeedSequence([seed, crc32(text.text.encode())]).generate_state(1)[0]
        return _Request(
            text,
            size,
            LENGTH if config.max_tokens is None else config.max_tokens,
            1.0 if config.temperature is None else config.temperature,
            int(own),
            tuple(config.stop_seqs or ()),
        )

    def _write(self, requests: Sequence[_Request]) -> None:
        """Write the replies; if that cannot be, the first alone, so that it has its own error."""
        try:
            self._write_together(requests)
        except EmolensError:
            if len(requests) == 1:
                raise
            self._write_together(requests[:1])

    def _write_together(self, requests: Sequence[_Request]) -> None:
        listener = _Listener(self, requests)
        first = requests[0]
        replies = generate(
            self.model,
            [r.text for r in requests],
            self.steering,
            tokens=first.tokens,
            temperature=first.temperature,
            seed=[r.seed for r in requests],
            together=len(requests),
            observer=listener,
        )
        for row, (request, reply) in enumerate(zip(requests, replies, strict=True)):
            ids = listener.ids[row]
            values = listener.values(row)
            request.output = ModelOutput(
                model=self.model_name,
                choices=[
                    ChatCompletionChoice(
                        message=ChatMessageAssistant(
                            content=_cut(reply, request.stops),
                            model=self.model_name,
                            source="generate",
                        ),
                        stop_reason=self._reason(request, ids, reply),
                    )
                ],
                usage=ModelUsage(
                    input_tokens=request.size,
                    output_tokens=len(ids),
                    total_tokens=request.size + len(ids),
                ),
                metadata={"emolens": self.told | {"seed": request.seed, "readouts": values}},
            )

    def _reason(self, request: _Request, ids: Sequence[int], reply: str) -> StopReason:
        """Why a reply ended."""
        ended = ids[-1] == self.model.tokenizer.eos_token_id
        if ended or _cut(reply, request.stops) != reply:
            return "stop"
        if len(ids) == request.tokens:
            return "max_tokens"
        return "model_length" if request.size + len(ids) >= self.model.n_ctx else "stop"


@dataclass(eq=False)
class _Listener:
    """Looks on as replies are written: keeps their tokens, reads emotions, ends them at stops."""

    api: SteeredModel
    requests: Sequence[_Request]
    ids: dict[int, list[int]] = field(default_factory=dict)
    read: dict[int, list[Float[Tensor, " emotion"]]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        """The block that is read, if any emotion is."""
        layer = self.api.layer
        return () if layer is None or self.api.reader is None else (layer,)

    @property
    def hears(self) -> bool:
        """Whether anything but the model may end a reply."""
        return any(request.stops for request in self.requests)

    def begin(self, rows: Sequence[int], prompts: Tokens) -> None:  # noqa: ARG002 (a protocol)
        """A batch begins."""
        self.rows = rows
        self.seen: list[Float[Tensor, "text emotion"]] = []
        self.ids |= {row: [] for row in rows}

    def see(self, layer: int, stream: Residual) -> Residual:  # noqa: ARG002 (a protocol)
        """Read the stream at the token after which the next one is chosen; leave it as it is."""
        assert self.api.reader is not None
        readout, columns = self.api.reader
        self.seen.append(readout(stream[:, -1])[:, columns].cpu())
        return stream

    def wrote(self, tokens: Mapping[int, int]) -> set[int]:
        """A token of each text; ends those that have written one of their stop sequences."""
        ended = set()
        for i, token in tokens.items():
            ids, stops = self.ids[self.rows[i]], self.requests[self.rows[i]].stops
            ids.append(token)
            told = self.api.model.tokenizer.decode(ids, skip_special_tokens=True) if stops else ""
            if any(stop in told for stop in stops):
                ended.add(i)
        return ended

    def end(self, written: Sequence[Sequence[int]]) -> None:
        """Part what was seen of a batch into its texts."""
        for i, row in enumerate(self.rows):
            self.ids[row] = [*written[i]]
            self.read[row] = [seen[i] for seen in self.seen[: len(written[i])]]

    def values(self, row: int) -> dict[str, dict[str, float | None]]:
        """By emotion, the readout where the reply begins and its mean over the reply."""
        read = self.read[row]
        reply = read[1:]
        means = torch.stack(reply).mean(0).tolist() if reply else [None] * len(self.api.readouts)
        return {
            name: {"prompt": float(read[0][i]), "reply": means[i]}
            for i, name in enumerate(self.api.readouts)
        }


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"unknown dtype {name!r}: give float32, bfloat16 or float16")
    return found


def _refuse(tools: Sequence[ToolInfo], config: GenerateConfig) -> None:
    """See that nothing is asked that would be left out in silence."""
    if tools:
        raise ModelError(
            f"tool {tools[0].name!r} cannot be called: emolens writes text alone, so give tasks "
            "without tools"
        )
    for name, nothing in _UNKNOWN.items():
        value = getattr(config, name)
        if value not in (None, nothing):
            raise ModelError(
                f"{name}={value!r} is not a way in which emolens samples: it knows temperature, "
                "max_tokens, seed and stop_seqs"
            )


def _turn(message: ChatMessage) -> Turn:
    """A message as a turn."""
    if message.role == "tool" or getattr(message, "tool_calls", None):
        raise CorpusError("a message calls a tool: emolens writes text alone, give tasks without")
    parts = [] if isinstance(message.content, str) else message.content
    others = [part.type for part in parts if part.type not in ("text", "reasoning")]
    if others:
        raise CorpusError(
            f"a message of the {message.role} holds {others[0]}, and emolens reads text alone: "
            "give tasks in words"
        )
    thought = "\n".join(part.reasoning for part in parts if part.type == "reasoning")
    return Turn(message.role, message.text, thought)


def _cut(reply: str, stops: Sequence[str]) -> str:
    """What stands before the first stop sequence.

    >>> _cut("one. two. three", ["three", ". t"])
    'one'
    """
    return reply[: min((reply.find(stop) for stop in stops if stop in reply), default=len(reply))]
