"""A controller that steers towards calm where the state leaves a band, and what it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch

from emolens.controls import CONTROL, random_directions
from emolens.doses import Measure
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering
from emolens.interventions import Hold, Residual, unit
from emolens.monitor import Monitor
from emolens.progress import track
from emolens.statistics import clustered_interval, clustered_ratio
from emolens.text import Text
from emolens.tradeoffs import Cost

OUT_OF_BAND = 0.01  # of the tokens of usual texts
GAIN = 2.0
MOST = 0.5
RANDOM_GUARDS = 5


@dataclass(frozen=True, eq=False)
class Regulator:
    """Several bands at one layer, held one after the other."""

    holds: tuple[Hold, ...]

    def __call__(self, residual: Residual) -> Residual:
        """The held stream."""
        for hold in self.holds:
            residual = hold(residual)
        return residual


Regulation = Mapping[int, Regulator]  # by the 0-based block that they come after


def regulation(
    monitor: Monitor,
    usual: Sequence[Text],
    *,
    emotions: Sequence[str],
    calm: str = "calm",
    layer: int | None = None,
    rate: float = OUT_OF_BAND,
    gain: float = GAIN,
    most: float = MOST,
) -> Regulation:
    """A controller that steers towards calm where an emotion leaves the band of usual texts.

    It acts on each token by itself, in the pass in which the model reads it, so the first token of
    a reply is already chosen in the held state. Where the state is usual nothing is changed.

    Args:
        monitor: whose vectors and layers.
        usual: texts whose tokens set the band: its upper edge is what their projection on an
            emotion's vector passes at the rate.
        emotions: which are held, one after the other.
        calm: the emotion steered to, from the one that is held.
        layer: 0-based block; the monitor's first by default.
        rate: share of the tokens of usual texts that are out of the band.
        gain: of the push; at 1 it leads back to the edge of the band. More leads beyond it, since
            what is held low by one direction may still be told by others.
        most: longest push, as a fraction of the mean residual norm.

    Returns:
        For `Steering`, `hooked`, `run_changed` or a `Regulate`: what is done after that block.

    Raises:
        CorpusError: if there are no usual texts.
        SelectionError: for an emotion or layer without vectors, the calm one among those that are
            held, or numbers below 0.
    """
    layer = monitor.layers[0] if layer is None else layer
    if not emotions or calm in emotions or min(rate, gain, most) < 0:
        raise SelectionError(
            f"{list(emotions)} cannot be held by {calm!r} at rate {rate:g}, gain {gain:g}, at most "
            f"{most:g}: name other emotions than it, and numbers of 0 or more"
        )
    vectors = monitor.vectors
    column, towards = vectors.column(layer), unit(vectors.of(calm))
    projected = replace(monitor, kind="projection", thresholds=monitor.thresholds[:0])
    values = torch.cat([found.values for found in projected.read(usual)])
    longest = most * float(vectors.residual_norm[column])
    holds = []
    for emotion in emotions:
        read = unit(vectors.of(emotion))[column]
        push = unit(towards[column] - read)
        own = values[:, *monitor.cell(emotion, layer)].double()
        high = float(own.quantile(1 - rate))
        strength = gain / float(-(read @ push))
        band = (float("-inf"), high)
        holds.append(Hold(read, vectors.mean[column], *band, push, strength, longest))
    return {layer: Regulator(tuple(holds))}


def random_regulation(change: Regulation, seed: int) -> Regulation:
    """The same controller with a push in random directions: its control."""
    made = {}
    for layer, own in change.items():
        draws = random_directions(len(own.holds), len(own.holds[0].push), seed)
        pairs = zip(own.holds, draws, strict=True)
        made[layer] = Regulator(tuple(replace(hold, push=draw) for hold, draw in pairs))
    return made


def guard_effect(
    measure: Measure,
    groups: Sequence[str],
    usual_rate: float,
    change: Regulation,
    costs: Mapping[str, Cost],
    *,
    random_count: int = RANDOM_GUARDS,
    seed: int = 0,
) -> pd.DataFrame:
    """What holding a state does to a behaviour, and what it costs, beside random controllers.

    A random one pushes at the same places and by the same rule, in another direction.

    Args:
        measure: of the behaviour in contexts in which it is more frequent than usual, for example
            `decision_measure(trial)` or `answer_measure(...)`.
        groups: template or topic of each context.
        usual_rate: of the behaviour where nothing drives it; what is above is the excess.
        change: from `regulation`.
        costs: by name, such as `perplexity_cost` on neutral texts; less is better.
        random_count: controllers with random pushes.
        seed: of their directions.

    Returns:
        One row a guard (`"none"`, `"calm"`, `"random 0"`, ...): guard, kind, rate, rate_low,
        rate_high (95% over groups; what is left of the behaviour), cut, cut_low, cut_high (share of
        the excess that is gone; above 1 where the rate falls below the usual one, below 0 where it
        grows), and for each cost its harm over no guard with `_low` and `_high`.

    Raises:
        SelectionError: if the behaviour is no more frequent than usual.
    """
    free = measure(UNCHANGED)
    excess = free - usual_rate
    if float(excess.mean()) <= 0:
        raise SelectionError(
            f"a rate of {float(free.mean()):.2f} is no higher than the usual {usual_rate:.2f}: "
            "give contexts in which there is something to cut"
        )
    guards = {"none": UNCHANGED, "calm": Steering(change)}
    for i in range(random_count):
        guards[f"random {i}"] = Steering(random_regulation(change, seed + i))
    before = {name: cost(UNCHANGED)[0] for name, cost in costs.items()}
    rows = []
    for name in track(list(guards), "guards", len(guards), "guards"):
        found = measure(guards[name])
        row: dict[str, object] = {
            "guard": name,
            "kind": CONTROL if name.startswith("random") else name,
        }
        row |= _spread("rate", clustered_interval(found.tolist(), groups))
        row |= _spread("cut", clustered_ratio((free - found).tolist(), excess.tolist(), groups))
        for told, cost in costs.items():
            values, own = cost(guards[name])
            harm = torch.tensor(values) - torch.tensor(before[told])
            row |= _spread(told, clustered_interval(harm.tolist(), own))
        rows.append(row)
    return pd.DataFrame(rows)


def _spread(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    """A value and its interval as columns."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
