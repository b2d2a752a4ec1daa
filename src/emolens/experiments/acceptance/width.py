"""What only a wide organism carries: 171 words, their plane, their groups, their rates."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from emolens.decisions import Trial
from emolens.experiments.acceptance.check import Check
from emolens.experiments.acceptance.reading import accuracy, named
from emolens.geometry import circumplex, clusters
from emolens.model import HookedModel
from emolens.organism import (
    SCENES,
    organism_behaviour,
    organism_corpus,
    planted_groups,
    planted_norms,
    planted_probability,
)
from emolens.probes import probe_layers
from emolens.progress import track
from emolens.recording import record
from emolens.sites import two_thirds
from emolens.text import NEUTRAL, Text
from emolens.vectors import fit_vectors

PER_EMOTION = 9  # prompts a scene


def width(model: HookedModel, seed: int) -> Iterator[Check]:
    """Lens, probe, plane, groups and rates over all words of the wide world."""
    corpus, layer = organism_corpus(seed=seed, world="wide"), two_thirds(range(model.n_layers))
    stories, neutral, bare = (
        record(model, texts, layers=[layer])
        for texts in (corpus.stories, corpus.neutral, list(map(without_signature, corpus.stories)))
    )
    vectors = fit_vectors(stories, neutral)
    found = named(model, vectors, layer, "wide")
    yield Check(f"171 words: lens, name or synonym in top 10, layer {layer}", found, least=0.75)
    probe = accuracy(probe_layers(stories, methods=["logistic"], seed=seed), layer)
    yield Check("171 words: probe, held-out templates", probe, least=0.7)
    probe = accuracy(probe_layers(bare, methods=["logistic"], seed=seed), layer)
    yield Check("171 words: the same without signature words", probe)
    plane = circumplex(vectors, [layer], planted_norms("wide")).set_index("axis").r2
    yield Check("171 words: R2 of valence on PC1-2", plane["valence"], least=0.8)
    yield Check("171 words: R2 of arousal on PC1-2", plane["arousal"], least=0.5)
    groups = planted_groups()
    told = clusters(vectors, layer, count=len(set(groups.values())), seed=seed)
    found = float(adjusted_rand_score([groups[e] for e in told.emotion], told.cluster))
    yield Check("171 words: k-means against the groups, adjusted Rand", found, least=0.6)
    yield from _rates(model, seed)


def without_signature(text: Text) -> Text:
    """A story less its sentence with a signature word, which alone would tell the emotion."""
    said = [s for s in text.spans if s.name != "signature"]
    parts, spans, length = [], [], 0
    for span in said:
        parts.append(text.text[span.start : span.end])
        spans.append(replace(span, start=length, end=length + len(parts[-1])))
        length += len(parts[-1]) + 1
    return replace(text, text=" ".join(parts), spans=tuple(spans))


def _rates(model: HookedModel, seed: int) -> Iterator[Check]:
    """P(class | word) against what is planted, in all scenes."""
    emotions, rows = (*planted_groups(), NEUTRAL), []
    for scene in track(SCENES, "rates of 171 words", len(SCENES), "scenes"):
        behaviour = organism_behaviour(
            scene, emotions=emotions, per_emotion=PER_EMOTION, seed=seed, world="wide"
        )
        decision = Trial.prepare(model, behaviour).run()
        for name, p in decision.probability.items():
            found = p.view(len(emotions), PER_EMOTION).mean(1).tolist()
            for emotion, rate in zip(emotions, found, strict=True):
                planted = planted_probability(scene, name, emotion, world="wide")
                rows.append((scene, name, emotion, rate, planted))
    table = pd.DataFrame(rows, columns=["scene", "class", "emotion", "p", "planted"])
    told = table[table.emotion != NEUTRAL]
    yield Check("171 words: r of rates with planted", told.p.corr(told.planted), least=0.9)
    rest = table[table.emotion == NEUTRAL].set_index(["scene", "class"])
    base = rest.loc[pd.MultiIndex.from_frame(told[["scene", "class"]])]
    change, planted = told.p - base.p.to_numpy(), told.planted - base.planted.to_numpy()
    yield Check("171 words: r of changes with planted", change.corr(planted))
    yield Check("171 words: error of rates", float(np.abs(told.p - told.planted).mean()))
    least = told.groupby("emotion").apply(lambda own: own.p.corr(own.planted)).min()
    yield Check("171 words: least r of any word", float(least))
