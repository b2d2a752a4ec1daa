"""Figs. 10, 11: is what a reply will hold read where it begins, more than where the user ends?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens import figures
from emolens.activations import Activations
from emolens.controls import random_directions
from emolens.experiments.paper.claims import BOUND, CONTROLS, Claim, Found, Measured, against
from emolens.experiments.paper.study import Experiment, Study, logits_needed
from emolens.generation import generate
from emolens.positions import colon, span, user_end
from emolens.recording import record, record_at
from emolens.report import Exhibit
from emolens.statistics import row_interval
from emolens.text import Span, Text
from emolens.vectors import centred_cosine

SIX = ("afraid", "angry", "sad", "calm", "happy", "loving")
WRITTEN = 20  # tokens of a reply, as in the paper
PLACES = ("user", "begins", "reply")
PAIRS = {
    "user's end, begin of reply": ("user", "begins"),
    "user's end, reply": ("user", "reply"),
    "begin of reply, reply": ("begins", "reply"),
}
CERTAIN = 0.9999  # Fisher's z has no value for a correlation of 1

# The first axis is of sets of directions: the vectors, then random ones.
Sets = Float[np.ndarray, "set message direction"]
State = Float[np.ndarray, "*set message direction"]
PerSet = Float[np.ndarray, "*set"] | np.float32

LEAD = Claim(
    "lead",
    "correlation of readouts where the reply begins with those of the reply, minus that of the "
    "user's end with them, in Fisher's z",
    least=0.4,
    paper=round(float(np.arctanh(0.87) - np.arctanh(0.59)), 2),
    confidence="C",
)


def run(study: Study) -> Found:
    """The vectors, and as many random directions a hundred times over, at the three places."""
    texts, written = _answered(study)
    known = study.materials.corpus.emotions
    emotions = [e for e in SIX if e in known] or list(known)
    own = study.vectors.at(study.layer)[[study.vectors.row(e) for e in emotions]]
    at = _states(study, texts, written, own)
    user, begins, reply = (at[place][0] for place in PLACES)
    return Found(
        {LEAD.name: _measured(at, study.seed)},
        {"points": _points(texts, at, emotions), "r": _table(at, study.seed)},
        f"{len(texts)} messages, {len(emotions)} emotions, layer {study.layer}. The begin of the "
        f"reply and the reply correlate with {_together(begins, reply):.2f} (in the paper .87), "
        f"the user's end and the reply with {_together(user, reply):.2f} (.59), the user's end and "
        f"the begin of the reply with {_together(user, begins):.2f} (.11). Any network carries "
        "what it has read on to later tokens, so that none of these alone is judged.",
    )


def _answered(study: Study) -> tuple[list[Text], list[str]]:
    """The messages to which the model replies anything, and what."""
    texts = study.materials.replies
    written = generate(study.model, texts, tokens=WRITTEN, seed=study.seed)
    both = [(t, w) for t, w in zip(texts, written, strict=True) if w.strip()]
    return [t for t, _ in both], [w for _, w in both]


def _states(
    study: Study, texts: Sequence[Text], written: Sequence[str], own: Tensor
) -> dict[str, Sets]:
    """At each place, along the vectors and then along random directions."""
    drawn = random_directions(CONTROLS * len(own), study.model.d_model, study.seed)
    rules = {"user": user_end, "begins": colon}
    found = record_at(study.model, texts, rules, layers=[study.layer])
    found["reply"] = _after(study, texts, written)
    return {k: _sets(study, torch.cat([own, drawn]), x, len(own)) for k, x in found.items()}


def _after(study: Study, texts: Sequence[Text], written: Sequence[str]) -> Activations:
    """The mean over each reply, read after its text."""
    spoken = [
        replace(t, text=t.text + w, spans=(Span("reply", len(t.text), len(t.text + w)),))
        for t, w in zip(texts, written, strict=True)
    ]
    return record(study.model, spoken, layers=[study.layer], positions=span("reply"))


def _sets(study: Study, directions: Tensor, recorded: Activations, size: int) -> Sets:
    """Readouts by each set of so many directions, less what all messages have in common."""
    mean = study.vectors.mean[study.vectors.column(study.layer)]
    values = centred_cosine(directions, mean, recorded.at(study.layer))
    return (values - values.mean(0)).unflatten(1, (-1, size)).transpose(0, 1).numpy()


def _together(one: State, other: State) -> PerSet:
    """Pearson's correlation over all messages and directions; 0 where one does not change."""
    a, b = (x - x.mean((-2, -1), keepdims=True) for x in (one, other))
    scale = np.sqrt((a**2).sum((-2, -1)) * (b**2).sum((-2, -1)))
    return (a * b).sum((-2, -1)) / np.where(scale > 0, scale, 1)


