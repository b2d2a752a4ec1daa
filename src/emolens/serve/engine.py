"""One watched model behind a waiting line: requests go in, readouts and pieces of text come out."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Event as Flag, Lock
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.alarms import Name
from emolens.dialogue import usual_render
from emolens.errors import CorpusError, EmolensError, SelectionError
from emolens.generation import Steering, steered, steps_along
from emolens.model import HookedModel
from emolens.monitor import Alarm, Monitor, Step, Watched
from emolens.organism import CHECKPOINTS, organism_turns
from emolens.rollouts import Render
from emolens.text import Text, Turn

Reason = Literal["stop", "length", "cancelled"]
log = logging.getLogger("emolens.serve")


class Busy(EmolensError):
    """The waiting line is full."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask, and how many may wait.

    Attributes:
        waiting: requests in line behind the one that is being written.
        messages: of a conversation.
        characters: of all messages together.
        tokens: most that are written, also where a request names no number.
        steered: emotions that are stepped along at a time.
        strength: of each step, in fractions of the mean residual norm: one such step is as long as
            the stream itself, and text breaks long before.
        stops: sequences at which a reply ends.
        stop_characters: of each of them.
    """

    waiting: int = 64
    messages: int = 64
    characters: int = 32_768
    tokens: int = 512
    steered: int = 8
    strength: float = 1.0
    stops: int = 4
    stop_characters: int = 64


USUAL = Limits()
BEFORE = 8  # tokens of the conversation that are decoded with the reply
INCOMPLETE = "\ufffd"  # what bytes are decoded to that are no character yet


@dataclass(frozen=True)
class Request:
    """A reply that is asked for.

    Attributes:
        turns: what was said; the reply comes after the last.
        tokens: most that are written.
        temperature: of the sampling.
        seed: of the sampling.
        stops: the reply ends before the first of these.
        steering: emotions, and how far to step along each, in fractions of the mean residual norm;
            at every token of the conversation and of the reply.
        layer: 0-based block that is steered and told of; by default the first that is watched.
    """

    turns: tuple[Turn, ...]
    tokens: int
    temperature: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()
    steering: Mapping[str, float] = field(default_factory=dict)
    layer: int | None = None


@dataclass(frozen=True, eq=False)
class Read:
    """The conversation was read, and nothing is written yet.

    Attributes:
        watched: readouts at each of its tokens; those at the last, the colon, are in whose state
            the reply begins.
        alarms: that it raised.
    """

    watched: Watched
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """A token was written.

    Attributes:
        text: new characters of the reply; none where the token ends within one, or within what may
            become a stop sequence.
        values: readouts at the token before, in whose state this one was chosen.
        alarms: that were not raised before.
    """

    text: str
    values: Float[Tensor, " emotion"]
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True, eq=False)
class End:
    """The reply is there.

    Attributes:
        text: characters that were held back.
        reply: all of it.
        reason: why it ended.
        read: tokens of the conversation.
        written: tokens of the reply, with its end token.
        mean: readouts over the reply's tokens, where there are any.
        alarms: all that were raised, in the order of the text.
        seconds: from when its turn came.
    """

    text: str
    reply: str
    reason: Reason
    read: int
    written: int
    mean: Float[Tensor, " emotion"] | None
    alarms: tuple[Alarm, ...]
    seconds: float


@dataclass(frozen=True)
class Failed:
    """There is no reply.

    Attributes:
        error: one line that says why.
        own: whether the request can be mended; else the fault is here.
    """

    error: str
    own: bool


Told = Read | Piece | End | Failed
Deliver = Callable[[Told], None]


class Job:
    """A request in the engine's hands."""

    def __init__(self, request: Request, deliver: Deliver) -> None:
        """A request, and what is called with each event, from the engine's thread."""
        self.request, self.deliver = request, deliver
        self.gone = Flag()
        self.future: Future[None] | None = None

    def cancel(self) -> None:
        """Take it out of the line, or end it with the next token; what is done stays done."""
        self.gone.set()
        if self.future is not None:
            self.future.cancel()


