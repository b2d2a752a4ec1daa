"""Does a vector rise where a transcript gives reason (Figs. 20-26, 30, 65, 66, 80-83)?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emolens import figures
from emolens.controls import random_directions
from emolens.experiments.paper.beside import Beside, drawn_beside
from emolens.experiments.paper.claims import CONTROLS, Claim, Found
from emolens.experiments.paper.study import Experiment, Study
from emolens.experiments.paper.views import token_views, traced
from emolens.experiments.paper.words import NETWORK, Way, by_way
from emolens.positions import span
from emolens.readout import read_out
from emolens.recording import residuals
from emolens.report import Exhibit
from emolens.text import Span, Text, Tokens
from emolens.vectors import EmotionVectors

SIDES = ("assistant", "reasoning", "user")  # whose words; each is compared with itself alone
FEWEST = 3  # tokens of a side that are no event
SHOWN = 6

EVENT = Claim(
    "event",
    "readout of an event's emotion within the event minus on the rest of what the same side says, "
    "in standard deviations over all it says; beyond random directions, permuted emotions and the "
    "words alone",
    least=0.5,
)


@dataclass(frozen=True, eq=False)
class _Event:
    """One event: its text, emotion, whose words, and the tokens within and beside it."""

    text: int
    emotion: str
    side: str
    within: Bool[Tensor, " token"]
    beside: Bool[Tensor, " token"]

    def gaps(self, values: Float[Tensor, "token column"]) -> Float[Tensor, " column"]:
        """Within minus beside, in standard deviations over both."""
        spread = values[self.within | self.beside].std(0)
        return (values[self.within].mean(0) - values[self.beside].mean(0)) / spread


def _events(number: int, text: Text, tokens: Tokens, known: Sequence[str]) -> list[_Event]:
    """A text's events of an emotion that has a vector, with something beside them."""
    found = []
    for event in (s for s in text.spans if s.name in known):
        around = [s.name for s in text.spans if s.name in SIDES and _covers(s, event)]
        if not around:
            continue
        within = _mask(text, tokens, [event])
        same = [s for s in text.spans if s.name == event.name]
        said = [s for s in text.spans if s.name == around[-1]]
        beside = _mask(text, tokens, said) & ~_mask(text, tokens, same)
        if within.any() and beside.sum() >= FEWEST:
            found.append(_Event(number, event.name, around[-1], within, beside))
    return found


def _covers(side: Span, event: Span) -> bool:
    return side.start <= event.start and event.end <= side.end


def _mask(text: Text, tokens: Tokens, spans: Sequence[Span]) -> Bool[Tensor, " token"]:
    """The tokens of some spans."""
    marked = replace(text, spans=tuple(replace(s, name="chosen") for s in spans))
    return span("chosen")([marked], tokens).mask[0]


def _with_random(study: Study, kinds: int) -> EmotionVectors:
    """The vectors of the layer, and as many directions a hundred times over as there are kinds."""
    own = study.vectors.only([study.layer])
    drawn = random_directions(CONTROLS * kinds, study.model.d_model, study.seed)
    return replace(
        own,
        vectors=torch.cat([own.vectors, drawn[:, None]]),
        emotions=(*own.emotions, *(f"random {i}" for i in range(len(drawn)))),
    )


