"""What vectors say: of activations, token by token and over a corpus; and by the unembedding."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.activations import Activations
from emolens.errors import CorpusError, SelectionError
from emolens.interventions import unit
from emolens.model import HookedModel
from emolens.progress import progress_bar
from emolens.recording import residuals
from emolens.text import Text
from emolens.vectors import EmotionVectors

Kind = Literal["centred", "cosine", "projection", "z"]
WINS_TOO_OFTEN = 0.5
SAMPLED = 20_000


def read_out(
    vectors: EmotionVectors,
    residual: Float[Tensor, "row d_model"],
    layer: int,
    *,
    kind: Kind = "centred",
    reference: Activations | None = None,
) -> Float[Tensor, "row emotion"]:
    """How much of each emotion is in some residuals.

    Args:
        vectors: of the same model.
        residual: after that block, of tokens or pooled over them.
        layer: 0-based block.
        kind: `"centred"`, cosine with the residual minus the mean over emotions (the default: a
            raw residual is mostly what all texts share, on which the same few vectors win
            everywhere); `"cosine"`, with the raw residual, as in the paper's figures;
            `"projection"` of the centred residual on the unit vector, in residual units; `"z"`,
            that projection in standard deviations from its mean over `reference`.
        reference: recordings that stand for what is usual; for `"z"` alone.

    Returns:
        Where the residuals are, in float32; 0 for the cosine with a residual of length zero.

    Raises:
        SelectionError: for an unknown kind, a layer without vectors, or `"z"` without a reference.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=4), layers=[3])
    >>> neutral = emolens.record(model, emolens.organism_neutral(count=20), layers=[3])
    >>> vectors = emolens.fit_vectors(stories, neutral)
    >>> read_out(vectors, stories.at(3), 3).shape
    torch.Size([100, 24])
    """
    prepared = Readout.prepare(
        vectors, layer, kind=kind, reference=reference, device=residual.device
    )
    return prepared(residual)


@dataclass(frozen=True, eq=False)
class Readout:
    """`read_out` at one layer, with all that does not hang on the residuals made once.

    For readouts of token after token, where scaling many vectors anew would cost more than reading.

    Attributes:
        kind: of readout, as in `read_out`.
        directions: the vectors at length one.
        mean: over emotions, which centres residuals.
        usual: mean and standard deviation of projections; for `"z"` alone.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=4), layers=[3])
    >>> neutral = emolens.record(model, emolens.organism_neutral(count=20), layers=[3])
    >>> readout = Readout.prepare(emolens.fit_vectors(stories, neutral), 3)
    >>> readout(stories.at(3)).shape
    torch.Size([100, 24])
    """

    kind: Kind
    directions: Float[Tensor, "emotion d_model"]
    mean: Float[Tensor, " d_model"]
    usual: tuple[Float[Tensor, " emotion"], Float[Tensor, " emotion"]] | None = None

    @classmethod
    def prepare(
        cls,
        vectors: EmotionVectors,
        layer: int,
        *,
        kind: Kind = "centred",
        reference: Activations | None = None,
        device: torch.device | str = "cpu",
    ) -> "Readout":
        """Make what is needed, where residuals will be; the rest as in `read_out`.

        Raises:
            SelectionError: as in `read_out`.
        """
        if kind not in get_args(Kind):
            raise SelectionError(
                f"unknown readout {kind!r}: there are 'centred', 'cosine', 'projection' and 'z'"
            )
        directions, mean = unit(vectors.at(layer)), vectors.mean[vectors.column(layer)]
        if kind != "z":
            return cls(kind, directions.to(device), mean.to(device))
        if reference is None:
            raise SelectionError("a z-score needs a reference: give recordings of usual texts")
        if len(reference.emotions) < 2:
            raise SelectionError(
                "a z-score needs the spread of its reference: record several texts"
            )
        usual = (reference.at(layer).to(mean) - mean) @ directions.T
        spread = usual.mean(0).to(device), usual.std(0).to(device)
        return cls(kind, directions.to(device), mean.to(device), spread)

    def __call__(self, residual: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows emotion"]:
        """How much of each emotion is in some residuals, which are taken to where the vectors are.

        A residual of length zero has none, else one token would spoil every mean that it is in.
        """
        read = residual.to(self.mean)
        if self.kind != "cosine":
            read = read - self.mean
        values = read @ self.directions.T
        if self.kind in ("cosine", "centred"):
            norm = torch.linalg.vector_norm(read, dim=-1, keepdim=True)
            return values / norm.clamp_min_(torch.finfo(norm.dtype).tiny)
        return values if self.usual is None else (values - self.usual[0]) / self.usual[1]


def trace(
    model: HookedModel,
    vectors: EmotionVectors,
    texts: Sequence[Text | str],
    layer: int,
    *,
    kind: Kind = "centred",
    reference: Activations | None = None,
) -> pd.DataFrame:
    """Every emotion at every token of some texts, special tokens left out.

    Single tokens fluctuate: read neighbourhoods (PAPER, part 3).

    Args:
        model: the hooked model.
        vectors: fitted on it.
        texts: cut where the context ends.
        layer: 0-based block.
        kind: of readout, as in `read_out`.
        reference: as in `read_out`.

    Returns:
        Columns text, token (place in the text), start, end (characters), emotion, value. A warning
        is given if one vector is the highest at most tokens.

    Raises:
        CorpusError: if there are no texts.
        ModelError: for vectors of another model.
        SelectionError: as in `read_out`.
    """
    rows = []
    for number, starts, ends, values in _token_values(
        model, vectors, texts, layer, kind, reference
    ):
        rows.append(
            pd.DataFrame(values.numpy(), columns=vectors.emotions)
            .assign(text=number, token=range(len(values)), start=starts, end=ends)
            .melt(["text", "token", "start", "end"], var_name="emotion")
        )
    table = pd.concat(rows, ignore_index=True)
    best = table.loc[table.groupby(["text", "token"]).value.idxmax()].emotion
    _warn_of_one_winner(best.value_counts(), "tokens")
    return table


def top_windows(
    model: HookedModel,
    vectors: EmotionVectors,
    texts: Sequence[Text | str],
    layer: int,
    *,
    window: int = 20,
    top: int = 10,
    kind: Kind = "centred",
    reference: Activations | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Where in a corpus each emotion is highest (Fig. 1): the best window of the best texts.

    Texts are read one after the other and no activation is kept, so that a corpus may be large.

    Args:
        model: the hooked model.
        vectors: fitted on it.
        texts: the corpus; shorter ones than a window are a window.
        layer: 0-based block.
        window: tokens that a value is the mean over.
        top: texts of each emotion.
        kind: of readout, as in `read_out`.
        reference: as in `read_out`.
        seed: of the windows that percentiles are taken from.

    Returns:
        Columns emotion, rank (from 1), value, percentile (share of 20,000 windows drawn from the
        corpus, or of all if there are fewer, on which this vector is lower, in percent), text,
        start, end (characters), excerpt. A warning is given if one vector is the highest in most
        windows.

    Raises:
        CorpusError: if there are no texts.
        ModelError: for vectors of another model.
        SelectionError: for a window of less than a token, or as in `read_out`.
    """
    if window < 1:
        raise SelectionError(f"a window of {window} tokens holds nothing: give at least 1")
    best: list[pd.DataFrame] = []
    sample, winners = _Sample(len(vectors.emotions), seed), np.zeros(len(vectors.emotions))
    for number, starts, ends, values in _token_values(
        model, vectors, texts, layer, kind, reference
    ):
        if not len(values):
            continue
        width = min(window, len(values))
        means = values.double().unfold(0, width, 1).mean(-1)
        winners += np.bincount(means.argmax(1).numpy(), minlength=len(winners))
        sample.add(means.numpy())
        at = means.argmax(0)
        best.append(
            pd.DataFrame(
                {
                    "emotion": vectors.emotions,
                    "value": means.amax(0).numpy(),
                    "text": number,
                    "start": starts[at],
                    "end": ends[at + width - 1],
                }
            )
        )
        if len(best) > top:  # keep the corpus out of memory
            best = [_highest(pd.concat(best), top)]
    table = _highest(pd.concat(best), top)
    _warn_of_one_winner(pd.Series(winners, vectors.emotions), "windows")
    table["rank"] = table.groupby("emotion", sort=False).cumcount() + 1
    columns = dict(zip(vectors.emotions, sample.values.T, strict=True))
    table["percentile"] = [
        100 * float((columns[r.emotion] < r.value).mean()) for r in table.itertuples()
    ]
    strings = [t.text if isinstance(t, Text) else t for t in texts]
    table["excerpt"] = [strings[r.text][r.start : r.end] for r in table.itertuples()]
    order = ["emotion", "rank", "value", "percentile", "text", "start", "end", "excerpt"]
    return table[order].reset_index(drop=True)


