"""Watch what a model holds while it reads and writes, and raise alarms at a promised rate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.activations import Activations
from emolens.alarms import NAMED, Calibration, Name, Reached, calibrated
from emolens.errors import SelectionError
from emolens.generation import GENERATED_TOGETHER, UNCHANGED, Steering, generate
from emolens.interventions import Residual
from emolens.model import HookedModel
from emolens.progress import track
from emolens.readout import Kind, Readout
from emolens.recording import plan_batches, residuals, usual_batch
from emolens.text import Text, Tokens, groups_of
from emolens.vectors import EmotionVectors

WINDOW = 8  # tokens that a value is the mean over, because single ones fluctuate
FALSE_ALARMS = 0.05
MOMENTS = ("prompt", "colon", "reply")
NO_THRESHOLDS = pd.DataFrame(columns=[*NAMED, "threshold", "mean", "sd"])


@dataclass(frozen=True)
class Alarm:
    """A readout that is as high as its threshold.

    Attributes:
        moment: `"prompt"`, somewhere in what was read; `"colon"`, where the reply begins; or
            `"reply"`, in what is written.
        emotion: whose readout.
        layer: 0-based block.
        value: the readout: at the colon itself, else the mean of the last `Monitor.window` tokens.
        threshold: which it reached.
        place: of the last token that the value is of, 0-based among those of prompt and reply.
        start: first character of what the value is of, in prompt and reply together.
        end: after its last character.
        words: what stands there.
    """

    moment: str
    emotion: str
    layer: int
    value: float
    threshold: float
    place: int
    start: int
    end: int
    words: str


@dataclass(frozen=True, eq=False)
class Standing:
    """Readouts where a batch stands, made for all of its texts when they are first asked for.

    Attributes:
        parts: of the last passes, as many as are in a window.
    """

    parts: Sequence[Float[Tensor, "text _ layer emotion"]] = field(repr=False)

    @cached_property
    def now(self) -> Float[Tensor, "text layer emotion"]:
        """At the last token."""
        return self.parts[-1][:, -1]

    @cached_property
    def means(self) -> Float[Tensor, "text layer emotion"]:
        """Over the last tokens of each pass."""
        return torch.stack([part[:, -1] for part in self.parts]).mean(0)

    @cached_property
    def each(self) -> Sequence[Float[Tensor, "layer emotion"]]:
        """At the last token, by text."""
        return self.now.unbind(0)


class Step(NamedTuple):
    """A written token, as it is handed on while the model writes.

    Attributes:
        text: which of the texts writes it.
        place: 0-based, among its written tokens.
        token: its id.
        alarms: names of the thresholds that are reached where it was chosen.
        row: the text's place in the batch.
        standing: readouts of the batch there.
    """

    text: int
    place: int
    token: int
    alarms: tuple[Name, ...]
    row: int
    standing: Standing

    @property
    def values(self) -> Float[Tensor, "layer emotion"]:
        """Readouts at the token before, in whose state it was chosen."""
        return self.standing.each[self.row]

    @property
    def windowed(self) -> Float[Tensor, "layer emotion"]:
        """Their mean over the last tokens of the reply, from the colon on."""
        return self.standing.means[self.row]


@dataclass(frozen=True, eq=False)
class Watched:
    """A text that was read, and what was written after it, with the readouts of every token.

    Attributes:
        prompt: what was read.
        reply: what was written; nothing where nothing was to be written.
        ids: tokens that have values: the prompt's without special ones, then written ones. The last
            that is written has none where the model has not read it.
        written: how many of them are written.
        values: readout of each emotion at each of these tokens and layers.
        monitor: what watched.
        read: the prompt's tokens.
    """

    prompt: Text
    reply: str
    ids: Int[Tensor, " token"]
    written: int
    values: Float[Tensor, "token layer emotion"]
    monitor: "Monitor"
    read: Tokens

    def __repr__(self) -> str:
        """One line."""
        return (
            f"Watched({self.first} tokens read, {self.written} written, {len(self.alarms)} alarms)"
        )

    @property
    def first(self) -> int:
        """Place of the first written token."""
        return len(self.ids) - self.written

    @property
    def settled(self) -> int:
        """Place of the first token that ends a whole window of the prompt, if there is one.

        Means of fewer tokens than a window fluctuate, so they raise no alarm.
        """
        return min(self.monitor.window, self.first) - 1

    @property
    def colon(self) -> Float[Tensor, "layer emotion"]:
        """Readouts at the last token of the prompt, where the reply begins."""
        return self.values[self.first - 1]

    @cached_property
    def offsets(self) -> Int[Tensor, "token 2"]:
        """First character of each token and the one after its last, in prompt and reply."""
        decode, read = self.monitor.model.tokenizer.decode, self.read.ids[0].tolist()
        own = self.ids[self.first :].tolist()
        lengths = [
            len(decode(read + own[:n], skip_special_tokens=True)) for n in range(len(own) + 1)
        ]
        ends = len(self.prompt.text) - lengths[0] + torch.tensor(lengths).cummax(0).values
        written = torch.stack([ends[:-1], ends[1:]], 1)
        return torch.cat([self.read.offsets[0][self.read.words[0]], written])

    @cached_property
    def windowed(self) -> Float[Tensor, "token layer emotion"]:
        """At each token the mean of the last `Monitor.window` of its stage.

        The reply begins with the colon, in whose state its first token is chosen.
        """
        prompt, reply = self.values[: self.first], self.values[self.first - 1 :]
        window = self.monitor.window
        return torch.cat([trailing(prompt, window), trailing(reply, window)[1:]])

    @cached_property
    def alarms(self) -> tuple[Alarm, ...]:
        """Each threshold that was reached, where it first was, in the order of the text."""
        stages = {
            "prompt": (self.settled, self.windowed[self.settled : self.first]),
            "colon": (self.first - 1, self.colon[None]),
            "reply": (self.first, self.windowed[self.first :]),
        }
        raised = []
        for moment, (begin, values) in stages.items():
            above = self.monitor.above(moment, values)
            rows = self.monitor.thresholds[self.monitor.thresholds.moment == moment]
            for row, reached in zip(rows.itertuples(), above.T, strict=True):
                if bool(reached.any()):
                    place = begin + int(reached.int().argmax())
                    raised.append(self._alarm(row, place, values[place - begin]))
        return tuple(sorted(raised, key=lambda alarm: alarm.place))

    def _alarm(self, row: Any, place: int, values: Float[Tensor, "layer emotion"]) -> Alarm:
        least = {"prompt": 0, "colon": place, "reply": self.first - 1}[row.moment]
        since = max(least, place - self.monitor.window + 1)
        start, end = int(self.offsets[since, 0]), int(self.offsets[place, 1])
        words = (self.prompt.text + self.reply)[start:end]
        value = float(values[self.monitor.cell(row.emotion, row.layer)])
        threshold = float(row.threshold)
        return Alarm(row.moment, row.emotion, row.layer, value, threshold, place, start, end, words)

    def table(self) -> pd.DataFrame:
        """One row a token, layer and emotion.

        Returns:
            Columns token (its place), stage (`"prompt"` or `"reply"`), start, end (characters of
            prompt and reply), words, layer, emotion, value, windowed (mean of the last
            `Monitor.window` tokens), running (mean of the stage so far).
        """
        text, cells = self.prompt.text + self.reply, self.values[0].numel()
        parts = self.values[: self.first], self.values[self.first :]
        running = torch.cat([trailing(part, max(1, len(part))) for part in parts])
        columns = {
            "token": range(len(self.ids)),
            "stage": ["prompt"] * self.first + ["reply"] * self.written,
            "start": self.offsets[:, 0].tolist(),
            "end": self.offsets[:, 1].tolist(),
            "words": [text[a:b] for a, b in self.offsets.tolist()],
        }
        layers, emotions = self.monitor.layers, self.monitor.vectors.emotions
        return pd.DataFrame(
            {name: np.repeat(list(of_token), cells) for name, of_token in columns.items()}
            | {
                "layer": np.tile(np.repeat(layers, len(emotions)), len(self.ids)),
                "emotion": np.tile(emotions, len(self.ids) * len(layers)),
                "value": self.values.flatten().numpy(),
                "windowed": self.windowed.flatten().numpy(),
                "running": running.flatten().numpy(),
            }
        )


@dataclass(frozen=True, eq=False)
class _Cuts:
    """The thresholds of a moment, and where the readouts that they are for stand."""

    names: list[Name]
    layers: Int[Tensor, " alarm"]
    emotions: Int[Tensor, " alarm"]
    thresholds: Float[Tensor, " alarm"]


@dataclass(frozen=True, eq=False)
class Monitor:
    """Readouts of a model's state while it reads and writes.

    What a model writes may be calm where its state is not, so what is watched is the state: at the
    end of the prompt, before anything is written, and at every token after.

    Attributes:
        model: a decoder; an encoder can only `read`.
        vectors: fitted on it, of any kind, also of what is felt and not shown.
        layers: 0-based blocks to watch; two thirds of the depth is where the paper reads.
        kind: of readout, as in `read_out`.
        window: tokens of the windowed means.
        thresholds: from `calibrate`: columns moment, emotion, layer, threshold, mean, sd. Without
            any there are no alarms.
        reference: for `kind="z"` alone, as in `read_out`.

    Raises:
        ModelError: for vectors of another model.
        SelectionError: for a layer without vectors, none at all, a window of no token, or as in
            `read_out`.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=4), layers=[3])
    >>> neutral = emolens.record(model, emolens.organism_neutral(count=20), layers=[3])
    >>> monitor = Monitor(model, emolens.fit_vectors(stories, neutral), (3,))
    >>> monitor.generate(["mira fed the goat ."], tokens=4, temperature=0.0)
    [Watched(5 tokens read, 3 written, 0 alarms)]
    """

    model: HookedModel
    vectors: EmotionVectors
    layers: tuple[int, ...]
    kind: Kind = "centred"
    window: int = WINDOW
    thresholds: pd.DataFrame = field(default_factory=NO_THRESHOLDS.copy, repr=False)
    reference: Activations | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """See that the parts go together."""
        self.model.check_origin(self.vectors.provenance, "this set of vectors")
        if not self.layers or self.window < 1:
            raise SelectionError(
                f"layers {list(self.layers)} and a window of {self.window} tokens watch nothing: "
                "give at least one of each"
            )
        self.model.check_layers(self.layers)
        for layer in self.layers:
            self.vectors.column(layer)
        for row in self.thresholds.itertuples():
            self.cell(row.emotion, row.layer)
        # made ready now: what they lack is told before anything is written
        self.readouts(torch.zeros(1, 1, self.model.d_model), self.layers[0])

    def cell(self, emotion: str, layer: int) -> tuple[int, int]:
        """Where a readout stands among the values of a token.

        Raises:
            SelectionError: for an emotion without vectors or a layer that is not watched.
        """
        if layer not in self.layers:
            raise SelectionError(f"layer {layer} is not watched: {list(self.layers)} are")
        return self.layers.index(layer), self.vectors.row(emotion)

    @cached_property
    def _ready(self) -> dict[int, Readout]:
        """By layer, what reads it, where the model is."""
        prepare = partial(
            Readout.prepare, kind=self.kind, reference=self.reference, device=self.model.device
        )
        return {layer: prepare(self.vectors, layer) for layer in self.layers}

    @cached_property
    def _cuts(self) -> dict[str, _Cuts]:
        """By moment, what raises alarms."""
        found = {}
        for moment in MOMENTS:
            rows = self.thresholds[self.thresholds.moment == moment]
            names = [*rows[NAMED].itertuples(index=False, name=None)]
            cells = [self.cell(emotion, layer) for _, emotion, layer in names]
            where = torch.tensor(cells, dtype=torch.long).view(-1, 2)
            cuts = torch.tensor(rows.threshold.tolist(), dtype=torch.float64)
            found[moment] = _Cuts(names, where[:, 0], where[:, 1], cuts)
        return found

    def names(self, moment: str) -> list[Name]:
        """Of the thresholds of a moment, in the order of the table."""
        return self._cuts[moment].names

    def readouts(self, residual: Residual, layer: int) -> Float[Tensor, "text token emotion"]:
        """Of a stream after one of the layers."""
        return self._ready[layer](residual)

    def all_readouts(
        self, streams: Float[Tensor, "text token layer d_model"]
    ) -> Float[Tensor, "text token layer emotion"]:
        """Of the streams after all of the layers."""
        pairs = zip(streams.unbind(2), self.layers, strict=True)
        return torch.stack([self.readouts(own, layer) for own, layer in pairs], 2)

    def above(
        self, moment: str, values: Float[Tensor, "row layer emotion"]
    ) -> Bool[Tensor, "row alarm"]:
        """Which thresholds of a moment some values reach, in the order of the table."""
        cuts = self._cuts[moment]
        return values.cpu()[:, cuts.layers, cuts.emotions].double() >= cuts.thresholds

    @torch.inference_mode()
    def read(self, texts: Sequence[Text | str]) -> list[Watched]:
        """Watch the model read; nothing is written.

        Args:
            texts: cut where the context ends.

        Returns:
            One of each text.

        Raises:
            CorpusError: if there are no texts.
            SelectionError: if a text has no token.
        """
        told = [t if isinstance(t, Text) else Text(t) for t in texts]
        tokens = self.model.tokenize(told)
        found: dict[int, Watched] = {}
        batches = list(plan_batches(tokens.mask.sum(1), usual_batch(self.model)))
        for rows in track(batches, "watching", len(batches), "batches"):
            part = tokens.only(list(rows))
            stream = residuals(self.model, part.ids, part.mask, self.layers)
            values = self.all_readouts(stream).cpu()
            for own, row in enumerate(rows):
                read = part.only([own])
                width = read.ids.shape[1]
                found[row] = self.watched(told[row], read, values[own, :width], [], "")
        return [found[i] for i in range(len(told))]

    def generate(
        self,
        texts: Sequence[Text | str],
        steering: Steering | Sequence[Steering] = UNCHANGED,
        *,
        tokens: int,
        temperature: float = 1.0,
        seed: int | Sequence[int] = 0,
        together: int = GENERATED_TOGETHER,
        on_step: Callable[[Step], bool] | None = None,
    ) -> list[Watched]:
        """Watch the model write on after each text.

        What is watched is the stream as steering leaves it. Writing is that of `emolens.generate`,
        token for token.

        Args:
            texts: these and what follows as in `emolens.generate`.
            steering: of all texts, or one of each.
            tokens: most that are written.
            temperature: of the sampling.
            seed: of the sampling.
            together: most texts of a batch.
            on_step: is called with every token when it is chosen, before the model reads it. Where
                it gives False the text ends without that token.

        Raises:
            CorpusError: these as in `emolens.generate`.
            ModelError: for an encoder.
            SelectionError: for a text that fills the context.
        """
        return Live(self, on_step).write(
            texts,
            steering,
            tokens=tokens,
            temperature=temperature,
            seed=seed,
            together=together,
        )

    def watched(
        self,
        prompt: Text,
        read: Tokens,
        values: Float[Tensor, "token layer emotion"],
        written: Sequence[int],
        reply: str,
    ) -> Watched:
        """A text with the values of what was read and, behind it, of what was written."""
        words = read.words[0]
        if not bool(words.any()):
            raise SelectionError(f"{prompt.text[:60]!r} has no token to watch: give words")
        count = len(values) - len(words)
        kept = torch.cat([words, torch.ones(count, dtype=torch.bool)])
        ids = torch.cat([read.ids[0], torch.tensor(written[:count], dtype=torch.long)])
        return Watched(prompt, reply, ids[kept], count, values[kept].clone(), self, read)

    def calibrate(
        self,
        usual: Sequence[Text],
        target: Sequence[Text] = (),
        *,
        emotions: Sequence[str] | None = None,
        moments: Sequence[str] = ("colon",),
        rate: float = FALSE_ALARMS,
        tokens: int = 0,
        seed: int = 0,
    ) -> tuple["Monitor", Calibration]:
        """Set thresholds that usual texts reach no more often than promised.

        Half of the texts (by their groups) set the thresholds, the other half tells how well they
        keep the promise. It is one for all alarms together: each readout gets the threshold that
        the same share of usual texts reaches, such that any is reached at that rate.

        Args:
            usual: texts of the kind in which alarms would be false.
            target: texts in which an alarm is right.
            emotions: whose readouts raise alarms; all by default.
            moments: where: `"colon"` at the end of the prompt, `"prompt"` in any whole window of
                it, `"reply"` in any window of what is written, from the colon on.
            rate: of false alarms, by text.
            tokens: that are written after each text, for `"reply"`; the promise is for replies of
                that length. A text after which nothing is written counts with its colon.
            seed: of what is written.

        Returns:
            The monitor with its thresholds, and how well it does.

        Raises:
            CorpusError: if there are fewer usual texts than the rate can be told from.
            SelectionError: for an unknown moment or emotion, `"reply"` without tokens, or a rate
                that is not between 0 and 1.
        """
        names = self.vectors.emotions if emotions is None else emotions
        alarms = [(m, e, k) for m in moments for e in names for k in self.layers]
        _check(alarms, rate, tokens)
        quiet = replace(self, thresholds=NO_THRESHOLDS.copy())
        reached, aimed = (quiet._highest(t, alarms, tokens, seed) for t in (usual, target))
        found = calibrated(alarms, reached, aimed, rate)
        return replace(self, thresholds=found.thresholds), found

    def _highest(
        self, texts: Sequence[Text], alarms: Sequence[Name], tokens: int, seed: int
    ) -> Reached:
        """Of each text the highest value that each alarm would have met."""
        cells = [(moment, *self.cell(emotion, layer)) for moment, emotion, layer in alarms]
        found: Sequence[Watched] = []
        if texts:
            found = self.generate(texts, tokens=tokens, seed=seed) if tokens else self.read(texts)
        rows = [[float(_best(one, m)[k, e]) for m, k, e in cells] for one in found]
        values = np.array(rows, dtype=float).reshape(len(found), len(cells))
        return Reached(values, groups_of(texts))


def _best(found: Watched, moment: str) -> Float[Tensor, "layer emotion"]:
    """The highest values of a moment; where nothing was written, what there is."""
    if moment == "prompt":
        return found.windowed[found.settled : found.first].amax(0)
    if moment == "colon" or not found.written:
        return found.colon
    return found.windowed[found.first :].amax(0)


def _check(alarms: Sequence[Name], rate: float, tokens: int) -> None:
    moments = {moment for moment, _, _ in alarms}
    if not moments or not moments <= set(MOMENTS):
        raise SelectionError(
            f"alarms at {sorted(moments)} cannot be raised: give some of {', '.join(MOMENTS)}, and "
            "emotions"
        )
    if ("reply" in moments) != (tokens > 0):
        raise SelectionError(
            f"{tokens} tokens are written and alarms are at {sorted(moments)}: 'reply' needs "
            "tokens, and nothing else does"
        )
    if not 0 < rate < 1:
        raise SelectionError(f"false alarms at a rate of {rate:g}: give one between 0 and 1")


def trailing(
    values: Float[Tensor, "token layer emotion"], window: int
) -> Float[Tensor, "token layer emotion"]:
    """At each token the mean of the last `window`, or of as many as there are."""
    sums = values.double().cumsum(0)
    sums = torch.cat([sums[:window], sums[window:] - sums[:-window]])
    counts = torch.arange(1, len(values) + 1).clamp(max=window)
    return (sums / counts[:, None, None]).float()


@dataclass(eq=False)
class Live:
    """One call of `Monitor.generate`: takes the readouts of each batch while it is written."""

    monitor: Monitor
    on_step: Callable[[Step], bool] | None
    found: dict[int, tuple[Tokens, Tensor, Sequence[int]]] = field(default_factory=dict)
    cut: dict[int, str] = field(default_factory=dict)

    @property
    def layers(self) -> Sequence[int]:
        """To be shown."""
        return self.monitor.layers

    @property
    def hears(self) -> bool:
        """Whether there is somebody to tell."""
        return self.on_step is not None

    def write(
        self,
        texts: Sequence[Text | str],
        steering: Steering | Sequence[Steering],
        **options: Any,
    ) -> list[Watched]:
        """Have the texts written on, and give each with what was seen of it."""
        told = [t if isinstance(t, Text) else Text(t) for t in texts]
        replies = generate(self.monitor.model, told, steering, observer=self, **options)
        return [
            self.monitor.watched(text, *self.found[i], self.cut.get(i, reply))
            for i, (text, reply) in enumerate(zip(told, replies, strict=True))
        ]

    def begin(self, rows: Sequence[int], prompts: Tokens) -> None:
        """A batch."""
        self.rows, self.prompts, self.near = rows, prompts, self.monitor.model.device
        self.seen: list[Float[Tensor, "text token layer emotion"]] = []
        self.now: dict[int, Tensor] = {}
        self.ended: set[int] = set()

    def see(self, layer: int, stream: Residual) -> Residual:
        """Read the next tokens, which go on as they are."""
        # with nobody to tell at once, all of a batch is read out together, which costs far less
        told = self.hears
        own = self.monitor.readouts(stream, layer) if told else stream.to(self.near, copy=True)
        self.now[layer] = own[:, :, None]
        if len(self.now) == len(self.monitor.layers):
            parts = [self.now[k] for k in self.monitor.layers]
            self.seen.append(torch.cat(parts, 2) if len(parts) > 1 else parts[0])
            self.now = {}
        return stream

    def wrote(self, tokens: Mapping[int, int]) -> set[int]:
        """Tell of the token of each text; those end whose token the listener would not have."""
        assert self.on_step is not None
        place, standing = len(self.seen) - 1, Standing(self.seen[-self.monitor.window :])
        alarms = self._reached([*tokens], standing)
        for row, token in tokens.items():
            names = tuple(alarms.get(row, ()))
            if not self.on_step(Step(self.rows[row], place, token, names, row, standing)):
                self.ended.add(row)
        return self.ended

    def _reached(self, rows: Sequence[int], standing: Standing) -> Mapping[int, list[Name]]:
        """By text, the names of the thresholds that it reaches where the model stands."""
        found: dict[int, list[Name]] = {}
        for moment in ("reply",) if len(self.seen) > 1 else ("prompt", "colon"):
            names = self.monitor.names(moment)
            if not names:
                continue
            if moment == "prompt":
                parts = [self.monitor.above(moment, self._of_prompt(row)).any(0) for row in rows]
                above = torch.stack(parts)
            else:
                values = standing.now if moment == "colon" else standing.means
                above = self.monitor.above(moment, values)[rows]
            for i, alarm in above.nonzero().tolist():
                found.setdefault(rows[i], []).append(names[alarm])
        return found

    def _of_prompt(self, row: int) -> Float[Tensor, "window layer emotion"]:
        """Means of all whole windows of a prompt."""
        values = self.seen[0][row][self.prompts.words[row].to(self.seen[0].device)].cpu()
        return trailing(values, self.monitor.window)[min(self.monitor.window, len(values)) - 1 :]

    def end(self, written: Sequence[Sequence[int]]) -> None:
        """Part what was seen of a batch into its texts."""
        values = torch.cat(self.seen, 1)
        if not self.hears:
            values = self.monitor.all_readouts(values)
        values = values.cpu()
        for row, text in enumerate(self.rows):
            pad = int((~self.prompts.mask[row]).sum())
            own = self.prompts
            read = Tokens(
                own.ids[row, pad:][None], own.mask[row, pad:][None], own.offsets[row, pad:][None]
            )
            ran = len(written[row]) - 1  # the last has not been read
            kept = written[row][:ran] if row in self.ended else written[row]
            self.found[text] = read, values[row, pad : own.ids.shape[1] + ran], kept
            if row in self.ended:
                self.cut[text] = self._reply(read, kept)

    def _reply(self, read: Tokens, written: Sequence[int]) -> str:
        before, whole = (
            self.monitor.model.tokenizer.decode(ids, skip_special_tokens=True)
            for ids in (read.ids[0].tolist(), [*read.ids[0].tolist(), *written])
        )
        return whole.removeprefix(before)
