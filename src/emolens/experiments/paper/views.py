"""Texts token by token: from traces to a tidy table, and from that to the report's views."""

from collections.abc import Sequence

import pandas as pd
import torch

from emolens.experiments.paper.study import Study
from emolens.readout import trace
from emolens.report import TokenView
from emolens.text import Text

COLUMNS = ["view", "token", "piece", "emotion", "value"]
HOVERED = 12  # vectors that one view shows


def traced(
    study: Study, texts: Sequence[Text], captions: Sequence[str], emotions: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Some vectors at every token of some texts, at the layer of the study.

    Args:
        study: model and vectors.
        texts: what to read.
        captions: of each text.
        emotions: of each text, in order: the first one colours the printed strip.

    Returns:
        Columns view (the caption), token (place), piece (its characters, with those that no token
        covers before it), emotion, value (centred cosine).
    """
    if not texts:
        return pd.DataFrame(columns=COLUMNS)
    found = trace(study.model, study.vectors, texts, study.layer)
    parts = []
    for number, (text, caption, wanted) in enumerate(zip(texts, captions, emotions, strict=True)):
        own = found[found.text == number]
        ends = own.groupby("token").end.max().tolist()
        pieces = [text.text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        wide = own.pivot(index="token", columns="emotion", values="value")[list(wanted)[:HOVERED]]
        long = wide.reset_index().melt("token", var_name="emotion")
        long["piece"] = [pieces[i] for i in long.token]
        parts.append(long.assign(view=caption)[COLUMNS])
    return pd.concat(parts, ignore_index=True)


def token_views(table: pd.DataFrame) -> list[TokenView]:
    """The views of such a table, each scaled so that 1 is the 99th percentile of magnitude.

    >>> rows = [("one", 0, "We", "calm", 0.1), ("one", 1, " won", "calm", 0.3)]
    >>> token_views(pd.DataFrame(rows, columns=COLUMNS))[0].tokens
    ['We', ' won']
    """
    views = []
    for caption, own in table.groupby("view", sort=False):
        names = own.emotion.unique().tolist()
        wide = own.pivot(index="token", columns="emotion", values="value")[names]
        pieces = own.drop_duplicates("token").sort_values("token").piece.tolist()
        values = torch.tensor(wide.to_numpy().tolist())
        views.append(TokenView(str(caption), pieces, values, names))
    return views
