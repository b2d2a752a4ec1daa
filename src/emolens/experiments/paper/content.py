"""Each emotion's own words, and the words that mark what its stories are about."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from emolens.experiments.paper.liking import spread
from emolens.experiments.paper.study import Study

EMOTIONS = 12
CONTENT = 5  # words of each emotion's stories
SHARED = 0.2  # of the emotions: a word in the stories of more is no one's content


@dataclass(frozen=True)
class Words:
    """An emotion's own words and words of what its stories are about, one token each."""

    own: tuple[str, ...]
    content: tuple[str, ...]


def tone_and_content(study: Study) -> dict[str, Words]:
    """Of some emotions, evenly spread over all."""
    materials, found = study.materials, {}
    told = pd.Series([t.text for t in materials.corpus.stories]).groupby(
        [t.emotion for t in materials.corpus.stories], sort=False
    )
    stories = told.apply(" ".join).reindex(list(study.vectors.emotions))
    counter = TfidfVectorizer(token_pattern=r"(?u)\b[^\W\d_]{3,}\b", max_df=SHARED)
    weight = counter.fit_transform(stories).toarray()
    terms = counter.get_feature_names_out()
    taken = {w for own in materials.words.values() for w in own}
    free = np.array([t not in taken for t in terms]) & np.array(
        [token_of(study, t) is not None for t in terms]
    )
    for emotion, row in zip(stories.index, weight, strict=True):
        own = tuple(w for w in materials.words[emotion] if token_of(study, w) is not None)
        best = np.argsort(np.where(free, row, 0))[::-1][:CONTENT]
        content = tuple(terms[i] for i in best if free[i] and row[i] > 0)
        if own and content:
            found[emotion] = Words(own, content)
    names = list(found)
    return {names[i]: found[names[i]] for i in (spread(len(names), EMOTIONS) if names else [])}


def token_of(study: Study, word: str) -> int | None:
    """The one token of a word after another word; none where it has several or is not known."""
    tokenizer = study.model.tokenizer
    own, both = (tokenizer.encode(t, add_special_tokens=False) for t in ("a", f"a {word}"))
    rest = both[len(own) :]
    return rest[0] if len(rest) == 1 and rest[0] != tokenizer.unk_token_id else None
