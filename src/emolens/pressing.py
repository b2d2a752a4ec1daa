"""What pushes a model's state before it answers: which prompts, and which of their words."""

import re
from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.controls import CONTROL, random_directions
from emolens.errors import SelectionError
from emolens.interventions import unit
from emolens.monitor import Monitor
from emolens.positions import last
from emolens.recording import record
from emolens.statistics import clustered_interval
from emolens.text import Text, groups_of

RANDOM_DIRECTIONS = 20
_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?\n]+[\"')\]]*|$)")


def pressure(monitor: Monitor, prompts: Sequence[Text], usual: Sequence[Text]) -> pd.DataFrame:
    """How far each prompt has moved the state where the reply begins.

    Args:
        monitor: what reads; with thresholds for the column `alarm`.
        prompts: up to the colon.
        usual: prompts that push nowhere; what is told is in standard deviations from their mean.

    Returns:
        One row a prompt, layer and emotion: text, id, topic, layer, emotion, value (readout at the
        colon), pressure (in standard deviations of usual prompts), alarm (whether its threshold is
        reached). The strongest first.

    Raises:
        CorpusError: if there are no prompts.
        SelectionError: if usual prompts are fewer than two.
    """
    if len(usual) < 2:
        raise SelectionError(f"{len(usual)} usual prompts have no spread: give at least two")
    values, plain = (_at_colon(monitor, texts) for texts in (prompts, usual))
    scaled = (values - plain.mean(0)) / plain.std(0)
    rows = []
    cuts = monitor.thresholds[monitor.thresholds.moment == "colon"]
    least = {(row.emotion, row.layer): row.threshold for row in cuts.itertuples()}
    for i, text in enumerate(prompts):
        for k, layer in enumerate(monitor.layers):
            for e, emotion in enumerate(monitor.vectors.emotions):
                value = float(values[i, k, e])
                alarm = value >= least.get((emotion, layer), float("inf"))
                told = (text.id, text.group, layer, emotion, value, float(scaled[i, k, e]), alarm)
                rows.append((i, *told))
    columns = ["text", "id", "topic", "layer", "emotion", "value", "pressure", "alarm"]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values("pressure", ascending=False, ignore_index=True)


def pressing_words(
    monitor: Monitor, prompts: Sequence[Text], emotion: str, *, layer: int | None = None
) -> pd.DataFrame:
    """Which parts of each prompt are responsible: what the readout loses without them.

    Parts are the prompt's innermost named spans that hold words, or, where it has none, its
    sentences, but never the last, where the model is read. Each is taken out of the text by itself;
    parts that say the same may each seem to do nothing.

    Args:
        monitor: what reads.
        prompts: up to the colon.
        emotion: whose readout.
        layer: 0-based block; the monitor's first by default.

    Returns:
        Columns text, part (name of the span, or `"sentence"`), start, end (characters), words,
        moved (readout at the colon with the part, minus without it), the largest of each text
        first.

    Raises:
        CorpusError: if there are no prompts.
        SelectionError: for an emotion or layer that is not watched.
    """
    column = monitor.cell(emotion, monitor.layers[0] if layer is None else layer)
    rows, without = [], []
    for i, text in enumerate(prompts):
        for name, start, end in _parts(text):
            rows.append((i, name, start, end, text.text[start:end]))
            without.append(Text(text.text[:start] + text.text[end:]))
    whole = _at_colon(monitor, prompts)[:, *column]
    less = _at_colon(monitor, without)[:, *column] if without else whole[:0]
    found = pd.DataFrame(rows, columns=["text", "part", "start", "end", "words"])
    found["moved"] = (whole[found.text.tolist()] - less).tolist()
    return found.sort_values(["text", "moved"], ascending=[True, False], ignore_index=True)


def pressed_against_dry(
    monitor: Monitor,
    pressed: Sequence[Text],
    dry: Sequence[Text],
    *,
    random_count: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """What pressure in words does to the state, request by request.

    Args:
        monitor: what reads.
        pressed: requests told with pressure.
        dry: the same requests without, in the same order.
        random_count: directions that are no emotion's, read in the same way: the control.
        seed: of these.

    Returns:
        One row a layer and emotion or random direction: layer, emotion, kind, rises (mean of
        pressed minus dry, in standard deviations of dry ones), low, high (95% bootstrap over
        topics), more (share of pairs in which it is higher), n.

    Raises:
        SelectionError: if they are not as many, or fewer than two.
    """
    if len(pressed) != len(dry) or len(dry) < 2:
        raise SelectionError(
            f"{len(pressed)} pressed and {len(dry)} dry requests are no pairs: give two or more, "
            "each in both versions"
        )
    groups = groups_of(dry)
    streams = [
        record(monitor.model, list(texts), layers=monitor.layers, positions=last)
        for texts in (pressed, dry)
    ]
    rows = []
    for layer in monitor.layers:
        column = monitor.vectors.column(layer)
        draws = random_directions(random_count, monitor.model.d_model, seed * 1000 + layer)
        axes = torch.cat([unit(monitor.vectors.at(layer)), draws])
        centre = monitor.vectors.mean[column]
        values, plain = (
            (unit(found.at(layer) - centre) @ axes.T).double().numpy() for found in streams
        )
        names = [*monitor.vectors.emotions, *(f"random {i}" for i in range(random_count))]
        ours = len(monitor.vectors.emotions)
        moved = (values - plain) / plain.std(0, ddof=1)
        for i, name in enumerate(names):
            kind = "emotion" if i < ours else CONTROL
            told = clustered_interval(moved[:, i].tolist(), groups)
            rows.append((layer, name, kind, *told, float((moved[:, i] > 0).mean()), len(dry)))
    columns = ["layer", "emotion", "kind", "rises", "low", "high", "more", "n"]
    return pd.DataFrame(rows, columns=columns)


def _at_colon(monitor: Monitor, texts: Sequence[Text]) -> Float[Tensor, "text layer emotion"]:
    return torch.stack([found.colon for found in monitor.read(texts)]).double()


def _parts(text: Text) -> list[tuple[str, int, int]]:
    """Innermost named spans with words, else sentences; none that reaches the end."""
    named = {(s.start, s.end): s.name for s in text.spans if text.text[s.start : s.end].strip()}
    found = [
        (name, *own)
        for own, name in named.items()
        if not any(o != own and own[0] <= o[0] and o[1] <= own[1] for o in named)
    ]
    if not found:
        whole = [m.span() for m in _SENTENCE.finditer(text.text) if m.group().strip()]
        found = [("sentence", *own) for own in whole]
    last = len(text.text.rstrip())
    return [part for part in found if part[2] < last]