def _lead(user: State, begins: State, reply: State) -> PerSet:
    near, far = (np.clip(_together(x, reply), -CERTAIN, CERTAIN) for x in (begins, user))
    return np.arctanh(near) - np.arctanh(far)


def _measured(at: Mapping[str, Sets], seed: int) -> Measured:
    """Of the vectors, against shuffled replies and random directions, whichever is harder to beat.

    Tokens near each other are alike along any direction, which shuffled replies do not show.
    """
    user, begins, reply = (at[place][0] for place in PLACES)
    draw = np.random.default_rng(seed)
    shuffled = [float(_lead(user, begins, draw.permutation(reply))) for _ in range(CONTROLS)]
    random = [float(_lead(*(at[p][n] for p in PLACES))) for n in range(1, 1 + CONTROLS)]

    def of(rows: np.ndarray) -> float:
        return float(_lead(user[rows], begins[rows], reply[rows]))

    return against(len(user), of, max(shuffled, random, key=_bound), seed=seed)


def _bound(controls: Sequence[float]) -> float:
    return float(np.quantile(controls, BOUND))


def _points(texts: Sequence[Text], at: Mapping[str, Sets], emotions: Sequence[str]) -> pd.DataFrame:
    """One row a message and vector."""
    rows, columns = (grid.ravel() for grid in np.indices(at["user"][0].shape))
    points = pd.DataFrame({place: at[place][0].ravel() for place in PLACES})
    return points.assign(
        message=[texts[i].id or f"message {i + 1} ({texts[i].emotion})" for i in rows],
        emotion=[emotions[j] for j in columns],
    )


def _table(at: Mapping[str, Sets], seed: int) -> pd.DataFrame:
    """The three correlations, and those of random directions."""

    def over(one: State, other: State, rows: np.ndarray) -> float:
        return float(_together(one[rows], other[rows]))

    rows = []
    for name, (one, other) in PAIRS.items():
        own = partial(over, at[one][0], at[other][0])
        rows.append((name, "vectors", *row_interval(at[one].shape[1], own, seed=seed)))
        random = _together(at[one][1:], at[other][1:])
        low, high = np.quantile(random, (0.025, 0.975))
        rows.append((f"{name} (random)", "control", float(np.mean(random)), low, high))
    return pd.DataFrame(rows, columns=["places", "kind", "r", "low", "high"])


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """The three correlations, and the reply against either place."""
    r, points = tables["r"], tables["points"].assign(name=lambda t: t.emotion + ", " + t.message)
    note = "grey: random directions"
    bars = figures.bars(r, name="places", value="r", low="low", high="high", kind="kind", note=note)
    made = [Exhibit("How they go together", bars, r, "replies_r")]
    titles = {"user": "at the end of the user's turn", "begins": "where the reply begins"}
    for place, title in titles.items():
        chart = figures.scatter(
            points,
            x=place,
            y="reply",
            label="name",
            colour="emotion",
            x_title=f"centred cosine {title}, less its mean",
            y_title="mean over the reply, less its mean",
        )
        made.append(Exhibit(f"The reply and the state {title}", chart, points, "replies_points"))
    return made


def _cost(study: Study) -> int:
    texts = study.materials.replies
    return 2 * (study.tokens(texts) + WRITTEN * len(texts))


REPLIES = Experiment(
    name="replies",
    title="Where a reply begins",
    figures="Figs. 10, 11, Tables 3, 4",
    inputs="messages to an assistant whose reply is to follow",
    procedure=f"the residual is read at the end of the user's turn, where the reply begins, and as "
    f"a mean over the first {WRITTEN} tokens of the model's own reply",
    readout="correlation over messages and vectors of centred cosines, less each vector's mean",
    control="replies in another order, and random directions, 100 of each; the harder one counts",
    claims=(LEAD,),
    lacks=lambda study: (
        logits_needed(study)
        or (
            ""
            if study.materials.replies
            else "no messages that the assistant should answer in another state"
        )
    ),
    cost=_cost,
    run=run,
    draw=draw,
)
