"""What carries a steering effect to the logits: which later heads and MLPs answer to the step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.hooks import hooked
from emolens.interventions import Head, Intervention, Patch, Steer, whole
from emolens.progress import track
from emolens.sites import ATTN_OUT, MLP_OUT, Site, Z
from emolens.statistics import clustered_interval
from emolens.vectors import EmotionVectors
from emolens.writers import COMPONENT, Component

PATH_STEPS = 8  # along the step; at 8 the parts of the organism's effects are within 2% of 64


@dataclass(frozen=True, eq=False)
class Carried:
    """What of a steering effect goes through each later component.

    Attributes:
        trial: prompts that were steered.
        layer: where the step was added.
        components: heads (or whole attentions) and MLPs above, in the order of the model.
        gradient: attribution patching: the gradient at the unsteered run times the component's
            answer to the step.
        integrated: the same with the gradient taken all along the step.
        exact: what the effect loses when the component is held to what it gives unsteered.
        effect: of the step on each prompt's logit difference.
    """

    trial: Trial
    layer: int
    components: tuple[Component, ...]
    gradient: Float[Tensor, "text component"]
    integrated: Float[Tensor, "text component"]
    exact: Float[Tensor, "text component"]
    effect: Float[Tensor, " text"]

    def table(self) -> pd.DataFrame:
        """A row a component, means over templates, in logits; the largest exact one first.

        A component's part counts what those above it make of its answer, so parts do not sum to
        the effect.

        Returns:
            Columns component, layer, kind, head, gradient, integrated, exact, low, high (95%
            bootstrap over templates, of exact), share (of the whole effect; NaN if there is none).
        """
        rows, groups, nan = [], self.trial.groups, float("nan")
        whole = clustered_interval(self.effect.tolist(), groups)[0]
        for column, component in enumerate(self.components):
            mean, low, high = clustered_interval(self.exact[:, column].tolist(), groups)
            ways = (
                clustered_interval(way[:, column].tolist(), groups)[0]
                for way in (self.gradient, self.integrated)
            )
            rows.append((*component.cells, *ways, mean, low, high, mean / whole if whole else nan))
        columns = [*COMPONENT, "gradient", "integrated", "exact", "low", "high", "share"]
        found = pd.DataFrame(rows, columns=columns)
        return found.sort_values("exact", key=abs, ascending=False, ignore_index=True)


def find_readers(
    trial: Trial,
    vectors: EmotionVectors,
    emotion: str,
    layer: int,
    *,
    strength: float,
    steps: int = PATH_STEPS,
) -> Carried:
    """Which later components carry the effect of a step along an emotion's vector.

    Args:
        trial: prompts and model; the step is added at all positions.
        vectors: fitted on the same model.
        emotion: whose vector.
        layer: 0-based block after which the step is added.
        strength: length of the step, as a fraction of the residual norm.
        steps: at how many points of the step the gradient is taken, for `integrated`.

    Raises:
        SelectionError: for an emotion or layer that the vectors lack, or the last layer, above
            which there is nothing.

    >>> import emolens
    >>> from emolens.text import NEUTRAL
    >>> model = emolens.load("organism")
    >>> texts = emolens.organism_stories(4), emolens.organism_neutral(20)
    >>> vectors = emolens.fit_vectors(*(emolens.record(model, t, layers=[4]) for t in texts))
    >>> behaviour = emolens.organism_behaviour(emotions=(NEUTRAL,), per_emotion=2)
    >>> trial = emolens.Trial.prepare(model, behaviour)
    >>> found = find_readers(trial, vectors, "desperate", 4, strength=0.5)
    >>> [str(component) for component in found.components]
    ['5.0', '5.1', '5.2', '5.3', 'mlp 5']
    """
    model = trial.model
    if layer >= model.n_layers - 1:
        raise SelectionError(
            f"nothing reads what is added after layer {layer}, the last of {model.name!r}: give "
            "an earlier one"
        )
    step = vectors.step(emotion, layer, strength)
    sites = _sites(trial, layer)
    before, own = _answers(trial, layer, sites, 0 * step)
    after, answer = _answers(trial, layer, sites, step)
    gradient = _products(sites, _slopes(trial, layer, sites, 0 * step), own, answer)
    integrated, last = torch.zeros_like(gradient), own
    for k in track(range(steps), "along the step", steps, "points"):
        slope = _slopes(trial, layer, sites, (k + 0.5) / steps * step)
        _, there = _answers(trial, layer, sites, (k + 1) / steps * step)
        integrated += _products(sites, slope, last, there)
        last = there
    exact = held(trial, layer, step)
    return Carried(
        trial, layer, tuple(exact), gradient, integrated, _columns(exact), after - before
    )


def held(
    trial: Trial, layer: int, step: Float[Tensor, " d_model"]
) -> dict[Component, Float[Tensor, " text"]]:
    """What a step's effect loses when each later component is held to what it gives unsteered.

    In logits, by a run each; `Carried.exact` for any step.
    """
    sites = _sites(trial, layer)
    _, own = _answers(trial, layer, sites, 0 * step)
    with torch.inference_mode(), hooked(trial.model, {Site(layer): Steer(step)}):
        after = trial.run().logit_difference
    parts = [(site, c) for site in sites for c in _components(site, own[site])]
    return {
        component: after - _held(trial, layer, step, component.head, site, own[site])
        for site, component in track(parts, "holding components", len(parts), "runs")
    }


def _columns(parts: dict[Component, Tensor]) -> Float[Tensor, "text component"]:
    return torch.stack(list(parts.values()), 1)


def _sites(trial: Trial, layer: int) -> list[Site]:
    """Where the answers of later components show: heads, or attentions where heads do not."""
    shown, found = trial.model.host.hook_dict, []
    for k in range(layer + 1, trial.model.n_layers):
        heads = Site(k, Z)
        found += [heads if heads.name in shown else Site(k, ATTN_OUT), Site(k, MLP_OUT)]
    return found


def _components(site: Site, given: Tensor) -> list[Component]:
    if site.kind == Z:
        return [Component(site.layer, "head", h) for h in range(given.shape[-2])]
    return [Component(site.layer, "mlp" if site.kind == MLP_OUT else "attn")]


@torch.inference_mode()
def _answers(
    trial: Trial, layer: int, sites: Sequence[Site], step: Float[Tensor, " d_model"]
) -> tuple[Float[Tensor, " text"], dict[Site, Tensor]]:
    """Logit differences under a step, and what is given at each site."""
    with _given(trial, layer, sites, step) as given:
        found = trial.run().logit_difference
    return found, given


def _slopes(
    trial: Trial, layer: int, sites: Sequence[Site], step: Float[Tensor, " d_model"]
) -> dict[Site, Tensor]:
    """Gradients of the logit differences under a step, with respect to what is given."""
    width = next(trial.model.host.parameters())
    moving = step.to(width).detach().clone().requires_grad_()  # all above depends on it
    with torch.enable_grad(), _given(trial, layer, sites, moving) as given:
        total = trial.decide(trial.logits()).logit_difference.sum()
        slopes = torch.autograd.grad(total, [given[site] for site in sites])
    return dict(zip(sites, slopes, strict=True))


@contextmanager
def _given(
    trial: Trial, layer: int, sites: Sequence[Site], step: Float[Tensor, " d_model"]
) -> Iterator[dict[Site, Tensor]]:
    """Collect what is given at each site in the run inside, under a step."""
    given: dict[Site, Tensor] = {}

    def keep(site: Site) -> Intervention:
        def change(value: Tensor) -> Tensor:
            given[site] = value
            return value

        return change

    with hooked(trial.model, {Site(layer): Steer(step), **{site: keep(site) for site in sites}}):
        yield given


def _products(
    sites: Sequence[Site],
    slope: dict[Site, Tensor],
    start: dict[Site, Tensor],
    end: dict[Site, Tensor],
) -> Float[Tensor, "text component"]:
    """Gradient times way, summed over tokens, for every component."""
    parts = []
    for site in sites:
        product = (slope[site] * (end[site] - start[site])).float().sum(-1).sum(1).cpu()
        parts.append(product if site.kind == Z else product[:, None])
    return torch.cat(parts, 1)


@torch.inference_mode()
def _held(
    trial: Trial,
    layer: int,
    step: Float[Tensor, " d_model"],
    head: int | None,
    site: Site,
    own: Tensor,
) -> Float[Tensor, " text"]:
    """Logit differences under the step with one component held to what it gives unsteered."""
    if head is None:
        hold: Intervention = Patch(own, whole)
    else:
        hold = Head(head, Patch(own[:, :, head], whole))
    with hooked(trial.model, {Site(layer): Steer(step), site: hold}):
        return trial.run().logit_difference
