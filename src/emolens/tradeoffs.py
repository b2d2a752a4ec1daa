"""What steering costs: each setting's gain beside the harm to text, skill and fairness."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch

from emolens.corpus.bundled import EvaluationSet, evaluation_set
from emolens.doses import UNSTEERED, Dose, Measure
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering
from emolens.model import HookedModel
from emolens.progress import track
from emolens.scoring import option_logprobs, token_logprobs
from emolens.statistics import clustered_interval
from emolens.text import OPENING, Text, begun, groups_of, plain

# What a steering does to a model: a value for every text, and the groups of the texts.
Cost = Callable[[Steering], tuple[Sequence[float], Sequence[str]]]


def perplexity_cost(model: HookedModel, texts: Sequence[Text]) -> Cost:
    """Mean negative log-likelihood of texts, in nats a token; its exponential is the perplexity."""

    def cost(steering: Steering) -> tuple[Sequence[float], Sequence[str]]:
        found, _ = token_logprobs(model, texts, steering)
        return (-found.nanmean(1)).tolist(), groups_of(texts)

    return cost


def question_cost(
    model: HookedModel, questions: EvaluationSet, render: Callable[..., Text] = plain
) -> Cost:
    """Share of questions that are answered wrongly, by which letter is likeliest.

    For the bundled sets "capability" and "bias" (of which the ambiguous ones are answered rightly
    by "cannot be told"), or your own with a label `key` and options told as "(A) ...".

    Raises:
        SelectionError: if the questions have no key.
    """
    if "key" not in questions.labels:
        raise SelectionError(f"{questions.name} has no label 'key': give questions with keys")
    texts = questions.texts(render)
    asked = [begun(text, OPENING) for text in texts]
    letters = [_letters(text) for text in texts]

    def cost(steering: Steering) -> tuple[Sequence[float], Sequence[str]]:
        found = option_logprobs(model, asked, "ABCDE", steering)
        wrong = []
        for row, own, key in zip(found, letters, questions.labels.key, strict=True):
            wrong.append(float("ABCDE"[int(row[: len(own)].argmax())] != key))
        return wrong, list(questions.labels.topic)

    return cost


def _letters(text: Text) -> str:
    """The letters of a question's options."""
    return "".join(letter for letter in "ABCDE" if f"\n({letter}) " in text.text)


def measure_cost(measure: Measure, groups: Sequence[str]) -> Cost:
    """How far a behaviour that should stay moves from where it is unsteered, either way."""
    base = measure(UNCHANGED)

    def cost(steering: Steering) -> tuple[Sequence[float], Sequence[str]]:
        return (measure(steering) - base).abs().tolist(), groups

    return cost


def usual_costs(
    model: HookedModel, neutral: Sequence[Text], render: Callable[..., Text] = plain
) -> dict[str, Cost]:
    """Perplexity of neutral texts, and errors on the bundled skill and fairness questions."""
    return {
        "perplexity": perplexity_cost(model, neutral),
        "capability": question_cost(model, evaluation_set("capability"), render),
        "bias": question_cost(model, evaluation_set("bias"), render),
    }


def trade_offs(
    settings: Sequence[Dose], gain: Measure, groups: Sequence[str], costs: Mapping[str, Cost]
) -> pd.DataFrame:
    """Every setting's gain beside its costs, and which settings nothing beats.

    Args:
        settings: from `dose_ladder`: emotions and controls alike.
        gain: of the behaviour that is to be moved; more is better. To bring one down, give a
            measure with its sign changed.
        groups: template or topic of each of its prompts.
        costs: by name; less is better.

    Returns:
        One row a setting and cost: direction, kind, natural, strength, gain, gain_low, gain_high
        (over unsteered, prompt by prompt), cost (its name), harm, harm_low, harm_high (over
        unsteered, text by text), frontier (whether no setting has as much gain for less of this
        harm). The unsteered model is the row with direction "none".

    Raises:
        SelectionError: without settings or costs.
    """
    if not settings or not costs:
        raise SelectionError("no settings or no costs to weigh: give at least one of each")
    rows: list[tuple] = []
    free: dict[str, torch.Tensor] = {}  # of each measure, unsteered, which comes first
    whole = [UNSTEERED, *settings]
    for dose in track(whole, "trade-offs", len(whole), "settings"):
        value = gain(dose.steering)
        gained = clustered_interval((value - free.setdefault("gain", value)).tolist(), groups)
        for name, cost in costs.items():
            values, own = cost(dose.steering)
            found = torch.tensor(values)
            harm = clustered_interval(
                (found - free.setdefault(f"cost {name}", found)).tolist(), own
            )
            rows.append(
                (dose.direction, dose.kind, dose.natural, dose.strength, *gained, name, *harm)
            )
    columns = ["direction", "kind", "natural", "strength", "gain", "gain_low", "gain_high"]
    columns += ["cost", "harm", "harm_low", "harm_high"]
    found = pd.DataFrame(rows, columns=columns)
    beaten = [
        bool(
            (
                (found.cost == row.cost)
                & (found.gain >= row.gain)
                & (found.harm <= row.harm)
                & ((found.gain > row.gain) | (found.harm < row.harm))
            ).any()
        )
        for row in found.itertuples()
    ]
    return found.assign(frontier=[not x for x in beaten])
