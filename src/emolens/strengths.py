"""How hard a model can be steered: from where it shows at all to where the text breaks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering, generate
from emolens.model import HookedModel
from emolens.progress import track
from emolens.scoring import divergence, logprobs_of
from emolens.text import Text

# fractions of the residual norm, in steps of the fourth root of ten: the paper used .01 to .5
LADDER = tuple(float(x) for x in np.geomspace(0.01, 3.16, 11).round(3))
SHOWS = 0.01  # nats at the next token: a percent of a percent of probability moved is less
STRAY = 0.01  # of the unsteered text's tokens are less likely than what counts as stray
BROKEN = 2.0  # times as perplexing as unsteered text, to the model itself
REPEATED = 0.2  # more of its runs of three tokens said before than in unsteered text
STRAYED = 0.05  # more stray tokens than in unsteered text
WRITTEN = 40
RUN = 3


@dataclass(frozen=True, eq=False)
class Window:
    """Strengths that do something and leave the text whole.

    Attributes:
        table: one row a strength, from `strength_window`.
        low: the smallest surgical strength; NaN if there is none.
        high: the largest one below which all that show are surgical.
    """

    table: pd.DataFrame
    low: float
    high: float

    def __repr__(self) -> str:
        """One line."""
        return f"Window({self.low:g} to {self.high:g} of the residual norm)"


def strength_window(
    model: HookedModel,
    prompts: Sequence[Text],
    steering: Callable[[float], Steering],
    *,
    strengths: Sequence[float] = LADDER,
    tokens: int = WRITTEN,
    seed: int = 0,
) -> Window:
    """Try growing strengths and tell at each whether the text still holds.

    Args:
        model: a decoder.
        prompts: to write on from; a dozen or more, of the kind that is to be steered.
        steering: of a strength, for example
            `lambda s: Steering({3: Steer(vectors.step("calm", 3, s))})`.
        strengths: growing, by default spaced by the logarithm.
        tokens: most that are written after a prompt, at temperature 1.
        seed: of the sampling, the same for every strength.

    Returns:
        A window, whose table has columns strength, divergence (nats at the next token, mean over
        prompts), perplexity (of what is written, to the unsteered model), repeated (share of its
        runs of three tokens that the same text has had before), stray (share of tokens less likely
        to the unsteered model than a hundredth of those it writes itself), regime:

        - `"none"`: the next token hardly changes (below .01 nats);
        - `"surgical"`: it does, and the text is about as likely and varied as unsteered;
        - `"repetitive"`: it says the same again (.2 more of its runs than unsteered);
        - `"explosive"`: perplexity more than twice the unsteered, or 5% more stray tokens;
        - `"silent"`: nothing is written any more (perplexity, repeated and stray are NaN).

        The row of strength 0 is the unsteered text.

    Raises:
        SelectionError: if strengths do not grow, or nothing is written.
    """
    if not strengths or any(b <= a for a, b in pairwise((0.0, *strengths))):
        raise SelectionError(f"strengths {list(strengths)} do not grow from above 0: sort them")
    floor, first = float("-inf"), None
    rows = []
    for strength in track([0.0, *strengths], "strengths", len(strengths) + 1, "strengths"):
        plan = steering(strength) if strength else UNCHANGED
        found = _written(model, prompts, plan, tokens, seed)
        if first is None:
            if not found:
                raise SelectionError(
                    f"{model.name!r} writes nothing after any of {len(prompts)} prompts: give "
                    "prompts that do not end a text"
                )
            floor = float(torch.cat([logprobs for logprobs, _ in found]).quantile(STRAY))
        state = _state(found, floor)
        first = first or state
        moved = float(divergence(model, prompts, plan).mean()) if strength else 0.0
        rows.append((strength, moved, *state, _regime(moved, state, first)))
    columns = ["strength", "divergence", "perplexity", "repeated", "stray", "regime"]
    table = pd.DataFrame(rows, columns=columns)
    return Window(table, *_bounds(table))


def _written(
    model: HookedModel, prompts: Sequence[Text], plan: Steering, tokens: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Of what is written after each prompt: how likely it is unsteered, and its tokens."""
    replies = generate(model, prompts, plan, tokens=tokens, seed=seed)
    texts = [Text(p.text + reply) for p, reply in zip(prompts, replies, strict=True)]
    read = model.tokenize(texts)  # broken text may have more tokens than were written: cut it
    logprobs = logprobs_of(model, texts, read, [UNCHANGED] * len(texts))
    found = []
    for i, prompt in enumerate(prompts):
        own = read.words[i] & (read.offsets[i, :, 0] >= len(prompt.text)) & ~logprobs[i].isnan()
        if bool(own.any()):
            found.append((logprobs[i, own], read.ids[i, own]))
    return found


def _state(found: Sequence[tuple[Tensor, Tensor]], floor: float) -> tuple[float, float, float]:
    """Perplexity, share of repeated runs, share of stray tokens."""
    if not found:
        return (float("nan"),) * 3
    logprobs = torch.cat([own for own, _ in found])
    runs = [list(zip(*(ids.tolist()[k:] for k in range(RUN)), strict=False)) for _, ids in found]
    count = sum(map(len, runs))
    again = sum(len(own) - len(set(own)) for own in runs)
    return (
        float((-logprobs.mean()).exp()),
        again / max(count, 1),
        float((logprobs < floor).float().mean()),
    )


def _regime(
    moved: float, state: tuple[float, float, float], first: tuple[float, float, float]
) -> str:
    perplexity, repeated, stray = state
    if np.isnan(perplexity):
        return "silent"
    if perplexity > BROKEN * first[0] or stray > first[2] + STRAYED:
        return "explosive"
    if repeated > first[1] + REPEATED:
        return "repetitive"
    return "surgical" if moved >= SHOWS else "none"


def _bounds(table: pd.DataFrame) -> tuple[float, float]:
    """The first surgical strength and the last before the text breaks for the first time."""
    told = table[table.strength > 0]
    broken = told[~told.regime.isin(["none", "surgical"])].strength.min()
    whole = told[(told.regime == "surgical") & ~(told.strength >= broken)].strength
    return float(whole.min()), float(whole.max())
