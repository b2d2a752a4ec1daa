"""How a behaviour answers to growing doses of an emotion: curves with controls, and their shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.controls import CONTROL, permutations, random_directions
from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Schedule, Steering, steered, throughout
from emolens.interventions import Steer, unit
from emolens.positions import PositionRule, everything
from emolens.progress import track
from emolens.statistics import clustered_interval, halves
from emolens.vectors import EmotionVectors

DOSES = (0.25, 0.5, 0.75, 1.0, 1.5)  # natural units, up to where most texts still hold
RANDOM_DIRECTIONS = 20
IN_WORDS = "in words"
CURVE_COLUMNS = ["direction", "kind", "natural", "strength", "p", "low", "high"]
CURVE_COLUMNS += ["change", "change_low", "change_high", "n"]

# The behaviour of every prompt under a steering: 0..1 for a rate, or logits.
Measure = Callable[[Steering], Float[Tensor, " text"]]
# By emotion, the behaviour of every prompt that tells the state, and each one's template or topic.
InWords = Mapping[str, tuple[Sequence[float], Sequence[str]]]
NaturalUnits = Mapping[tuple[str, int], float]  # residual units, by emotion and layer


@dataclass(frozen=True, eq=False)
class Dose:
    """One step: which direction, how far in both units, and what is done for it.

    Attributes:
        direction: an emotion, or a control's name.
        kind: `"emotion"` or `"control"`.
        natural: how far, in natural units of the emotion (of the one a control stands beside).
        strength: the same as a fraction of the residual norm, mean over the layers.
        steering: what is done.
    """

    direction: str
    kind: str
    natural: float
    strength: float
    steering: Steering


UNSTEERED = Dose("none", "none", 0.0, 0.0, UNCHANGED)


def dose_ladder(
    vectors: EmotionVectors,
    emotions: Sequence[str],
    natural: NaturalUnits,
    *,
    layers: Sequence[int],
    amounts: Sequence[float] = DOSES,
    random_count: int = RANDOM_DIRECTIONS,
    permuted_count: int = 0,
    positions: PositionRule = everything,
    written: Schedule = throughout,
    seed: int = 0,
) -> list[Dose]:
    """Growing steps along emotions and along directions of nothing, at one layer or several.

    Args:
        vectors: fitted on the model.
        emotions: whose vectors.
        natural: how far the model itself moves along each, from `natural_units`.
        layers: where the step is added, at each its own share: with several, each gets its natural
            unit divided by their number, since a step goes on through the layers above.
        amounts: in natural units; negative ones push the other way.
        random_count: directions drawn by chance, as long as the first emotion's steps.
        permuted_count: the first emotion's vectors with their coordinates in another order, the
            same at every layer.
        positions: which tokens of a prompt are changed.
        written: how much each written token is.
        seed: of the controls.

    Raises:
        SelectionError: without emotions or layers, for a layer named twice, for an emotion or
            layer without vectors or natural units, or a natural unit that is not above zero: the
            model does not move that way.
    """
    if not emotions or not layers or len(set(layers)) < len(layers):
        raise SelectionError(
            f"no doses of emotions {list(emotions)} at layers {list(layers)}: name at least one of "
            "both, each layer once"
        )
    own = {e: {k: unit(vectors.of(e)[vectors.column(k)]) for k in layers} for e in emotions}
    lengths = {e: _units(natural, e, layers) for e in emotions}
    first, width = emotions[0], vectors.mean.shape[-1]
    ladders = [(e, "emotion", own[e], lengths[e]) for e in emotions]
    for i, draw in enumerate(random_directions(random_count, width, seed)):
        ladders.append((f"random {i}", CONTROL, dict.fromkeys(layers, draw), lengths[first]))
    for i, order in enumerate(permutations(permuted_count, width, seed)):
        permuted = {k: direction[order] for k, direction in own[first].items()}
        ladders.append((f"permuted {i}", CONTROL, permuted, lengths[first]))
    norms = {k: float(vectors.residual_norm[vectors.column(k)]) for k in layers}
    made = []
    for name, kind, directions, units in ladders:
        share = float(np.mean([units[k] / norms[k] for k in layers]))
        for amount in amounts:
            steps = {k: Steer(amount * units[k] * d) for k, d in directions.items()}
            plan = Steering(steps, positions, written)
            made.append(Dose(name, kind, amount, amount * share, plan))
    return made


def _units(natural: NaturalUnits, emotion: str, layers: Sequence[int]) -> dict[int, float]:
    found = {k: natural.get((emotion, k), 0.0) / len(layers) for k in layers}
    poor = [k for k, x in found.items() if not x > 0]
    if poor:
        raise SelectionError(
            f"no natural unit of {emotion!r} above zero at layers {poor}: the model does not move "
            "along this vector there; choose other layers, or vectors of another kind"
        )
    return found


def decision_measure(trial: Trial) -> Measure:
    """P(target) at each prompt's decision, as a measure of steering.

    Args:
        trial: prompts and model; intervals of what is measured are clustered by `trial.groups`.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> trial = emolens.Trial.prepare(model, emolens.organism_behaviour(per_emotion=2))
    >>> measure = decision_measure(trial)
    >>> bool((measure(Steering({})) - trial.run().p).abs().max() < 1e-6)
    True
    """

    @torch.inference_mode()
    def measure(steering: Steering) -> Float[Tensor, " text"]:
        plans = [steering] * len(trial.tokens)
        with steered(trial.model, trial.behaviour.prompts, trial.tokens, plans):
            return trial.run().p

    return measure


@dataclass(frozen=True, eq=False)
class Curves:
    """What a behaviour does under each dose, prompt by prompt.

    Attributes:
        doses: in order; the first is none.
        values: of every prompt.
        groups: template or topic of each prompt.
        in_words: by emotion, the behaviour where the state is not steered but told, and the
            template or topic of each of these prompts.
    """

    doses: tuple[Dose, ...]
    values: Float[Tensor, "dose text"]
    groups: tuple[str, ...]
    in_words: InWords = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """A row a dose, with the unsteered one at the head of every direction.

        Where the state was also told in words, a row of kind "in words" without a dose says what
        that does, with an interval over its own templates.

        Returns:
            Columns direction, kind, natural, strength, p (mean over templates), low, high (95%
            bootstrap over templates), change (from unsteered, prompt by prompt), change_low,
            change_high, n.
        """
        rows, base = [], self.values[0]
        names = dict.fromkeys((d.direction, d.kind) for d in self.doses[1:])
        for name, kind in names:
            own = [i for i, d in enumerate(self.doses) if d.direction == name]
            for i in [0, *own]:
                dose = self.doses[i]
                level = clustered_interval(self.values[i].tolist(), self.groups)
                change = clustered_interval((self.values[i] - base).tolist(), self.groups)
                rows.append((name, kind, dose.natural, dose.strength, *level, *change, len(base)))
        nan, unsteered = float("nan"), clustered_interval(base.tolist(), self.groups)[0]
        for name, (told, groups) in self.in_words.items():
            level = clustered_interval(list(told), groups)
            more = level[0] - unsteered
            rows.append((name, IN_WORDS, nan, nan, *level, more, nan, nan, len(told)))
        found = pd.DataFrame(rows, columns=CURVE_COLUMNS)
        order = {name: i for i, (name, _) in enumerate(names)}
        return found.sort_values(
            ["direction", "natural"],
            key=lambda c: c.map(order) if c.name == "direction" else c,
            ignore_index=True,
        )

    def turns(self) -> pd.DataFrame:
        """Whether each emotion's curve turns back on its way.

        Half of the templates choose where the curve stands out most from both of its ends, the
        other half tell by how much: so a straight curve is not called bent for its noise.

        Returns:
            Columns direction, natural (dose of the turn), turn (how far the curve there lies beyond
            the nearer end: above zero for a hump, below for a dip), low, high (95% bootstrap over
            the telling templates), bent (whether the interval leaves out zero on the side of the
            hump or dip that was chosen).

        Raises:
            SelectionError: for fewer than two templates, or two doses of a direction, which have no
                middle.
        """
        if len(set(self.groups)) < 2:
            raise SelectionError(
                "one template cannot both choose and tell where a curve turns: give at least two"
            )
        choosing = halves(self.groups)
        told = [g for g, c in zip(self.groups, choosing.tolist(), strict=True) if not c]
        rows = []
        for name in dict.fromkeys(d.direction for d in self.doses if d.kind == "emotion"):
            own = [0] + [i for i, d in enumerate(self.doses) if d.direction == name]
            own.sort(key=lambda i: self.doses[i].natural)
            if len(own) < 3:
                raise SelectionError(
                    f"{len(own) - 1} doses of {name!r} have no middle in which a curve could turn: "
                    "give at least two"
                )
            at, sign = _turn(self.values[own][:, choosing].mean(1))
            values = sign * self.values[own][:, ~choosing]
            ends = (values[at] - values[0], values[at] - values[-1])
            nearer = min(ends, key=lambda e: float(e.mean()))
            mean, low, high = clustered_interval((sign * nearer).tolist(), told)
            bent = low > 0 if sign > 0 else high < 0
            rows.append((name, self.doses[own[at]].natural, mean, low, high, bent))
        return pd.DataFrame(rows, columns=["direction", "natural", "turn", "low", "high", "bent"])


def _turn(curve: Float[Tensor, " dose"]) -> tuple[int, int]:
    """Where a curve lies furthest beyond both of its ends, and on which side."""
    inner = curve[1:-1]
    above = inner - torch.maximum(curve[0], curve[-1])
    below = torch.minimum(curve[0], curve[-1]) - inner
    if float(above.max()) >= float(below.max()):
        return 1 + int(above.argmax()), 1
    return 1 + int(below.argmax()), -1


def dose_curves(
    measure: Measure,
    groups: Sequence[str],
    steps: Sequence[Dose],
    *,
    in_words: InWords | None = None,
    told: str = "doses",
) -> Curves:
    """The behaviour of every prompt unsteered and under each dose.

    Args:
        measure: `decision_measure(trial)`, or any function of a steering.
        groups: template or topic of each prompt, what intervals are clustered by.
        steps: from `dose_ladder`.
        in_words: by emotion, the behaviour of prompts in which the state is told and nothing is
            steered (a situation of the emotion, or `EvaluationSet.told_to_feel`), and what its
            interval is clustered by.
        told: what the progress bar says.

    Raises:
        SelectionError: if the measure does not give one value a prompt.
    """
    whole = [UNSTEERED, *steps]
    values = [measure(step.steering) for step in track(whole, told, len(whole), "doses")]
    if any(len(v) != len(groups) for v in values):
        raise SelectionError(
            f"the measure gives {len(values[0])} values for {len(groups)} prompts: give one each"
        )
    return Curves(tuple(whole), torch.stack(values), tuple(groups), in_words or {})


def over_tasks(curves: Mapping[str, Curves]) -> pd.DataFrame:
    """Curves of several tasks below each other, and their mean over all tasks' templates.

    Returns:
        The columns of `Curves.table` with `task`, of which the last is "mean".

    Raises:
        SelectionError: if the tasks have not the same doses.
    """
    parts = list(curves.items())
    if len({tuple((d.direction, d.natural) for d in c.doses) for _, c in parts}) != 1:
        raise SelectionError("tasks with other doses have no mean: give all the same amounts")
    groups = tuple(f"{name}/{g}" for name, c in parts for g in c.groups)
    mean = Curves(parts[0][1].doses, torch.cat([c.values for _, c in parts], 1), groups)
    return pd.concat(
        [c.table().assign(task=name) for name, c in [*parts, ("mean", mean)]], ignore_index=True
    )
