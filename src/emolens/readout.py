"""What a vector says: its tokens through the unembedding."""

from collections.abc import Mapping, Sequence

import pandas as pd

from emolens.model import HookedModel
from emolens.vectors import EmotionVectors


def logit_lens(
    model: HookedModel,
    vectors: EmotionVectors,
    *,
    top: int = 10,
    own: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """The tokens that each vector raises most, through final norm and unembedding (Table 1).

    Args:
        model: a decoder.
        vectors: fitted on it.
        top: how many tokens per vector.
        own: words that belong to each emotion, to be marked; without it an emotion owns its name.

    Returns:
        Columns emotion, layer, rank (from 1), token, logit, own (whether the token, stripped and
        lower-cased, is one of the emotion's own words).

    Raises:
        ModelError: for an encoder, or vectors of another model.
    """
    model.check_origin(vectors.provenance, "this set of vectors")
    logits = model.unembed(vectors.vectors)
    best = logits.topk(top, dim=-1)
    rows = []
    for i, emotion in enumerate(vectors.emotions):
        words = set((own or {}).get(emotion, (emotion,)))
        for column, layer in enumerate(vectors.layers):
            for rank in range(top):
                token = model.tokenizer.decode([int(best.indices[i, column, rank])])
                value = float(best.values[i, column, rank])
                mine = token.strip().lower() in words
                rows.append((emotion, layer, rank + 1, token, value, mine))
    return pd.DataFrame(rows, columns=["emotion", "layer", "rank", "token", "logit", "own"])