class Engine:
    """Writes one reply at a time, in a thread of its own.

    Events of a request are delivered from that thread: `Read`, a `Piece` for every token, `End`; or
    `Failed` instead of any of them. Nothing is delivered once a waiting request is cancelled.

    Attributes:
        monitor: what watches, and the model.
        render: turns as the model reads them.
        limits: of requests.
        examples: first messages that the model understands, for the page.

    >>> import emolens
    >>> model = emolens.load("organism-small")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=4), layers=[2])
    >>> neutral = emolens.record(model, emolens.organism_neutral(count=20), layers=[2])
    >>> engine = Engine(Monitor(model, emolens.fit_vectors(stories, neutral), (2,)))
    >>> told = []
    >>> job = engine.submit(Request((Turn("user", "Mira had no money."),), 4), told.append)
    >>> engine.close()
    >>> [type(event).__name__ for event in told][:1]
    ['Read']
    """

    def __init__(
        self,
        monitor: Monitor,
        render: Render | None = None,
        limits: Limits = USUAL,
        examples: Sequence[str] = (),
    ) -> None:
        """Open the line.

        Args:
            monitor: model, vectors, layers, perhaps thresholds.
            render: by default the model's chat template, else `emolens.plain`; the organism has a
                form of its own.
            limits: of requests.
            examples: first messages that the model understands.

        Raises:
            ModelError: for an encoder.
        """
        monitor.model.require_logits("a reply")
        self.monitor, self.limits, self.examples = monitor, limits, tuple(examples)
        self.render = render or own_render(monitor.model)
        self._worker = ThreadPoolExecutor(1, "emolens-engine")
        self._lock = Lock()
        self._jobs: set[Job] = set()
        cuts = monitor.thresholds
        names = zip(cuts.moment, cuts.emotion, cuts.layer, strict=True)
        self.thresholds: dict[Name, float] = dict(zip(names, cuts.threshold, strict=True))

    @property
    def pending(self) -> int:
        """Requests in line and being written."""
        return len(self._jobs)

    @property
    def layer(self) -> int:
        """The layer of requests that name none."""
        return self.monitor.layers[0]

    def submit(self, request: Request, deliver: Deliver) -> Job:
        """Put a request in line.

        Raises:
            Busy: if the line is full.
            SelectionError: for emotions, strengths or layers that are not to be had.
            CorpusError: for more than the limits allow.
        """
        self.check(request)
        job = Job(request, deliver)
        with self._lock:
            if len(self._jobs) > self.limits.waiting:
                raise Busy(f"{self.limits.waiting} requests are waiting already: try again later")
            self._jobs.add(job)
        job.future = self._worker.submit(self._run, job)
        job.future.add_done_callback(partial(self._done, job))
        return job

    def check(self, request: Request) -> None:
        """See that a request stays within the limits, before it waits."""
        layer, limits = self.layer_of(request), self.limits
        if len(request.steering) > limits.steered:
            raise SelectionError(
                f"steering along {len(request.steering)} emotions: give {limits.steered} at most"
            )
        for emotion, strength in request.steering.items():
            self.monitor.cell(emotion, layer)
            if not abs(strength) <= limits.strength:  # NaN too
                raise SelectionError(
                    f"steering by {emotion!r} at {strength:g}: give a strength from "
                    f"{-limits.strength:g} to {limits.strength:g}, in fractions of the residual "
                    "norm"
                )
        size = sum(len(turn.text) for turn in request.turns)
        if not 0 < len(request.turns) <= limits.messages or size > limits.characters:
            raise CorpusError(
                f"{len(request.turns)} messages of {size} characters: give 1 to {limits.messages} "
                f"of at most {limits.characters} together"
            )
        if not 1 <= request.tokens <= limits.tokens:
            raise SelectionError(
                f"{request.tokens} tokens cannot be written: give 1 to {limits.tokens}"
            )
        if len(request.stops) > limits.stops or not all(
            0 < len(stop) <= limits.stop_characters for stop in request.stops
        ):
            raise SelectionError(
                f"{len(request.stops)} stop sequences: give {limits.stops} at most, of 1 to "
                f"{limits.stop_characters} characters"
            )

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests and wait until all are done, or cancelled."""
        if cancel:
            for job in list(self._jobs):
                job.cancel()
        self._worker.shutdown(wait=True)

    def layer_of(self, request: Request) -> int:
        """The layer that a request steers and is told of.

        Raises:
            SelectionError: if it is not watched.
        """
        layer = self.layer if request.layer is None else request.layer
        self.monitor.cell(self.monitor.vectors.emotions[0], layer)
        return layer

    def _steering(self, request: Request) -> Steering:
        return steps_along(self.monitor.vectors, self.layer_of(request), request.steering)

    def _run(self, job: Job) -> None:
        """Write one reply; what goes wrong is told when the future is done."""
        if job.gone.is_set():
            return
        began, request, monitor = time.perf_counter(), job.request, self.monitor
        prompt = self.render([*request.turns, Turn("assistant", "")])
        steering = self._steering(request)
        read = self._read(prompt, steering)
        job.deliver(Read(read, read.alarms))
        reply = _Reply(self, job, read, monitor.layers.index(self.layer_of(request)))
        # a guard that acts on alarms takes the place of the monitor here
        found = monitor.generate(
            [prompt],
            steering,
            tokens=request.tokens,
            temperature=request.temperature,
            seed=[request.seed],
            on_step=reply.wrote,
        )[0]
        job.deliver(reply.end(found, time.perf_counter() - began))

    def _read(self, prompt: Text, steering: Steering) -> Watched:
        """What is held at each token of the conversation, in a pass of its own.

        So that it can be told before anything is written.
        """
        model = self.monitor.model
        tokens = model.tokenize([prompt])
        if tokens.cut or int(model.ends(tokens)[0]) >= model.n_ctx:
            raise SelectionError(
                f"the conversation leaves no room to reply in a context of {model.n_ctx} tokens: "
                "give a shorter one"
            )
        if not steering.changes:
            return self.monitor.read([prompt])[0]
        with torch.inference_mode(), steered(model, [prompt], tokens, [steering]):
            return self.monitor.read([prompt])[0]

    def _done(self, job: Job, future: Future[None]) -> None:
        with self._lock:
            self._jobs.discard(job)
        error = None if future.cancelled() else future.exception()
        if isinstance(error, EmolensError):
            job.deliver(Failed(" ".join(str(error).split()), own=True))
        elif error is not None:
            log.error("a reply failed", exc_info=error)
            job.deliver(Failed(f"{type(error).__name__} while writing: see the log", own=False))


def own_render(model: HookedModel) -> Render:
    """How a model reads a conversation; the organism has a form of its own."""
    return organism_turns if model.name in CHECKPOINTS else usual_render(model)


class _Reply:
    """Makes pieces of text of written tokens and delivers them."""

    def __init__(self, engine: Engine, job: Job, read: Watched, column: int) -> None:
        self.engine, self.job, self.read, self.column = engine, job, read, column
        # how a token is written may hang on those before it
        self.before = read.read.ids[0, -BEFORE:].tolist()
        self.ids: list[int] = []
        self.room = min(job.request.tokens, engine.monitor.model.n_ctx - len(read.read.mask[0]))
        self.text, self.told, self.stopped = "", 0, False
        self.reason: Reason = "stop"
        self.raised: set[Name] = set()
        # where the tokens of the window begin in the reply, the first of them at the colon
        colon = int(read.offsets[-1, 0]) - len(read.prompt.text)
        self.ends: deque[int] = deque([colon, 0], maxlen=engine.monitor.window + 1)

    def wrote(self, step: Step) -> bool:
        """Tell of a token; False where the reply ends before it."""
        if self.job.gone.is_set():
            self.reason = "cancelled"
            return False
        alarms = self._alarms(step)
        tokenizer = self.engine.monitor.model.tokenizer
        self.ids.append(step.token)
        self.text = self._decoded().rstrip(INCOMPLETE)
        self.ends.append(len(self.text))
        self.stopped = self._stop()
        if len(self.ids) == self.room and step.token not in tokenizer.all_special_ids:
            self.reason = "stop" if self.stopped else "length"
        upto = len(self.text) if self.stopped else _certain(self.text, self.job.request.stops)
        piece, self.told = self.text[self.told : upto], max(self.told, upto)
        self.job.deliver(Piece(piece, step.values[self.column].cpu(), alarms))
        return not self.stopped

    def end(self, found: Watched, seconds: float) -> End:
        """What is told at last."""
        if not self.stopped:
            self.text = self._decoded()  # also a character that the model did not finish
        own = found.values[found.first :, self.column]
        return End(
            self.text[self.told :],
            self.text,
            self.reason,
            len(self.read.read.mask[0]),
            len(self.ids),
            own.mean(0) if len(own) else None,
            found.alarms,
            seconds,
        )

    def _decoded(self) -> str:
        """All that is written; what was told stays, also where bytes to come would change it."""
        decode = self.engine.monitor.model.tokenizer.decode
        before = decode(self.before, skip_special_tokens=True)
        whole = decode([*self.before, *self.ids], skip_special_tokens=True)
        return self.text[: self.told] + whole[len(before) + self.told :]

    def _stop(self) -> bool:
        """Cut the text before the first stop sequence, if there is one."""
        at = [self.text.find(stop) for stop in self.job.request.stops if stop in self.text]
        if at:
            self.text = self.text[: min(at)]
        return bool(at)

    def _alarms(self, step: Step) -> tuple[Alarm, ...]:
        """What the reply raises for the first time; the prompt's alarms are told already."""
        monitor, fresh = self.engine.monitor, []
        for name in step.alarms:
            if name in self.raised or name[0] != "reply":
                continue
            self.raised.add(name)
            moment, emotion, layer = name
            start, end, begun = self.ends[0], self.ends[-1], len(self.read.prompt.text)
            alarm = Alarm(
                moment,
                emotion,
                layer,
                value=float(step.windowed[monitor.cell(emotion, layer)]),
                threshold=self.engine.thresholds[name],
                place=self.read.first + step.place - 1,
                start=begun + start,
                end=begun + end,
                words=(self.read.prompt.text + self.text)[begun + start : begun + end],
            )
            fresh.append(alarm)
        return tuple(fresh)


def _certain(text: str, stops: Sequence[str]) -> int:
    """How much of a text can no longer become a stop sequence.

    >>> _certain("one. tw", [". two"])
    3
    """
    begun = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return len(text) - max(begun, default=0)