def run(study: Study) -> Found:
    """All transcripts token by token, by the network and by the words alone."""
    texts = study.materials.transcripts
    encoded = [study.model.tokenize([t]) for t in texts]
    known = study.vectors.emotions
    events = [
        e
        for i, (t, one) in enumerate(zip(texts, encoded, strict=True))
        for e in _events(i, t, one, known)
    ]
    kinds = sorted({e.emotion for e in events})
    if len(kinds) < 2:
        return Found({}, {}, "fewer than two emotions have an event with something beside it")

    def gaps_along(way: Way) -> Float[np.ndarray, "event vector"]:
        vectors = _with_random(study, len(kinds)) if way.name == NETWORK else way.vectors
        return _gaps(study, vectors, way.layer, encoded, events)

    gaps = by_way(study, gaps_along)
    rows, own = np.arange(len(events)), np.array([known.index(e.emotion) for e in events])
    found = {way: g[rows, own] for way, g in gaps.items()}
    kind = np.array([kinds.index(e.emotion) for e in events])
    first = len(known) + len(kinds) * np.arange(CONTROLS)
    rng, own_gaps = np.random.default_rng(study.seed), gaps[NETWORK]
    controls = {
        "random directions": [float(own_gaps[rows, f + kind].mean()) for f in first],
        "permuted emotions": [float(own_gaps[rows, rng.permutation(own)].mean()) for _ in first],
    }
    table = pd.DataFrame(
        {
            "text": [texts[e.text].id or f"transcript {e.text + 1}" for e in events],
            "emotion": [e.emotion for e in events],
            "side": [e.side for e in events],
            "gap": found[NETWORK],
        }
    )
    beside = Beside()
    _add(beside, found, events, controls)
    sides = ", ".join(f"{side} {v:.2f}" for side, v in table.groupby("side").gap.mean().items())
    return Found(
        beside.measured,
        {
            "events": table,
            "ways": beside.table,
            "tokens": _shown(study, events),
        },
        f"{len(events)} events in {table.text.nunique()} texts, layer {study.layer}; {sides}.",
    )


def _gaps(
    study: Study,
    vectors: EmotionVectors,
    layer: int,
    encoded: Sequence[Tokens],
    events: Sequence[_Event],
) -> Float[np.ndarray, "event vector"]:
    """Every event's gap along every vector."""
    found = []
    for number, tokens in enumerate(encoded):
        own = [e for e in events if e.text == number]
        if own:
            residual = residuals(study.model, tokens.ids, tokens.mask, [layer])[0, :, 0]
            values = read_out(vectors, residual, layer)
            found += [e.gaps(values) for e in own]
    return torch.stack(found).nan_to_num().numpy()


def _add(
    beside: Beside,
    found: Mapping[str, np.ndarray],
    events: Sequence[_Event],
    controls: Mapping[str, Sequence[float]],
) -> None:
    """Transcripts are drawn anew, with all their events."""
    of = np.array([e.text for e in events])
    groups = [np.flatnonzero(of == number) for number in np.unique(of)]

    def mean(own: np.ndarray, rows: np.ndarray) -> float:
        return float(own[np.concatenate([groups[i] for i in rows])].mean())

    by_way = {way: partial(mean, own) for way, own in found.items()}
    beside.add(EVENT, len(groups), by_way, controls)


def _shown(study: Study, events: Sequence[_Event]) -> pd.DataFrame:
    """A few transcripts, first coloured by the emotion of their first event."""
    chosen = list(dict.fromkeys(e.text for e in events))[:SHOWN]
    texts = [study.materials.transcripts[i] for i in chosen]
    named = [[e.emotion for e in events if e.text == i] for i in chosen]
    captions = [
        f"{t.id or f'transcript {i + 1}'}: {', '.join(dict.fromkeys(names))}"
        for i, t, names in zip(chosen, texts, named, strict=True)
    ]
    wanted = [list(dict.fromkeys((*names, *study.twelve))) for names in named]
    return traced(study, texts, captions, wanted)


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """The network beside its controls, every event, and transcripts token by token."""
    events = tables["events"]
    named = events.assign(event=events.text + ", " + events.emotion + " (" + events.side + ")")
    each = figures.bars(
        named.groupby("event", as_index=False).gap.mean(), name="event", value="gap"
    )
    return [
        *drawn_beside(tables["ways"], "transcripts"),
        Exhibit("Each event", each, events, "transcripts_events"),
        Exhibit("Token by token", tokens=token_views(tables["tokens"])),
    ]


TRANSCRIPTS = Experiment(
    name="transcripts",
    title="Along a transcript",
    figures="Figs. 20-26, 30, 65, 66, 80-83",
    inputs="conversations in which what should bring about an emotion is marked",
    procedure="every token is read; what the assistant thinks, what it says and what the user says "
    "are each compared with themselves alone",
    readout="centred cosine at two thirds of the depth",
    control="a hundred random directions for each emotion, and the events' emotions in another "
    "order, 100 times; the same with the embedding of the words alone, each token's own and the "
    "mean of all up to it",
    claims=(EVENT,),
    lacks=lambda study: "" if study.materials.transcripts else "there are no transcripts",
    cost=lambda study: 4 * study.tokens(study.materials.transcripts),
    run=run,
    draw=draw,
)
