"""Two texts that differ in a few words: what is read of an emotion in both, by layer and token."""

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from emolens.experiments.paper.materials import Pair
from emolens.experiments.paper.study import Study
from emolens.positions import PositionRule, Positions, last
from emolens.readout import read_out
from emolens.recording import record_at, residuals
from emolens.statistics import clustered_interval
from emolens.text import Text, Tokens

SHOWN = 10  # controls in a picture

Readouts = Float[np.ndarray, "version pair layer emotion"]
Difference = Float[np.ndarray, "pair layer"]
Emotions = Int[np.ndarray, " pair"]  # by the row of its vector


def shared(texts: Sequence[Text], tokens: Tokens) -> Positions:
    """The same words that come after the changed ones, but for the last token."""
    ends = torch.tensor([max(s.end for s in t.spans if s.name == "changed") for t in texts])
    later = tokens.words & (tokens.offsets[..., 0] >= ends[:, None])
    return Positions(later & ~last(texts, tokens).mask, ("after the change",) * len(texts))


def readouts(
    study: Study, pairs: Sequence[Pair], regions: Mapping[str, PositionRule]
) -> dict[str, Readouts]:
    """Every emotion in every region of both texts of each pair, after every layer."""
    texts = [p.first for p in pairs] + [p.second for p in pairs]
    found = {}
    for region, recorded in record_at(study.model, texts, regions).items():
        values = [read_out(study.vectors, recorded.at(k), k) for k in recorded.layers]
        found[region] = torch.stack(values, 1).unflatten(0, (2, len(pairs))).numpy()
    return found


def difference(found: Readouts, emotions: Emotions) -> Difference:
    """First minus second text's readout of each pair's emotion."""
    return (found[0] - found[1])[np.arange(len(emotions)), :, emotions]


def by_layer(found: Mapping[str, Readouts], emotions: Emotions, control: str) -> pd.DataFrame:
    """Mean difference of each region with an interval over pairs; one region with random signs.

    Args:
        found: by region.
        emotions: of each pair.
        control: the region whose pairs are turned round at random.
    """
    rows, groups = [], [str(i) for i in range(len(emotions))]
    for region, values in found.items():
        for layer, column in enumerate(difference(values, emotions).T):
            rows.append((layer, region, "found", *clustered_interval(column.tolist(), groups)))
    draw, own = np.random.default_rng(0), difference(found[control], emotions)
    for n in range(1, 1 + SHOWN):
        means = (draw.choice((-1, 1), (len(own), 1)) * own).mean(0).tolist()
        rows += [(k, f"random signs {n}", "control", y, nan, nan) for k, y in enumerate(means)]
    return pd.DataFrame(rows, columns=["layer", "region", "kind", "difference", "low", "high"])


def by_token(study: Study, pair: Pair) -> pd.DataFrame:
    """The difference at each token that both texts end with, after every layer."""
    layers, row = range(study.model.n_layers), study.vectors.row(pair.emotion)
    values, counts = [], []
    for text in (pair.first, pair.second):
        tokens = study.model.tokenize([text])
        stream = residuals(study.model, tokens.ids, tokens.mask, layers)[0]
        read = [read_out(study.vectors, stream[:, k], k)[:, row] for k in layers]
        values.append(torch.stack(read))
        counts.append(int(shared([text], tokens).mask.sum()) + 1)
    count = min(counts)  # words may be split otherwise right after the change
    words = study.model.tokenizer.convert_ids_to_tokens(tokens.ids[0, -count:].tolist())
    apart = (values[0][:, -count:] - values[1][:, -count:]).tolist()
    rows = [
        (f"layer {k}", f"{n} {word.strip('Ġ▁')}", apart[k][n - 1], pair.emotion)
        for k in reversed(layers)
        for n, word in enumerate(words, 1)
    ]
    return pd.DataFrame(rows, columns=["layer", "token", "difference", "emotion"])
