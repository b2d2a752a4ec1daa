"""What do the vectors say through the unembedding (Table 1)?"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens import figures
from emolens.controls import permutations
from emolens.experiments.paper.claims import CONTROLS, Claim, Found, against
from emolens.experiments.paper.study import Experiment, Study, logits_needed
from emolens.report import Exhibit

TOP = 10
SHOWN = 5
LEAST_STEM = 4  # letters of a token that count as the beginning of a word

OWN = Claim(
    "own_word",
    "share of emotions with a word of their own among the ten tokens that the vector raises most",
    least=0.5,
    paper=8 / 12,
    confidence="C",
)
RANK = Claim(
    "rank",
    "mean share of the vocabulary that a vector raises less than the best of its own words",
    least=0.9,
)


def _own_tokens(study: Study, emotion: str) -> list[int]:
    """First tokens of the emotion's own words, with and without a blank before them."""
    tokenizer, found = study.model.tokenizer, set()
    for word in study.materials.words[emotion]:
        for told in (f" {word}", word):
            ids = tokenizer.encode(told, add_special_tokens=False)
            text = tokenizer.decode(ids[:1]).strip().lower() if ids else ""
            if ids and (text == word or len(text) >= LEAST_STEM) and word.startswith(text):
                found.add(ids[0])
    return sorted(found - set(tokenizer.all_special_ids))


def _scores(
    logits: Float[Tensor, "emotion vocab"], own: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each emotion: whether an own token is among the top ten, and the best one's rank share."""
    hits, ranks = [], []
    for row, ids in zip(logits, own, strict=True):
        best = row[list(ids)].max()
        above = int((row > best).sum())
        hits.append(float(above < TOP))
        ranks.append(1 - above / (len(row) - 1))
    return np.array(hits), np.array(ranks)


def run(study: Study) -> Found:
    """The vectors of one layer, and the same with their coordinates in another order."""
    vectors, layer = study.vectors, study.layer
    own = {e: _own_tokens(study, e) for e in vectors.emotions}
    known = [e for e in vectors.emotions if own[e]]
    if len(known) < 2:
        return Found({}, {}, "the tokenizer knows the words of fewer than two emotions")
    at = vectors.at(layer)[[vectors.row(e) for e in known]]
    ids = [own[e] for e in known]
    logits = study.model.unembed(at)
    hits, ranks = _scores(logits, ids)
    orders = permutations(CONTROLS, study.model.d_model, study.seed)
    drawn = [_scores(study.model.unembed(at[:, order]), ids) for order in orders]
    table = pd.DataFrame({"emotion": known, "own_word": hits, "rank": ranks})
    return Found(
        {
            OWN.name: against(len(hits), lambda r: hits[r].mean(), [h.mean() for h, _ in drawn]),
            RANK.name: against(len(ranks), lambda r: ranks[r].mean(), [x.mean() for _, x in drawn]),
        },
        {"words": table, "tokens": _tokens(study, known, logits)},
        f"{len(known)} of {len(vectors.emotions)} emotions have a word that the tokenizer knows, "
        f"layer {layer}.",
    )


def _tokens(study: Study, emotions: Sequence[str], logits: Tensor) -> pd.DataFrame:
    """The tokens that each vector raises and lowers most."""

    def words(row: Tensor, largest: bool) -> str:
        best = torch.topk(row, SHOWN, largest=largest).indices.tolist()
        return ", ".join(study.model.tokenizer.decode([i]).strip() for i in best)

    rows = [(e, words(x, True), words(x, False)) for e, x in zip(emotions, logits, strict=True)]
    return pd.DataFrame(rows, columns=["emotion", "up", "down"])


def draw(tables: Mapping[str, pd.DataFrame]) -> list[Exhibit]:
    """A bar an emotion, and its tokens."""
    ranked = figures.bars(
        tables["words"],
        name="emotion",
        value="rank",
        title="share of the vocabulary raised less than the own word",
    )
    return [
        Exhibit("How high the own word stands", ranked, tables["words"], "lens_words"),
        Exhibit("Tokens raised and lowered most", None, tables["tokens"], "lens_tokens"),
    ]


LENS = Experiment(
    name="lens",
    title="What the vectors say",
    figures="Table 1",
    inputs="the vectors at two thirds of the depth",
    procedure="each vector goes through the final norm, its gain included, and the unembedding",
    readout="the rank of the first token of the emotion's own words",
    control="the same vectors with their coordinates in another order, 100 times",
    claims=(OWN, RANK),
    lacks=logits_needed,
    cost=lambda _: 0,
    run=run,
    draw=draw,
)
