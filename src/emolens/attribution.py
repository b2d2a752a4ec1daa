"""From a vector to the behavioural logits: by gradient, by the direct path, and exactly."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.hooks import hooked, reading
from emolens.interventions import Intervention, Steer, unit
from emolens.progress import track
from emolens.sharing import run_changed
from emolens.sites import Site
from emolens.vectors import EmotionVectors

STRENGTH = 0.05


def gradients(
    trial: Trial, layers: Sequence[int], *, since: Int[Tensor, " text"] | None = None
) -> Float[Tensor, "text layer d_model"]:
    """Gradient of each text's logit difference with respect to one vector added at all positions.

    In logits per residual unit. One forward and one backward pass serve all layers; the model's
    parameters get no gradient. With `since` the vector is added from that token on.
    """
    shape = (len(trial.tokens), 1, trial.model.d_model)
    dtype = next(trial.model.host.parameters()).dtype
    added = [
        torch.zeros(shape, device=trial.model.device, dtype=dtype, requires_grad=True)
        for _ in layers
    ]

    start = torch.zeros(len(trial.tokens)) if since is None else since
    place = torch.arange(trial.tokens.ids.shape[1]) >= start[:, None]

    def add(delta: Tensor) -> Intervention:
        return lambda residual: residual + place.to(residual)[..., None] * delta.to(residual)

    sites = {Site(layer): add(delta) for layer, delta in zip(layers, added, strict=True)}
    with torch.enable_grad(), hooked(trial.model, sites):
        total = trial.decide(trial.logits()).logit_difference.sum()
        found = torch.autograd.grad(total, added)
    return torch.stack([g[:, 0].float().cpu() for g in found], 1)


def attribute(trial: Trial, vectors: EmotionVectors, *, strength: float = STRENGTH) -> pd.DataFrame:
    """What every (emotion, layer) vector does to the behavioural logit difference.

    Args:
        trial: prompts and model.
        vectors: fitted on the same model.
        strength: length of the step, as a fraction of the residual norm. The default is small
            enough for the gradient to be a fair prediction.

    Returns:
        Columns emotion, layer, and the change of the mean logit difference for that step, in
        logits: `gradient` (first order, through all later layers), `direct` (first order, through
        the final norm and the unembedding only, as if no later layer saw it), `exact` (measured
        by steering).
    """
    slopes = gradients(trial, vectors.layers).mean(0)
    last = gradients(trial, [trial.model.n_layers - 1]).mean(0)[0]
    base = float(trial.run().logit_difference.mean())
    cells = [(e, layer) for layer in vectors.layers for e in vectors.emotions]
    steps = [vectors.step(emotion, layer, strength) for emotion, layer in cells]
    found = run_changed(trial, [{c[1]: Steer(step)} for c, step in zip(cells, steps, strict=True)])
    rows = []
    told = track(cells, "attribution", len(cells), "vectors")
    for (emotion, layer), step, decision in zip(told, steps, found, strict=True):
        exact = float(decision.logit_difference.mean()) - base
        slope = slopes[vectors.layers.index(layer)]
        rows.append((emotion, layer, float(slope @ step), float(last @ step), exact))
    return pd.DataFrame(rows, columns=["emotion", "layer", "gradient", "direct", "exact"])


def lens(trial: Trial, vectors: EmotionVectors) -> pd.DataFrame:
    """What every vector says of a behaviour when it is unembedded as it is.

    Args:
        trial: whose words are read.
        vectors: fitted on the same model.

    Returns:
        Columns emotion, layer, with_gain and without_gain: the logit difference of the vector's
        logit lens, with the final norm's weights and without.

    Raises:
        ModelError: for an encoder.
    """
    with_gain, without = (
        trial.decide(trial.model.unembed(vectors.vectors.flatten(0, 1), gain=gain)).logit_difference
        for gain in (True, False)
    )
    cells = [(e, layer) for e in vectors.emotions for layer in vectors.layers]
    return pd.DataFrame(cells, columns=["emotion", "layer"]).assign(
        with_gain=with_gain.numpy(), without_gain=without.numpy()
    )


def share_along(trial: Trial, reference: Trial, vectors: EmotionVectors) -> pd.DataFrame:
    """How much of a behaviour's difference lies along every vector in the final stream.

    Args:
        trial: prompts after situations that drive the behaviour.
        reference: the same behaviour's prompts after neutral situations.
        vectors: fitted on the same model.

    Returns:
        Columns emotion, layer, share: of the difference in the mean logit difference between
        `trial` and `reference`, to first order through the final norm and the unembedding. Shares
        of vectors that are alike overlap, so they do not sum to one.

    Raises:
        SelectionError: if the two behave alike, so that there is nothing to share.
    """
    difference = float(
        trial.run().logit_difference.mean() - reference.run().logit_difference.mean()
    )
    if difference == 0:
        raise SelectionError(
            f"{trial.behaviour.name!r} is the same in both trials: give prompts that differ in it"
        )
    apart = _final_stream(trial).mean(0) - _final_stream(reference).mean(0)
    slope = gradients(reference, [trial.model.n_layers - 1]).mean(0)[0]
    rows = []
    for i, emotion in enumerate(vectors.emotions):
        for j, layer in enumerate(vectors.layers):
            direction = unit(vectors.vectors[i, j])
            share = float((slope @ direction) * (apart @ direction)) / difference
            rows.append((emotion, layer, share))
    return pd.DataFrame(rows, columns=["emotion", "layer", "share"])


@torch.inference_mode()
def _final_stream(trial: Trial) -> Float[Tensor, "text d_model"]:
    """The stream after the last block at each decision."""
    top = trial.model.n_layers - 1
    with reading(trial.model, (top,)) as found:
        trial.logits()
    return found[top][torch.arange(len(trial.tokens)), trial.final].float().cpu()
