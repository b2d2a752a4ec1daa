"""A conversation with a watched model under a guard, as it is shown in a terminal."""

import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text as RichText
from torch import Tensor

from emolens.errors import EmolensError, SelectionError
from emolens.generation import UNCHANGED, parse_steps
from emolens.guard import Action, Guard, Log, Policy, Regulate, Stop
from emolens.holding import regulation
from emolens.monitor import Alarm, Monitor, Watched
from emolens.report.safe import visible
from emolens.report.tokens import PERCENTILE
from emolens.serve import opening
from emolens.serve.engine import End, Engine, Failed, Piece, Read, Request, Told
from emolens.serve.numbers import number, numbers, state_of, told_alarms
from emolens.terminal.drawing import BAD, MARK, SOFT, Flow, Scale, gauge, tint
from emolens.text import Text, Turn

GuardName = Literal["none", "log", "stop", "calm"]
GUARDS: tuple[str, ...] = get_args(GuardName)
CALM = "calm"  # what the guard of that name steers to; it raises no alarms
SPREAD_OF = 64  # usual texts: a standard deviation to about a tenth
FULL = 3.0  # standard deviations of a token's readout, where its colour is full
LEAST_RANGE = 4.0  # standard deviations at the ends of a gauge
NUMBER = 7  # cells of a number
ROOM = 4  # a reply may ask for no more than this part of the context before turns are left out
NO_FEELING = (
    "These are measurements of representations and of what they do to a model's output; nothing "
    "here shows that a model feels anything."
)
REASONS = {"stop": "it ended", "length": "cut at --tokens", "cancelled": "stopped by you"}
HELP = {
    "/show": "EMOTION: colour the words by its readout",
    "/steer": "EMOTION=STRENGTH,..|off: step along it, in fractions of the residual norm",
    "/guard": f"{'|'.join(GUARDS)}: what is done about alarms",
    "/again": "the last message once more, with another seed",
    "/save": "FILE.json: the conversation with its readouts",
    "/reset": "begin anew",
    "/help": "this",
    "/quit": "end, as Ctrl-D does; Ctrl-C stops a reply",
}


# --- what is usual, and the guard ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Usual:
    """Mean and standard deviation of readouts in replies to usual texts.

    Attributes:
        colon: where the reply begins.
        reply: of the mean over a reply.
        token: of single tokens in whose state one of the reply is chosen.
    """

    colon: Float[Tensor, "2 emotion"]
    reply: Float[Tensor, "2 emotion"]
    token: Float[Tensor, "2 emotion"]

    @classmethod
    def of(cls, found: Sequence[Watched]) -> "Usual":
        """At the only layer that is watched."""
        written = [one for one in found if one.written]
        return cls(
            _spread(torch.stack([one.colon[0] for one in found])),
            _spread(torch.stack([one.values[one.first :, 0].mean(0) for one in written])),
            _spread(torch.cat([one.values[one.first - 1 :, 0] for one in found])),
        )


def _spread(values: Float[Tensor, "row emotion"]) -> Float[Tensor, "2 emotion"]:
    return torch.stack([values.mean(0), values.std(0).clamp_min(1e-6)])


@dataclass(frozen=True, eq=False)
class Guarding(Monitor):
    """A monitor that writes under a guard, so that an engine does.

    Attributes:
        policy: of the guard.
        actions: what it did at the last writing.
    """

    policy: Policy = field(default_factory=Log)
    actions: list[Action] = field(default_factory=list, repr=False)

    @cached_property
    def plain(self) -> Monitor:
        """The same without a guard."""
        return Monitor(**{own.name: getattr(self, own.name) for own in fields(Monitor)})

    def generate(
        self, texts: Sequence[Text | str], steering: Any = UNCHANGED, **options: Any
    ) -> list[Watched]:
        """As `Monitor.generate`, under the guard."""
        found = Guard(self.plain, self.policy).generate(texts, steering, **options)
        self.actions[:] = [action for one in found for action in one.actions]
        return [one.watched for one in found]


# --- the conversation -------------------------------------------------------------------------


