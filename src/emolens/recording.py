"""Corpus to pooled activations: one forward pass for all layers, nothing per token kept."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.activations import Activations
from emolens.errors import CorpusError
from emolens.hooks import hooked
from emolens.interventions import Intervention
from emolens.model import HookedModel
from emolens.positions import PositionRule, pick, story
from emolens.progress import track
from emolens.sites import Site
from emolens.text import Text, Tokens


def record(
    model: HookedModel,
    texts: Sequence[Text],
    *,
    layers: Sequence[int] | None = None,
    positions: PositionRule = story,
    batch_tokens: int = 8192,
) -> Activations:
    """Mean residual of each text at every layer, over the tokens that a rule picks.

    Sums are kept in float64 whatever the model runs in. The result does not depend on the
    order of texts, on batch size or on padding.

    Args:
        model: the hooked model.
        texts: what to read.
        layers: 0-based blocks; all of them by default.
        positions: which tokens; the default is the rule for stories.
        batch_tokens: most tokens of a batch, padding included; lower it if memory runs out.

    Raises:
        CorpusError: if there are no texts.
        SelectionError: for an unknown layer, or a rule that picks no token of a text.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.organism_stories(per_emotion=2)
    >>> emolens.record(model, stories, layers=[3])
    Activations(50 texts of 24 emotions, 1 layers, d_model 128, model 'organism')
    """
    if not texts:
        raise CorpusError("no texts to read: the corpus is empty")
    chosen = model.check_layers(layers if layers is not None else range(model.n_layers))
    tokens = model.tokenize(texts)
    picked = pick(positions, texts, tokens)
    sums = torch.zeros(len(texts), len(chosen), model.d_model, dtype=torch.float64)
    norms = torch.zeros(len(chosen), dtype=torch.float64)
    batches = list(_batches(tokens, batch_tokens))
    stop = max(chosen) + 1
    for rows in track(batches, f"reading {len(texts):,} texts", len(batches), "batches"):
        width = int(tokens.mask[rows].sum(1).max())
        mask = picked.mask[rows, :width]
        pool = {
            Site(layer): _pool(mask, sums, norms, rows, column)
            for column, layer in enumerate(chosen)
        }
        with torch.inference_mode(), hooked(model, pool):
            model.forward(tokens.ids[rows, :width], tokens.mask[rows, :width], stop_at_layer=stop)
    counts = picked.mask.sum(1)
    return Activations(
        pooled=(sums / counts[:, None, None]).float(),
        layers=chosen,
        emotions=tuple(t.emotion for t in texts),
        groups=tuple(t.group for t in texts),
        residual_norm=(norms / counts.sum()).float(),
        provenance=model.provenance(texts, dict(Counter(picked.used)), len(tokens.cut)),
    )


def _pool(
    mask: Bool[Tensor, "row token"],
    sums: Float[Tensor, "text layer d_model"],
    norms: Float[Tensor, " layer"],
    rows: Tensor,
    column: int,
) -> Intervention:
    def change(residual: Tensor) -> Tensor:
        weight = mask.to(residual.device, torch.float64)
        wide = residual.double()
        sums[rows, column] = einsum(wide, weight, "row tok d, row tok -> row d").cpu()
        norms[column] += (wide.norm(dim=-1) * weight).sum().cpu()
        return residual

    return change


def _batches(tokens: Tokens, batch_tokens: int) -> Iterator[Tensor]:
    """Rows of similar length together, at most `batch_tokens` with padding."""
    lengths = tokens.mask.sum(1)
    order = lengths.argsort(descending=True)
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size
