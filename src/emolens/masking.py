"""What is felt beside what is shown: a model's state against the words that can be seen."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from emolens.errors import CorpusError, SelectionError
from emolens.monitor import Watched
from emolens.norms import vader_valence
from emolens.text import Span, Text

# How much of an emotion some texts show by their words alone; more is more of it.
Shown = Callable[[Sequence[str]], Float[np.ndarray, " text"]]


def by_sentiment(emotion: str) -> Shown:
    """VADER's sentiment of a text, with the sign of the emotion's own valence.

    Raises:
        SelectionError: for a word that VADER does not know, which tells no sign.

    >>> shown = by_sentiment("angry")
    >>> shown(["What a lovely day!", "This is awful."]).round(2).tolist()
    [-0.62, 0.46]
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    known = vader_valence([emotion])
    if not known:
        raise SelectionError(
            f"VADER has no valence of {emotion!r}, so its sentiment has no sign: use by_words"
        )
    sign, analyser = float(np.sign(known[emotion])), SentimentIntensityAnalyzer()

    def shown(texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        return sign * np.array([analyser.polarity_scores(text)["compound"] for text in texts])

    return shown


def by_words(stories: Sequence[Text], emotion: str) -> Shown:
    """How far a bag of words holds a text for one of that emotion, in log odds.

    A logistic regression on tf-idf weights of words, fitted on stories: what a monitor of texts
    would see who knows as many of them as the vectors do.

    Args:
        stories: labelled, of the emotion and of others.
        emotion: that is looked for.

    Raises:
        CorpusError: if all stories are of the emotion, or none.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = [story.emotion == emotion for story in stories]
    if len(set(labels)) < 2:
        raise CorpusError(
            f"{sum(labels)} of {len(labels)} stories are of {emotion!r}: give some of it and some "
            "of other emotions"
        )
    fitted = make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(class_weight="balanced")
    ).fit([story.text for story in stories], labels)
    return lambda texts: np.asarray(fitted.decision_function(list(texts)))


def felt_and_shown(
    watched: Sequence[Watched],
    usual: Sequence[Watched],
    emotion: str,
    shown: Shown,
    *,
    layer: int | None = None,
    spans: Sequence[str] = (),
) -> pd.DataFrame:
    """The gap between what a model holds and what its words show.

    Both are in standard deviations of usual texts from their mean, so that they compare.

    Args:
        watched: from a `Monitor`, of plain vectors or of those of deflection.
        usual: what usual texts give; as many as tell a spread.
        emotion: whose readout is what is felt.
        shown: `by_sentiment(emotion)` or `by_words(stories, emotion)`, or a function of your own.
        layer: 0-based block of the readout; the monitor's first by default.
        spans: named spans of the prompt whose words are visible, such as a speaker's turns; by
            default the reply.

    Returns:
        One row a text: text, words (that are visible), felt (mean readout over them), shown, gap
        (felt minus shown; high where the state is not seen).

    Raises:
        SelectionError: if a text has no such words, or usual texts are fewer than two.
    """
    if len(usual) < 2:
        raise SelectionError(f"{len(usual)} usual texts have no spread: give at least two")
    found, rest = (_seen(texts, emotion, shown, layer, spans) for texts in (watched, usual))
    columns = ["felt", "shown"]
    spread = rest[columns].std().replace(0.0, 1.0)  # sentiment may be 0 in all usual texts
    found[columns] = (found[columns] - rest[columns].mean()) / spread
    return found.assign(gap=found.felt - found.shown)


def _seen(
    watched: Sequence[Watched],
    emotion: str,
    shown: Shown,
    layer: int | None,
    spans: Sequence[str],
) -> pd.DataFrame:
    """Visible words of each text, the mean readout over them, and what they show."""
    rows = []
    for number, one in enumerate(watched):
        column = one.monitor.cell(emotion, one.monitor.layers[0] if layer is None else layer)
        parts = _visible(one, spans)
        starts, ends = one.offsets.T
        inside = sum(((starts < p.end) & (ends > p.start) for p in parts), starts < 0)
        if not bool(inside.any()):
            raise SelectionError(
                f"text {number} shows no words of {', '.join(spans) or 'a reply'}: name spans that "
                "it has, or let the model write"
            )
        whole = one.prompt.text + one.reply
        words = " ".join(whole[p.start : p.end].strip() for p in parts)
        rows.append((number, words, float(one.values[inside.bool(), *column].double().mean())))
    table = pd.DataFrame(rows, columns=["text", "words", "felt"])
    return table.assign(shown=shown(table.words.tolist()))


def _visible(one: Watched, spans: Sequence[str]) -> list[Span]:
    if spans:
        return [s for s in one.prompt.spans if s.name in spans]
    begin = len(one.prompt.text)
    return [Span("reply", begin, begin + len(one.reply))]