@dataclass
class Settings:
    """What can be changed while one talks.

    Attributes:
        emotions: that have gauges; those beside calm raise alarms and are held.
        shown: the one that colours words.
        guard: what is done about alarms.
        rate: of false alarms.
        seed: of the next reply.
        tokens: most that are written.
        temperature: of the sampling.
        steering: strengths by emotion, in fractions of the mean residual norm.
    """

    emotions: tuple[str, ...]
    shown: str
    guard: str = "log"
    rate: float = 0.05
    seed: int = 0
    tokens: int = 60
    temperature: float = 1.0
    steering: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exchange:
    """A message and its reply.

    Attributes:
        said: by the user.
        request: what the engine was asked.
        guard: under which it was written.
        read: the conversation up to there, with its readouts.
        pieces: the reply, token by token.
        end: the reply.
        actions: of the guard.
    """

    said: str
    request: Request
    guard: str
    read: Read
    pieces: tuple[Piece, ...]
    end: End
    actions: tuple[Action, ...]

    @property
    def turns(self) -> list[Turn]:
        """As the model reads it later; nothing where it wrote nothing."""
        reply = self.end.reply.strip()
        return [Turn("user", self.said), Turn("assistant", reply)] if reply else []

    @property
    def colon(self) -> Float[Tensor, " emotion"]:
        """Readouts where the reply begins: as it was written, also under a guard."""
        return self.pieces[0].values if self.pieces else self.read.watched.colon[0]

    def record(self, emotions: Sequence[str], shown: Sequence[str]) -> dict[str, Any]:
        """For a file: all readouts of the whole, and some of each token."""
        rows, request, end = [emotions.index(name) for name in shown], self.request, self.end
        means = {"colon": self.colon} | ({} if end.mean is None else {"mean": end.mean})
        return {
            "user": self.said,
            "reply": end.reply,
            "reason": end.reason,
            "seed": request.seed,
            "temperature": request.temperature,
            "steering": dict(request.steering),
            "guard": self.guard,
            "readouts": {
                moment: dict(zip(emotions, numbers(values), strict=True))
                for moment, values in means.items()
            },
            "token_emotions": list(shown),
            "tokens": [
                {"text": piece.text, "values": numbers(piece.values[rows])} for piece in self.pieces
            ],
            "alarms": told_alarms(end.alarms),
            "actions": [_told_action(action) for action in self.actions],
        }


def _told_action(action: Action) -> dict[str, Any]:
    alarm = None if action.alarm is None else told_alarms([action.alarm])[0]
    return asdict(action) | {"alarm": alarm, "length": number(action.length)}


