"""What a corpus of stories has to satisfy: no leaks, no copies, balance, length, variety, ease."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd

from emolens.corpus.bundled import texts_folder
from emolens.errors import CorpusError
from emolens.text import Text

LONGEST, SHORTEST = 140, 80  # words of a story: reading from token 50 leaves enough of the shortest
COPIED = 0.15  # share of common five-word runs from which two stories count as one
RUN = 5
PERMUTATIONS = 100
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


@cache
def naming_words() -> Mapping[str, re.Pattern[str]]:
    """For each of the 171 emotions, the words that name it: its stem and direct synonyms.

    >>> naming_words()["afraid"].findall("She was not scared; the scarf was.")
    ['scared']
    """
    raw = tomllib.loads((texts_folder() / "leaks.toml").read_text("utf-8"))
    patterns = {}
    for emotion, families in raw["emotions"].items():
        words = sorted({word for family in families for word in raw["families"][family]})
        stems = [re.escape(w[:-1]) + r"\w*" if w[-1] == "*" else re.escape(w) for w in words]
        patterns[emotion] = re.compile(rf"\b(?:{'|'.join(stems)})\b", re.IGNORECASE)
    return patterns


def naming(emotion: str) -> re.Pattern[str]:
    """Words that name an emotion; of one outside the 171, whatever begins as it does."""
    return naming_words().get(emotion) or re.compile(rf"\b{re.escape(emotion)}\w*", re.IGNORECASE)


def leaks(stories: Sequence[Text]) -> pd.DataFrame:
    """Words that name the emotion their own story is meant to show: `id`, `emotion`, `word`.

    >>> leaks([Text("He felt gladness at last.", "happy", id="a"), Text("Glad!", "sad", id="b")])
      id emotion      word
    0  a   happy  gladness
    """
    found = [
        (story.id, story.emotion, word)
        for story in stories
        for word in naming(story.emotion).findall(story.text)
    ]
    return pd.DataFrame(found, columns=["id", "emotion", "word"])


@dataclass
class Runs:
    """Texts by their runs of five words, so that one can be held against all before it."""

    holders: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def add(self, text: str) -> None:
        """One text more."""
        own = runs(text)
        for run in own:
            self.holders.setdefault(run, []).append(len(self.sizes))
        self.sizes.append(len(own))

    def alike(self, text: str) -> dict[int, float]:
        """Jaccard index with each text that has a run in common, by its number."""
        own = runs(text)
        common = Counter(number for run in own for number in self.holders.get(run, ()))
        return {i: n / (len(own) + self.sizes[i] - n) for i, n in common.items()}


def copies(
    texts: Sequence[Text], others: Iterable[Text] | None = None, *, above: float = COPIED
) -> pd.DataFrame:
    """Pairs that share many runs of five words: `id`, `other`, `jaccard`, the most alike first.

    Args:
        texts: what is compared.
        others: with what; by default each with every later one of `texts`.
        above: the least Jaccard index that is told; 1.0 are texts of the same words.

    >>> one, two = Text("a b c d e f", id="one"), Text("a b c d e g", id="two")
    >>> copies([one, two])
        id other   jaccard
    0  one   two  0.333333
    """
    known, found = Runs(), []
    if others is not None:
        for text in texts:
            known.add(text.text)
    for other in texts if others is None else others:
        alike = known.alike(other.text).items()
        found += [(texts[i].id, other.id, jaccard) for i, jaccard in alike if jaccard > above]
        if others is None:
            known.add(other.text)
    table = pd.DataFrame(found, columns=["id", "other", "jaccard"])
    return table.sort_values("jaccard", ascending=False, ignore_index=True)


def mutual_information(stories: Sequence[Text], *, seed: int = 0) -> Mapping[str, float]:
    """What a story's topic tells of its emotion, in nats, and the least and mean of permutations.

    Of a crossed design it is below every permutation: each emotion has only different topics.
    """
    from sklearn.metrics import mutual_info_score

    emotions, topics = [t.emotion for t in stories], np.array([t.group for t in stories])
    generator = np.random.default_rng(seed)
    permuted = [
        mutual_info_score(emotions, generator.permutation(topics)) for _ in range(PERMUTATIONS)
    ]
    return {
        "own": float(mutual_info_score(emotions, topics)),
        "permuted_least": float(min(permuted)),
        "permuted_mean": float(np.mean(permuted)),
    }


def opening_variety(texts: Sequence[Text]) -> tuple[float, str]:
    """Share of texts whose first three words no other has, and the commonest such beginning."""
    begins = Counter(" ".join(words(t.text)[:3]) for t in texts)
    return sum(n == 1 for n in begins.values()) / len(texts), begins.most_common(1)[0][0]


def reading_grade(text: str) -> float:
    """Automated readability index (Senter & Smith 1967): the US school grade that reads it.

    >>> round(reading_grade("The cat sat on the mat. It was warm."), 1)
    -5.6
    """
    found = words(text)
    count, letters = len(found) or 1, sum(map(len, found))
    sentences = len(re.findall(r"[.!?\u2026]+(?=[\s\"'\u201d\u2019)]|$)", text)) or 1
    return 4.71 * letters / count + 0.5 * count / sentences - 21.43


def check_stories(stories: Sequence[Text], against: Sequence[Text] = ()) -> pd.DataFrame:
    """What the bundled corpus has to satisfy, on any corpus: `check`, `found`, `bar`, `passed`.

    Args:
        stories: with `emotion`, the topic as `group`, and `id`.
        against: another corpus, for wording that both share.

    Raises:
        CorpusError: if there are no stories.

    Reading ease and openings have no bar of their own elsewhere: a median grade of 8 is what a
    newspaper is read with, and three first words that half of the stories share with others are a
    mould.
    """
    if not stories:
        raise CorpusError("no stories to check: give at least one")
    counts = [len(words(story.text)) for story in stories]
    odd = sum(not SHORTEST <= n <= LONGEST for n in counts)
    told = mutual_information(stories)
    unlike, commonest = opening_variety(stories)
    grade = float(np.median([reading_grade(story.text) for story in stories]))
    rows: list[tuple[str, float, str, bool]] = [
        ("stories", len(stories), "", True),
        ("emotions", len({story.emotion for story in stories}), "", True),
        ("words that name the emotion", n := len(leaks(stories)), "0", n == 0),
        (f"outside {SHORTEST} to {LONGEST} words", odd, "0", odd == 0),
        (f"pairs above {COPIED} of common runs", n := len(copies(stories)), "0", n == 0),
        (
            "mutual information of topic and emotion",
            told["own"],
            f"<= {told['permuted_least']:.3f}",
            told["own"] <= told["permuted_least"],
        ),
        (f"openings that are nobody else's ({commonest!r} most)", unlike, ">= 0.5", unlike >= 0.5),
        ("reading grade, median", grade, "<= 8", grade <= 8),
    ]
    if against:
        shared = len(copies(stories, against))
        rows.append(("pairs with the other corpus", shared, "0", shared == 0))
    return pd.DataFrame(rows, columns=["check", "found", "bar", "passed"])


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.lower())


def runs(text: str) -> set[tuple[str, ...]]:
    """The runs of five words that occur in a text."""
    found = words(text)
    return set(zip(*(found[k:] for k in range(RUN)), strict=False))
