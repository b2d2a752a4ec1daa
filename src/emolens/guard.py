"""Act on what a monitor sees: log, stop, ask again, or hold the state in a band."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.generation import GENERATED_TOGETHER, UNCHANGED, Steering, one_each
from emolens.holding import Regulation
from emolens.interventions import Residual
from emolens.monitor import Alarm, Live, Monitor, Step, Watched
from emolens.text import Text, Tokens

ASKED = 2
Listener = Callable[[Step], bool]


@dataclass(frozen=True)
class Action:
    """Something that a guard did.

    Attributes:
        kind: `"log"`, `"stop"`, `"ask again"` or `"steer"`.
        place: of the token at which it was done, 0-based among those of prompt and reply.
        alarm: the moment, emotion and layer that called for it; None for `"steer"`.
        length: of the push, in residual units; 0 for all but `"steer"`.
    """

    kind: str
    place: int
    alarm: Alarm | None
    length: float = 0.0


@dataclass(frozen=True, eq=False)
class Guarded:
    """A text that was written under a guard.

    Attributes:
        watched: the text with its readouts; where it was asked again, that of the last time.
        actions: what the guard did, in order, over all attempts.
        before: earlier attempts that were given up.
    """

    watched: Watched
    actions: tuple[Action, ...]
    before: tuple[Watched, ...] = ()

    def __repr__(self) -> str:
        """One line."""
        kinds = {a.kind: sum(b.kind == a.kind for b in self.actions) for a in self.actions}
        told = ", ".join(f"{n} x {kind}" for kind, n in kinds.items()) or "nothing done"
        return f"Guarded({self.watched!r}, {told})"


def acted(found: Sequence[Guarded]) -> pd.DataFrame:
    """Everything that was done, one row an action.

    Returns:
        Columns text, kind, place, length, moment, emotion, layer, value, threshold, words (the last
        six of the alarm, empty for a push).
    """
    rows = []
    for text, one in enumerate(found):
        for action in one.actions:
            alarm = action.alarm
            told = ("", "", -1, float("nan"), float("nan"), "")
            if alarm is not None:
                told = (
                    alarm.moment,
                    alarm.emotion,
                    alarm.layer,
                    alarm.value,
                    alarm.threshold,
                    alarm.words,
                )
            rows.append((text, action.kind, action.place, action.length, *told))
    columns = ["text", "kind", "place", "length", "moment", "emotion", "layer", "value"]
    return pd.DataFrame(rows, columns=[*columns, "threshold", "words"])


@runtime_checkable
class Policy(Protocol):
    """What a guard does; write one to add one."""

    def write(
        self,
        monitor: Monitor,
        texts: Sequence[Text],
        steering: Sequence[Steering],
        listen: Listener | None,
        **options: Any,
    ) -> list[Guarded]:
        """Have the texts written on, and act. Tell `listen`, if given, every token that is kept."""


@dataclass(frozen=True)
class Log:
    """Alarms are recorded, and nothing else is done."""

    def write(
        self,
        monitor: Monitor,
        texts: Sequence[Text],
        steering: Sequence[Steering],
        listen: Listener | None,
        **options: Any,
    ) -> list[Guarded]:
        """As `Policy`."""
        found = monitor.generate(texts, steering, on_step=listen, **options)
        return [Guarded(one, _of_alarms("log", one.alarms)) for one in found]


@dataclass(frozen=True)
class Stop:
    """A text ends at its first alarm; one in the prompt or at the colon leaves no reply."""

    def write(
        self,
        monitor: Monitor,
        texts: Sequence[Text],
        steering: Sequence[Steering],
        listen: Listener | None,
        **options: Any,
    ) -> list[Guarded]:
        """As `Policy`."""

        def on_step(step: Step) -> bool:
            return not step.alarms and (listen is None or listen(step))

        found = monitor.generate(texts, steering, on_step=on_step, **options)
        return [Guarded(one, _of_alarms("stop", _deciding(one))) for one in found]


@dataclass(frozen=True)
class AskAgain:
    """A text is given up at its first alarm and asked again in other words, then stopped.

    Attributes:
        words: the prompt in other words: called with the first prompt and how often it was asked
            before. The same words would raise the same alarm where the reply begins.
        times: how often it is asked again.
    """

    words: Callable[[Text, int], Text]
    times: int = ASKED

    def write(
        self,
        monitor: Monitor,
        texts: Sequence[Text],
        steering: Sequence[Steering],
        listen: Listener | None,
        **options: Any,
    ) -> list[Guarded]:
        """As `Policy`; tokens of attempts that are given up are told too."""
        found = Stop().write(monitor, texts, steering, listen, **options)
        for attempt in range(1, self.times + 1):
            rows = [i for i, one in enumerate(found) if _deciding(one.watched)]
            if not rows:
                break
            asked = [self.words(texts[i], attempt) for i in rows]
            own = [steering[i] for i in rows]
            again = Stop().write(
                monitor, asked, own, _renumbered(listen, rows), **_some(options, rows, attempt)
            )
            for i, one in zip(rows, again, strict=True):
                found[i] = _after(found[i], one)
        return found


@dataclass(frozen=True)
class Regulate:
    """The state is held in a band while the model reads and writes.

    Attributes:
        change: from `regulation`.
    """

    change: Regulation

    def write(
        self,
        monitor: Monitor,
        texts: Sequence[Text],
        steering: Sequence[Steering],
        listen: Listener | None,
        **options: Any,
    ) -> list[Guarded]:
        """As `Policy`. What else steers at the same layer comes first."""
        live = _Held(monitor, listen, self.change)
        found = live.write(texts, steering, **options)
        return [Guarded(one, live.pushes(i, one)) for i, one in enumerate(found)]


@dataclass(frozen=True)
class Guard:
    """A monitor with a policy.

    Attributes:
        monitor: whose thresholds raise the alarms; `Regulate` needs none.
        policy: `Log`, `Stop`, `AskAgain`, `Regulate`, or one of your own.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=4), layers=[3])
    >>> neutral = emolens.organism_neutral(count=60)
    >>> vectors = emolens.fit_vectors(stories, emolens.record(model, neutral, layers=[3]))
    >>> monitor = emolens.Monitor(model, vectors, (3,))
    >>> held = emolens.regulation(monitor, neutral, emotions=["desperate"])
    >>> prompts = emolens.organism_behaviour(emotions=["desperate"], per_emotion=1).prompts
    >>> Guard(monitor, Regulate(held)).generate(prompts, tokens=2)[0].actions[-1].kind
    'steer'
    """

    monitor: Monitor
    policy: Policy

    def generate(
        self,
        texts: Sequence[Text | str],
        steering: Steering | Sequence[Steering] = UNCHANGED,
        *,
        tokens: int,
        temperature: float = 1.0,
        seed: int | Sequence[int] = 0,
        together: int = GENERATED_TOGETHER,
        on_step: Listener | None = None,
    ) -> list[Guarded]:
        """Have the texts written on under the guard.

        Args:
            texts: these and what follows as in `Monitor.generate`.
            steering: of all texts, or one of each, beside what the policy does.
            tokens: most that are written.
            temperature: of the sampling.
            seed: of the sampling.
            together: most texts of a batch.
            on_step: is called with every token that the policy lets through.

        Raises:
            CorpusError: these as in `Monitor.generate`.
            ModelError: for an encoder.
            SelectionError: for a text that fills the context.
        """
        told = [t if isinstance(t, Text) else Text(t) for t in texts]
        return self.policy.write(
            self.monitor,
            told,
            one_each(steering, len(told)),
            on_step,
            tokens=tokens,
            temperature=temperature,
            seed=seed,
            together=together,
        )


def _of_alarms(kind: str, alarms: Sequence[Alarm]) -> tuple[Action, ...]:
    return tuple(Action(kind, alarm.place, alarm) for alarm in alarms)


def _deciding(found: Watched) -> Sequence[Alarm]:
    """The first alarm: the one that ends a text."""
    return found.alarms[:1]


def _renumbered(listen: Listener | None, rows: Sequence[int]) -> Listener | None:
    """Tells of texts by the numbers that they have among all."""
    if listen is None:
        return None
    return lambda step: listen(step._replace(text=rows[step.text]))


def _some(options: Mapping[str, Any], rows: Sequence[int], attempt: int) -> dict[str, Any]:
    """Options with a seed of each of some texts, whichever others are asked again."""
    seed = options["seed"]
    if isinstance(seed, int | np.integer):
        drawn = [np.random.SeedSequence([int(seed), i, attempt]) for i in rows]
        return {**options, "seed": [int(s.generate_state(1)[0]) for s in drawn]}
    return {**options, "seed": [seed[i] for i in rows]}


def _after(first: Guarded, again: Guarded) -> Guarded:
    """Two attempts as one."""
    given_up = tuple(replace(action, kind="ask again") for action in first.actions[-1:])
    return Guarded(
        again.watched,
        (*first.actions[:-1], *given_up, *again.actions),
        (*first.before, first.watched),
    )


class _Held(Live):
    """Holds the stream where the monitor sees it, and keeps how far each token was pushed."""

    def __init__(self, monitor: Monitor, listen: Listener | None, change: Regulation) -> None:
        super().__init__(monitor, listen)
        self.change = change
        self.pushed: dict[int, Float[Tensor, " token"]] = {}

    @property
    def layers(self) -> Sequence[int]:
        """Those that are watched, and those that are held."""
        return sorted({*self.monitor.layers, *self.change})

    def begin(self, rows: Sequence[int], prompts: Tokens) -> None:
        """A batch."""
        super().begin(rows, prompts)
        self.lengths: dict[int, list[Float[Tensor, "text token"]]] = {k: [] for k in self.change}

    def see(self, layer: int, stream: Residual) -> Residual:
        """The held stream of the next tokens, special ones left as they are."""
        if layer in self.change:
            held = self.change[layer](stream)
            if not self.lengths[layer]:
                words = self.prompts.words.to(stream.device)[..., None]
                held = torch.where(words, held, stream)
            self.lengths[layer].append((held - stream).float().norm(dim=-1).cpu())
            stream = held
        return super().see(layer, stream) if layer in self.monitor.layers else stream

    def end(self, written: Sequence[Sequence[int]]) -> None:
        """Part the pushes of a batch as well."""
        super().end(written)
        whole = torch.stack([torch.cat(own, 1) for own in self.lengths.values()]).sum(0)
        for row, text in enumerate(self.rows):
            self.pushed[text] = whole[row, int((~self.prompts.mask[row]).sum()) :]

    def pushes(self, text: int, found: Watched) -> tuple[Action, ...]:
        """Where a text was pushed, and how far."""
        words = found.read.words[0]
        kept = torch.cat([words, torch.ones(found.written, dtype=torch.bool)])
        lengths = self.pushed[text][: len(kept)][kept]
        places = lengths.nonzero().flatten().tolist()
        return tuple(Action("steer", place, None, float(lengths[place])) for place in places)