def _highest(table: pd.DataFrame, top: int) -> pd.DataFrame:
    """The highest rows of each emotion, highest first."""
    ordered = table.sort_values("value", ascending=False, kind="stable")
    chosen = ordered.groupby("emotion", sort=False).head(top)
    return chosen.sort_values("emotion", kind="stable")


class _Sample:
    """Rows drawn evenly from a stream of unknown length (reservoir sampling)."""

    def __init__(self, width: int, seed: int, size: int = SAMPLED):
        self.size = size
        self.values = np.empty((0, width))
        self.seen = 0
        self.random = np.random.default_rng(seed)

    def add(self, rows: np.ndarray) -> None:
        """Keep each row with the chance that it has among all rows so far."""
        room = max(0, self.size - len(self.values))
        self.values = np.concatenate([self.values, rows[:room]])
        place = self.random.integers(self.seen + np.arange(1, len(rows) + 1))
        self.seen += len(rows)
        for row in range(room, len(rows)):
            if place[row] < self.size:
                self.values[place[row]] = rows[row]


def _token_values(
    model: HookedModel,
    vectors: EmotionVectors,
    texts: Sequence[Text | str],
    layer: int,
    kind: Kind,
    reference: Activations | None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray, Float[Tensor, "token emotion"]]]:
    """Of each text: its number, where its tokens start and end, and all emotions at each."""
    model.check_origin(vectors.provenance, "this set of vectors")
    if not texts:
        raise CorpusError("no texts to read: the corpus is empty")
    readout = Readout.prepare(vectors, layer, kind=kind, reference=reference)
    with progress_bar() as bar:
        task = bar.add_task(f"reading {len(texts):,} texts", total=len(texts), unit="texts")
        for number, text in enumerate(texts):
            tokens = model.tokenize([text])
            words = tokens.words[0]
            residual = residuals(model, tokens.ids, tokens.mask, [layer])[0, words, 0]
            values = readout(residual)
            starts, ends = tokens.offsets[0][words].unbind(-1)
            yield number, starts.numpy(), ends.numpy(), values
            bar.advance(task)


def _warn_of_one_winner(wins: pd.Series, where: str) -> None:
    """One vector that wins nearly everywhere tells of the readout, not of the texts."""
    share = wins / wins.sum()
    if len(share) > 2 and share.max() > WINS_TOO_OFTEN:
        warnings.warn(
            f"{share.idxmax()!r} is the highest of {len(share)} vectors at {share.max():.0%} of "
            f"{where}: that tells of the readout or of a one-sided corpus, compare a centred one",
            stacklevel=3,
        )


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
    # a layer at a time: all logits of a large vocabulary are gigabytes
    best = {layer: model.unembed(vectors.at(layer)).topk(top, dim=-1) for layer in vectors.layers}
    rows = []
    for i, emotion in enumerate(vectors.emotions):
        words = set((own or {}).get(emotion, (emotion,)))
        for layer in vectors.layers:
            for rank in range(top):
                token = model.tokenizer.decode([int(best[layer].indices[i, rank])])
                value = float(best[layer].values[i, rank])
                mine = token.strip().lower() in words
                rows.append((emotion, layer, rank + 1, token, value, mine))
    return pd.DataFrame(rows, columns=["emotion", "layer", "rank", "token", "logit", "own"])
