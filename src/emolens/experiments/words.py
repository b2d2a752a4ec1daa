"""Does a vector say its own word? Log-probability of emotion words under steering (Fig. 52)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.controls import permutations, random_directions
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED, Steering
from emolens.interventions import Steer, unit
from emolens.model import HookedModel
from emolens.positions import PositionRule, span
from emolens.progress import track
from emolens.scoring import option_logprobs, word_ranks
from emolens.text import Text, Turn, begun, plain
from emolens.vectors import EmotionVectors

TWELVE = (
    *("happy", "inspired", "loving", "proud", "calm", "desperate"),
    *("angry", "guilty", "sad", "afraid", "nervous", "surprised"),
)
ASKED = (
    "Somebody comes in. How does he feel?",
    "He has just heard the news. How does he feel?",
    "He sits at the table. How does he feel?",
    "He puts the letter down. How does he feel?",
)
BEGUN = "He feels"
ASKED_ITSELF = ("How do you feel?", "How are you feeling now?")
BEGUN_ITSELF = "I feel"


def feeling_prompts(
    render: Callable[..., Text] = plain, *, itself: bool = False
) -> tuple[Text, ...]:
    """Questions about somebody of whom nothing is told, each with the reply begun.

    Args:
        render: `emolens.plain`, or for a chat model `functools.partial(emolens.chat, model)`.
        itself: ask the assistant what it feels.

    Raises:
        CorpusError: if the model's template does not take the turns.
    """
    group, asked, words = (
        ("itself", ASKED_ITSELF, BEGUN_ITSELF) if itself else ("somebody", ASKED, BEGUN)
    )
    return tuple(_begun(render, question, words, group) for question in asked)


def _begun(render: Callable[..., Text], question: str, words: str, group: str) -> Text:
    """The reply is begun after the template has opened it, since a whole one would be closed."""
    text = begun(render((Turn("user", question), Turn("assistant", "")), group=group), words)
    *rest, reply = text.spans
    return replace(text, spans=(*rest, replace(reply, end=len(text.text))))


def own_words(
    model: HookedModel,
    vectors: EmotionVectors,
    *,
    layers: Sequence[int],
    emotions: Sequence[str] = TWELVE,
    prompts: Sequence[Text] = (),
    positions: PositionRule | None = None,
    strength: float = 0.5,
    control_count: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Steer with each emotion and see which emotion word becomes likelier by most.

    Words of several tokens count with all of them.

    Args:
        model: a decoder.
        vectors: fitted on the same model.
        layers: where the step is added, at each.
        emotions: whose vectors and words, with a space before it; the paper's twelve by default.
        prompts: what the word may follow; by default `feeling_prompts`.
        positions: which tokens are changed; by default what the assistant has said.
        strength: length of the step, as a fraction of the residual norm (paper: .5 at one layer).
        control_count: how many sets of random directions, and of the vectors with their coordinates
            in another order; each set has one for every emotion.
        seed: of the controls.

    Returns:
        One row a steered direction and word: set (0 for the vectors; the number of a control set),
        kind ("emotion", "random" or "permuted"), direction (the emotion, or the one that the
        control stands for), word, change (of the natural logarithm of the probability, mean over
        prompts), most (whether no other word rises by more).

    Raises:
        SelectionError: for fewer than two emotions, or one that the vectors lack.
    """
    if len(emotions) < 2:
        raise SelectionError(f"{len(emotions)} emotions have no word to compare: give at least two")
    told = tuple(prompts) or feeling_prompts()
    rule = positions or span("assistant")
    words = [f" {emotion}" for emotion in emotions]
    whole = bool((word_ranks(model, told, words).tokens == 1).all())
    read = _first_tokens if whole else option_logprobs
    base = read(model, told, words)
    sets = list(_sets(vectors, emotions, layers, control_count, seed))
    rows = []
    for kind, number, directions in track(sets, "own words", len(sets), "sets"):
        for emotion, by_layer in directions.items():
            steps = {
                k: Steer(strength * vectors.residual_norm[vectors.column(k)] * d)
                for k, d in by_layer.items()
            }
            change = (read(model, told, words, Steering(steps, rule)) - base).mean(0)
            most = int(change.argmax())
            rows += [
                (number, kind, emotion, word, float(change[i]), i == most)
                for i, word in enumerate(emotions)
            ]
    return pd.DataFrame(rows, columns=["set", "kind", "direction", "word", "change", "most"])


def _first_tokens(
    model: HookedModel,
    prompts: Sequence[Text],
    words: Sequence[str],
    steering: Steering = UNCHANGED,
) -> Float[Tensor, "text option"]:
    """What `option_logprobs` gives of words of one token, in one pass a prompt."""
    found = word_ranks(model, prompts, words, steering)
    return torch.tensor(found.logprob.to_numpy()).view(len(prompts), len(words))


def _sets(
    vectors: EmotionVectors, emotions: Sequence[str], layers: Sequence[int], count: int, seed: int
) -> Iterator[tuple[str, int, dict[str, dict[int, Tensor]]]]:
    """The vectors themselves, then sets of directions that stand for them."""
    own = {e: {k: unit(vectors.of(e)[vectors.column(k)]) for k in layers} for e in emotions}
    yield "emotion", 0, own
    width = vectors.mean.shape[-1]
    for number, order in enumerate(permutations(count, width, seed)):
        yield "permuted", number, {e: {k: d[order] for k, d in by.items()} for e, by in own.items()}
    for number in range(count):
        draws = random_directions(len(emotions), width, seed + 1 + number)
        yield (
            "random",
            number,
            {e: dict.fromkeys(layers, d) for e, d in zip(emotions, draws, strict=True)},
        )


def own_word_counts(found: pd.DataFrame) -> pd.DataFrame:
    """For how many emotions the own word rises by most, beside what directions of nothing show.

    Args:
        found: from `own_words`.

    Returns:
        Columns kind, rises_most (how many; of controls the mean over sets), low, high (the middle
        95% of the control sets), matching and other (mean change of the own word and of the rest),
        of (how many emotions).
    """
    rows = []
    for kind, table in found.groupby("kind", sort=False):
        own = table.direction == table.word
        counts = (own & table.most).groupby(table.set).sum()
        ends = counts.quantile([0.025, 0.975])
        changes = table[own].change.mean(), table[~own].change.mean()
        rows.append((kind, counts.mean(), *ends, *changes, table.direction.nunique()))
    columns = ["kind", "rises_most", "low", "high", "matching", "other", "of"]
    return pd.DataFrame(rows, columns=columns)
