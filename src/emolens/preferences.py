"""Which of two things a model would rather do: every pair in both orders, and ratings of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from emolens.behaviour import Contest
from emolens.controls import CONTROL, random_directions
from emolens.decisions import option_ids, prompt_tokens
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering, one_each
from emolens.interventions import Steer
from emolens.model import HookedModel
from emolens.positions import span
from emolens.progress import track
from emolens.scoring import in_batches, next_logprobs
from emolens.text import OPENING, Span, Text, Turn, begun, plain
from emolens.vectors import EmotionVectors

ANCHOR = 1500.0  # mean rating, as in the paper
POINTS = 400 / np.log(10)  # rating points of a factor e in the odds
LEAST_WON = 0.01  # of a pair: without it, what always wins has no finite rating


def contest(items: Mapping[str, str], render: Callable[[Sequence[Turn]], Text] = plain) -> Contest:
    """Every pair of things in both orders, as a question with (A) and (B) (Fig. 4).

    The reply is begun with an opening bracket, so that the next token is a letter.

    Args:
        items: what each is, by name; as in "to tutor a child", without an end stop.
        render: `emolens.plain`, or for a chat model `functools.partial(emolens.chat, model)`.

    Raises:
        SelectionError: for fewer than two things.
        CorpusError: if the model's template does not take the turns.

    >>> found = contest({"walk": "to walk a dog", "swim": "to swim in a lake"})
    >>> print(found.prompts[0].text.strip())
    Human: Which would you rather do?
    (A) to walk a dog
    (B) to swim in a lake
    <BLANKLINE>
    Assistant: (
    """
    if len(items) < 2:
        raise SelectionError(f"{len(items)} things make no pair: give at least two")
    pairs = tuple(permutations(items, 2))
    return Contest(
        tuple(_asked(items, pair, render) for pair in pairs), pairs, (("A", "B"),) * len(pairs)
    )


def _asked(
    items: Mapping[str, str], pair: tuple[str, str], render: Callable[[Sequence[Turn]], Text]
) -> Text:
    text, spans = "Which would you rather do?", []
    for letter, item in zip("AB", pair, strict=True):
        text += f"\n({letter}) "
        spans.append(Span(item, len(text), len(text) + len(items[item])))
        text += items[item]
    told = render((Turn("user", text, spans=tuple(spans)), Turn("assistant", "")))
    return replace(begun(told, OPENING), group="/".join(pair))


@torch.inference_mode()
def compare(
    model: HookedModel,
    contest: Contest,
    steering: Steering | Sequence[Steering] = UNCHANGED,
    *,
    told: str = "choosing",
) -> pd.DataFrame:
    """What the model would rather do, of every pair.

    Args:
        model: a decoder.
        contest: the offers.
        steering: of all offers, or one of each.
        told: what the progress bar says.

    Returns:
        Columns first, second, p (probability of the first among the two), logit_difference (of the
        first over the second) and legal (probability of either at all; where it is small the model
        does not keep to the form, and p says little).

    Raises:
        ModelError: for an encoder.
        SelectionError: for an option that is not one known token, or an offer that is longer than
            the context.
    """
    read, final = prompt_tokens(model, contest.prompts, "a choice")
    plans = one_each(steering, len(contest.prompts))
    ids = _words(model, contest)
    logprobs = torch.zeros(len(ids), 2)
    batches = list(in_batches(model, range(len(ids)), (final + 1).tolist()))
    for rows in track(batches, told, len(batches), "batches"):
        found = next_logprobs(model, contest.prompts, read, final, plans, rows)
        logprobs[rows] = found.cpu().gather(1, ids[rows])
    found = pd.DataFrame(contest.pairs, columns=["first", "second"])
    difference = logprobs[:, 0] - logprobs[:, 1]
    return found.assign(
        p=difference.sigmoid().numpy(),
        logit_difference=difference.numpy(),
        legal=logprobs.exp().sum(1).numpy(),
    )


def _words(model: HookedModel, contest: Contest) -> Int[Tensor, "text 2"]:
    """The tokens of both options of each offer, one each."""
    said = list(dict.fromkeys(word for pair in contest.options for word in pair))
    column = {word: j for j, word in enumerate(said)}
    after = option_ids(model, contest.prompts, said)
    ids = []
    for row, pair in zip(after, contest.options, strict=True):
        for word in pair:
            tokens = row[column[word]]
            if len(tokens) != 1:
                raise SelectionError(
                    f"{word!r} must be one token of {model.name!r}; it is "
                    f"{model.tokenizer.convert_ids_to_tokens(tokens)}"
                )
            ids.append(tokens)
    return torch.cat(ids).view(-1, 2)


def ratings(compared: pd.DataFrame, *, hard: bool = False) -> pd.Series:
    """Bradley-Terry ratings on the scale of Elo, with a mean of 1500 (Table 9).

    What a thing wins of another is the mean over both orders, so that a preference for what is
    offered first plays no part.

    Args:
        compared: from `compare`.
        hard: count which option is likelier, as in Table 17, and not how likely it is.

    Returns:
        The rating of each thing, by name. A thing that always wins (`hard`) gets the rating at
        which a hundredth of a win more would put it.

    >>> told = pd.DataFrame({"first": ["a", "b"], "second": ["b", "a"], "p": [0.9, 0.3]})
    >>> ratings(told).round().to_dict()
    {'a': 1620.0, 'b': 1380.0}
    """
    from choix import ilsr_pairwise_dense

    items = list(dict.fromkeys([*compared["first"], *compared["second"]]))
    place = {item: i for i, item in enumerate(items)}
    wins = np.zeros((len(items), len(items)))
    p = (compared.p > 0.5).astype(float) if hard else compared.p
    for first, second, won in zip(compared["first"], compared["second"], p, strict=True):
        wins[place[first], place[second]] += won
        wins[place[second], place[first]] += 1 - won
    np.clip(wins, LEAST_WON, None, out=wins, where=wins + wins.T > 0)
    strength = ilsr_pairwise_dense(wins, max_iter=1000)
    return pd.Series(ANCHOR + POINTS * (strength - strength.mean()), items, name="rating")


def preference_steering(
    model: HookedModel,
    contest: Contest,
    vectors: EmotionVectors,
    *,
    layers: Sequence[int],
    strength: float = 0.5,
    emotions: Sequence[str] = (),
    random_count: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """How ratings move when an emotion is added where some of the things are told (Fig. 4).

    Every other thing is steered, wherever it is told; the rest are controls. Since ratings have a
    fixed mean, what the ones gain the others lose.

    Args:
        model: a decoder.
        contest: the offers.
        vectors: fitted on the same model.
        layers: where the step is added, at each.
        strength: length of the step, as a fraction of the residual norm of the layer.
        emotions: whose vectors; all of them by default.
        random_count: directions drawn by chance, as long as the step.
        seed: of those.

    Returns:
        Columns direction, kind ("emotion" or "control"), steered and rest (mean change of the
        rating of things that are steered and of the rest) and legal (mean probability of the
        options).
    """
    chosen = contest.items[::2]
    before = compare(model, contest, told="choosing, unsteered")
    base = ratings(before)
    draws = random_directions(random_count, model.d_model, seed)
    steps = {
        (e, "emotion"): {k: Steer(vectors.step(e, k, strength)) for k in layers}
        for e in emotions or vectors.emotions
    }
    for i, draw in enumerate(draws):
        lengths = {k: strength * vectors.residual_norm[vectors.column(k)] for k in layers}
        steps[f"random {i}", CONTROL] = {k: Steer(lengths[k] * draw) for k in layers}
    rows = []
    for (name, kind), changes in steps.items():
        both = [set(chosen) & set(pair) for pair in contest.pairs]
        plans = [Steering(changes, span(*sorted(told))) if told else UNCHANGED for told in both]
        after = compare(model, contest, plans, told=f"choosing, {name}")
        change = ratings(after) - base
        apart = change[list(chosen)].mean(), change.drop(list(chosen)).mean()
        rows.append((name, kind, *apart, after.legal.mean()))
    return pd.DataFrame(rows, columns=["direction", "kind", "steered", "rest", "legal"])