class Chat:
    """A conversation on a console.

    Attributes:
        console: where it is shown.
        settings: changed by commands.
        exchanges: so far.
    """

    def __init__(
        self,
        console: Console,
        opened: Engine,
        usual: Sequence[Text],
        settings: Settings,
        source: str = "fitted here",
    ) -> None:
        """Set thresholds, if there is a guard, and begin.

        Args:
            console: where it is shown; with colours if it has some.
            opened: model, vectors and one layer; without thresholds.
            usual: prompts to which replies are usual: they set thresholds and what a guard holds.
            settings: to begin with.
            source: of the vectors, to be told.

        Raises:
            EmolensError: for settings that are not to be had.
        """
        self.console, self.settings, self.source = console, settings, source
        self.plain, self.render, self.limits = opened.monitor, opened.render, opened.limits
        self.usual, self.examples = usual, opened.examples
        self.exchanges: list[Exchange] = []
        self.spread: Usual | None = None
        self.engine = opened
        for name in (*settings.emotions, settings.shown):
            self.plain.vectors.row(name)
        opened.check(self._request([Turn("user", "")]))
        self._watch(settings.guard)

    @cached_property
    def calibrated(self) -> Monitor:
        """The monitor with thresholds; what is usual is known with them."""
        monitor, found = self.plain.calibrate(
            self.usual,
            emotions=self._alarming,
            moments=("colon", "reply"),
            rate=self.settings.rate,
            tokens=opening.CALIBRATED,
        )
        self.spread = Usual.of(
            self.plain.generate(self.usual[:SPREAD_OF], tokens=opening.CALIBRATED)
        )
        self.tell(repr(found))
        return monitor

    @cached_property
    def held(self) -> Regulate:
        """The guard that steers to calm."""
        return Regulate(regulation(self.plain, self.usual, emotions=self._alarming, calm=CALM))

    @cached_property
    def _alarming(self) -> list[str]:
        """Emotions that raise alarms and are held: those of the start."""
        names = [name for name in self.settings.emotions if name != CALM]
        if not names:
            raise SelectionError(f"nothing to guard: give --emotions others than {CALM!r}")
        return names

    def _watch(self, guard: str) -> None:
        """Have replies written under a guard."""
        own = self.plain if guard == "none" else self.calibrated
        policies: dict[str, Callable[[], Policy]] = {"stop": Stop, "calm": lambda: self.held}
        parts = {part.name: getattr(own, part.name) for part in fields(Monitor)}
        self.engine.close()
        self.guarding = Guarding(**parts, policy=policies.get(guard, Log)())
        self.engine = Engine(self.guarding, self.render, self.limits)
        self.settings.guard = guard

    @property
    def row(self) -> int:
        """Of the emotion that colours words."""
        return self.plain.vectors.row(self.settings.shown)

    # --- what is typed

    def take(self, line: str) -> bool:
        """Answer a message or obey a command; False where that ends the conversation."""
        words = line.strip()
        try:
            if words.startswith("/"):
                return self._obey(words)
            if words:
                self._reply(words, self.exchanges)
        except EmolensError as error:
            self.tell(f"error: {' '.join(str(error).split())}", BAD)
        return True

    def _obey(self, words: str) -> bool:
        name, _, rest = words.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/show": self.show,
            "/steer": self.steer,
            "/guard": self.guard,
            "/again": self.again,
            "/save": self.save,
            "/reset": self.reset,
            "/help": self.help,
        }
        if name not in HELP:
            raise SelectionError(f"unknown command {name!r}: there are {', '.join(HELP)}")
        if name in commands:
            commands[name](rest.strip())
        return name in commands

    def show(self, name: str) -> None:
        """Colour by an emotion, which gets a gauge as well."""
        self.plain.vectors.row(name)
        self.settings.shown = name
        if name not in self.settings.emotions:
            self.settings.emotions += (name,)
        self._tell_colours()

    def steer(self, words: str) -> None:
        """Step along emotions from now on."""
        steps = {} if words == "off" else parse_steps(words, "write /steer calm=0.1, or /steer off")
        self.engine.check(replace(self._request([Turn("user", "")]), steering=steps))
        self.settings.steering = steps
        self.tell(_steps_told(steps))

    def guard(self, name: str) -> None:
        """Guard from now on."""
        if name not in GUARDS:
            raise SelectionError(f"no guard {name!r}: there are {', '.join(GUARDS)}")
        if name != "none" and self.spread is None:
            self.tell(f"setting thresholds on {len(self.usual)} usual texts ...")
        self._watch(name)
        self.tell(f"guard: {name}")

    def again(self, _words: str) -> None:
        """Write the last reply anew."""
        if not self.exchanges:
            raise SelectionError("nothing was said yet: write a message first")
        self.settings.seed += 1
        self._reply(self.exchanges[-1].said, self.exchanges[:-1])

    def save(self, name: str) -> None:
        """Write the conversation into a new file."""
        if not name:
            raise SelectionError("no file is named: write /save FILE.json")
        file, state = Path(name).expanduser(), state_of(self.engine)
        emotions, shown = state["emotions"], self.settings.emotions
        told = {key: value for key, value in state.items() if key not in ("limits", "examples")}
        told["vectors"] = self.source
        told["exchanges"] = [one.record(emotions, shown) for one in self.exchanges]
        try:
            with file.open("x", encoding="utf-8") as out:
                json.dump(told, out, indent=1, allow_nan=False)
        except FileExistsError:
            raise SelectionError(f"{file} is there already: give another name") from None
        except OSError as error:
            raise SelectionError(
                f"cannot write {file} ({error.strerror}): give another name"
            ) from None
        self.tell(f"saved: {file}")

    def reset(self, _words: str) -> None:
        """Forget what was said; settings stay."""
        self.exchanges = []
        self.tell("a new conversation; settings stay")

    def help(self, _words: str) -> None:
        """The commands."""
        for name, told in HELP.items():
            self.tell(f"{name:7}{told}", Style())

    # --- replies

    def _reply(self, words: str, before: Sequence[Exchange]) -> None:
        """Have the model reply after some exchanges, and show it."""
        written = self._written(words, self._request(self._fitting(words, before)))
        self.exchanges = [*before, written]
        self._tell_end(written)

    def _request(self, turns: Sequence[Turn]) -> Request:
        own = self.settings
        return Request(
            tuple(turns), own.tokens, own.temperature, own.seed, steering=dict(own.steering)
        )

    def _fitting(self, words: str, before: Sequence[Exchange]) -> list[Turn]:
        """The conversation with a new message, without the oldest turns if they do not fit."""
        pairs = [one.turns for one in before if one.turns]
        for left_out in range(len(pairs) + 1):
            turns = [*chain.from_iterable(pairs[left_out:]), Turn("user", words)]
            if self._fits(turns):
                break
        if left_out:
            self.tell(
                f"the oldest {left_out} of {len(pairs)} exchanges are left out: the context has "
                f"{self.plain.model.n_ctx} tokens"
            )
        return turns

    def _fits(self, turns: Sequence[Turn]) -> bool:
        """Whether the model can read them and reply."""
        model, limits = self.plain.model, self.limits
        size = sum(len(turn.text) for turn in turns)
        if len(turns) > limits.messages or size > limits.characters:
            return False
        tokens = model.tokenize([self.render([*turns, Turn("assistant", "")])])
        room = min(self.settings.tokens, model.n_ctx // ROOM)
        return not tokens.cut and int(model.ends(tokens)[0]) + room <= model.n_ctx

    def _written(self, words: str, request: Request) -> Exchange:
        """Show a reply while it is written.

        Raises:
            SelectionError: if there is none.
        """
        found: SimpleQueue[Told] = SimpleQueue()
        shown = Shown(self, Flow(self.console))
        with interruptible() as stopped:
            job = self.engine.submit(request, found.put)
            while not isinstance(told := found.get(), End | Failed):
                if stopped.is_set():
                    job.gone.set()  # it ends with the next token
                shown.hear(told)
            shown.hear(told)
        shown.flow.end()
        if isinstance(told, Failed):
            raise SelectionError(told.error)
        read, pieces, actions = shown.read, tuple(shown.pieces), tuple(self.guarding.actions)
        return Exchange(words, request, self.settings.guard, read, pieces, told, actions)

    def scale(self, read: Watched) -> Scale:
        """Of colours: around usual replies if they are known, else around 0."""
        if self.spread is None:
            return Scale(0.0, _magnitude(read)[self.row])
        mean, sd = self.spread.token[:, self.row].tolist()
        return Scale(mean, FULL * sd)

    # --- what is told

    def tell(self, line: str, style: Style = SOFT) -> None:
        """A line of our own; what others wrote in it is made inert."""
        self._put(RichText(visible(line), style))

    def _put(self, line: RichText) -> None:
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def greet(self) -> None:
        """Model, layer, vectors, what can be said, and what is not shown."""
        model = self.plain.model
        self.tell(
            f"{model.name}, layer {self.plain.layers[0]} of {model.n_layers}; vectors "
            f"{self.source}; guard {self.settings.guard}; /help tells the commands"
        )
        if self.examples:
            self.tell(f"it knows the words of its own world: {self.examples[0]}")
        self.tell(NO_FEELING)
        self._tell_colours()

    def _tell_colours(self) -> None:
        line = RichText(f"words are coloured by {visible(self.settings.shown)}: ", SOFT)
        for level, told in (
            (-1.0, " low "),
            (-0.5, "  "),
            (0.0, "  "),
            (0.5, "  "),
            (1.0, " high "),
        ):
            line.append(told, tint(level))
        known = f" {FULL:g} sd to each side of usual"
        line.append(known if self.spread else " to each side of 0", SOFT)
        self._put(line)

    def _tell_end(self, one: Exchange) -> None:
        """All that is to be said of a reply."""
        self._tell_gauges(one)
        for alarm in one.end.alarms:
            self._tell_alarm(alarm)
        stopped = any(action.kind == "stop" for action in one.actions)
        told = [
            f"seed {one.request.seed}",
            f"{one.end.written} tokens in {one.end.seconds:.1f} s",
            "stopped by the guard" if stopped else REASONS[one.end.reason],
            _steps_told(one.request.steering),
        ]
        if one.guard != "none":
            told.append(f"guard {one.guard}: {self._acted(one)}")
        self.tell("; ".join(told))
        if not one.turns:
            self.tell("nothing was written: the model will not read this message again")

    def _tell_alarm(self, alarm: Alarm) -> None:
        place = "where the reply begins" if alarm.moment == "colon" else f"in the {alarm.moment}"
        words = " ".join(visible(alarm.words).split())
        line = (
            f"alarm: {visible(alarm.emotion)} {place}, {alarm.value:.3f}, threshold "
            f"{alarm.threshold:.3f}: \u201c{words}\u201d"
        )
        one_line = self.console.is_terminal
        self.console.print(
            RichText(line, BAD), no_wrap=True, overflow="ellipsis", soft_wrap=not one_line
        )

    def _acted(self, one: Exchange) -> str:
        """What the guard did."""
        pushes = [action.length for action in one.actions if action.kind == "steer"]
        if pushes:
            vectors = self.plain.vectors
            norm = float(vectors.residual_norm[vectors.column(self.plain.layers[0])])
            return (
                f"{len(pushes)} tokens pushed, by {max(pushes) / norm:.2f} of the residual norm at "
                "most"
            )
        if not one.actions:
            return "nothing to do"
        if one.actions[-1].kind == "stop":
            return "ended the reply"
        return f"{len(one.actions)} alarm{'s' * (len(one.actions) > 1)} recorded"

    def _tell_gauges(self, one: Exchange) -> None:
        full, digits, unit = self._range(one.read.watched)
        broad = max(cell_len(visible(name)) for name in self.settings.emotions) + 1
        half = max(4, min(20, (self.console.width - broad - 2 * NUMBER - 4) // 4))
        self.tell(f"{'':{broad}}{'where it begins':<{2 * half + NUMBER + 2}}mean of the reply")
        for name in self.settings.emotions:
            row, line = self.plain.vectors.row(name), RichText(f"{visible(name):<{broad}}")
            for moment, values in (("colon", one.colon), ("reply", one.end.mean)):
                if values is not None:
                    value = self._standard(moment, name, float(values[row]))
                    line.append_text(gauge(value / full, self._cut(moment, name, full), half))
                    line.append(f"{value:+{NUMBER}.{digits}f} ")
            self._put(line)
        marked = f"; {MARK} raises an alarm" if self.engine.thresholds else ""
        self.tell(f"{'':{broad}}{unit}, \u00b1{full:.2g} at the ends{marked}")

    def _cut(self, moment: str, name: str, full: float) -> float | None:
        """Where a gauge has its mark; an alarm in a reply is of a part of it and has none."""
        cut = self.engine.thresholds.get((moment, name, self.plain.layers[0]))
        if cut is None or moment == "reply":
            return None
        return self._standard(moment, name, cut) / full

    def _standard(self, moment: str, name: str, value: float) -> float:
        """In standard deviations of usual replies, if they are known."""
        if self.spread is None:
            return value
        mean, sd = getattr(self.spread, moment)[:, self.plain.vectors.row(name)].tolist()
        return (value - mean) / sd

    def _range(self, read: Watched) -> tuple[float, int, str]:
        """The value at the ends of a gauge, digits, and the unit."""
        if self.spread is None:
            rows = [self.plain.vectors.row(name) for name in self.settings.emotions]
            return max(_magnitude(read)[row] for row in rows), 3, "readouts"
        table = self.calibrated.thresholds
        cuts = table[table.moment == "colon"]
        far = [
            abs(self._standard("colon", name, cut))
            for name, cut in zip(cuts.emotion, cuts.threshold, strict=True)
        ]
        return float(math.ceil(max(LEAST_RANGE, *far))), 1, "sd of usual replies"


class Shown:
    """A reply on a console, while it is written.

    Attributes:
        flow: where its words go.
        read: the conversation before it.
        pieces: so far.
    """

    read: Read

    def __init__(self, chat: Chat, flow: Flow) -> None:
        """Nothing yet."""
        self.chat, self.flow = chat, flow
        self.pieces: list[Piece] = []
        self.begun = False

    def hear(self, told: Told) -> None:
        """Show what comes next."""
        if isinstance(told, Read):
            self.read, self.scale = told, self.chat.scale(told.watched)
            if unknown := unknown_words(told.watched):
                self.chat.tell(f"read as unknown words: {', '.join(unknown)}")
            self.flow.write(f"{told.watched.monitor.model.name}: ", Style(bold=True))
        elif isinstance(told, Piece):
            self.pieces.append(told)
            value = float(told.values[self.chat.row])
            mark = Style(underline=bool(told.alarms))
            self._write(told.text, tint(self.scale.level(value)) + mark)
        elif isinstance(told, End):
            self._write(told.text, tint(0.0))

    def _write(self, text: str, style: Style) -> None:
        """The reply begins behind the name of who speaks, with a word."""
        own = text if self.begun else text.lstrip()
        self.begun = self.begun or bool(own)
        self.flow.write(own, style)


def _magnitude(read: Watched) -> list[float]:
    """Of each emotion the 99th percentile of magnitude in what was read, as in the report."""
    return read.values[:, 0].abs().quantile(PERCENTILE, 0).clamp_min(1e-6).tolist()


def unknown_words(read: Watched) -> list[str]:
    """Words of the last message that the tokenizer does not know."""
    unknown = read.monitor.model.tokenizer.unk_token_id
    begin = max(span.start for span in read.prompt.spans if span.name == "user")
    text, places = read.prompt.text, read.offsets.tolist()
    found = [
        text[start:end]
        for token, (start, end) in zip(read.ids.tolist(), places, strict=True)
        if token == unknown and start >= begin
    ]
    return list(dict.fromkeys(found))


def _steps_told(steps: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {strength:+g}" for name, strength in steps.items())
    return f"steered: {told}" if told else "not steered"


@contextmanager
def interruptible() -> Iterator[Flag]:
    """What Ctrl-C sets, instead of breaking off what runs."""
    stopped = Flag()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
