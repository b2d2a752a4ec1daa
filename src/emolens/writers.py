"""What writes a direction into the stream: embedding, heads, MLPs, and the words of the input."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emolens.attribution import gradients
from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.hooks import hooked, reading
from emolens.interventions import At, Intervention, unit
from emolens.model import HookedModel
from emolens.progress import track
from emolens.sharing import run_changed
from emolens.sites import ATTN_OUT, MLP_OUT, RESID_PRE, Site, Z
from emolens.statistics import clustered_interval
from emolens.vectors import EmotionVectors

COMPONENT = ("component", "layer", "kind", "head")


@dataclass(frozen=True, order=True)
class Component:
    """A part of a block that adds to the stream.

    Attributes:
        layer: 0-based block; -1 for the embedding.
        kind: `"embed"`, `"head"`, `"attn"` (all heads at once, where they cannot be told apart),
            `"attn bias"` or `"mlp"`.
        head: 0-based head, for heads alone.

    >>> str(Component(2, "head", 1)), str(Component(-1, "embed"))
    ('2.1', 'embed')
    """

    layer: int
    kind: str
    head: int | None = None

    @property
    def site(self) -> Site:
        """Where what it adds to the stream can be changed; a head's is within its attention's."""
        if self.kind == "embed":
            return Site(0, RESID_PRE)
        return Site(self.layer, MLP_OUT if self.kind == "mlp" else ATTN_OUT)

    @property
    def cells(self) -> tuple:
        """What tables say of it, under the columns of `COMPONENT`."""
        return str(self), self.layer, self.kind, pd.NA if self.head is None else self.head

    def __str__(self) -> str:
        """`3.1` for a head, `mlp 3`, `attn 3`, `embed`."""
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return self.kind if self.layer < 0 else f"{self.kind} {self.layer}"


@dataclass(frozen=True, eq=False)
class Writes:
    """What every component has written along a direction at one site, for every prompt.

    Attributes:
        trial: prompts, read at their decisions.
        layer: the stream after which block is taken apart.
        direction: of length one.
        components: in the order of the model.
        added: what each component added to the stream at the decision.
        projection: of the whole stream; the sum over components' writes, but for rounding.
    """

    trial: Trial
    layer: int
    direction: Float[Tensor, " d_model"]
    components: tuple[Component, ...]
    added: Float[Tensor, "text component d_model"]
    projection: Float[Tensor, " text"]

    @property
    def writes(self) -> Float[Tensor, "text component"]:
        """In residual units: the projection of what each component added."""
        return self.added @ self.direction

    def table(self, reference: "Writes | None" = None) -> pd.DataFrame:
        """A row a component: the mean write over templates, and its share of the projection.

        Args:
            reference: the same of other prompts (neutral ones, say), whose mean write is taken off:
                much of what is written is there whatever the text says.

        Returns:
            Columns component, layer, kind, head, write, low, high (95% bootstrap over templates),
            share (of all writes); the largest first.

        Raises:
            SelectionError: if the reference is of another site or direction.
        """
        base = self._base(reference)
        above = (self.writes - base).T.tolist()
        spans = [clustered_interval(own, self.trial.groups) for own in above]
        total = sum(mean for mean, _, _ in spans)
        rows = [
            (*component.cells, *span, span[0] / total)
            for component, span in zip(self.components, spans, strict=True)
        ]
        found = pd.DataFrame(rows, columns=[*COMPONENT, "write", "low", "high", "share"])
        return found.sort_values("write", key=abs, ascending=False, ignore_index=True)

    def _base(self, reference: "Writes | None") -> Float[Tensor, " component"]:
        if reference is None:
            return torch.zeros(len(self.components))
        same = reference.layer == self.layer and reference.components == self.components
        if not (same and torch.equal(reference.direction, self.direction)):
            raise SelectionError(
                f"the reference was taken apart after block {reference.layer} with a direction and "
                f"components of its own, not as this one after block {self.layer}: give the same "
                "of both"
            )
        return reference.writes.mean(0)

    def attributed(self, reference: "Writes") -> Float[Tensor, " component"]:
        """What the mean logit difference should lose without each write, to first order, in logits.

        The gradient at the site times all that the component added there over its mean on the
        reference's prompts: what `removed_at_site` measures. The write along the direction alone
        tells less of it, since a component acts beside the direction too.

        Raises:
            SelectionError: as `table`.
        """
        self._base(reference)
        slope = gradients(self.trial, [self.layer], since=self.trial.final)[:, 0]
        more = self.added - reference.added.mean(0)
        return einsum(more, slope, "text component d, text d -> text component").mean(0)

    def removed_at_site(self, reference: "Writes") -> Float[Tensor, " component"]:
        """What the mean logit difference loses when each write is taken out of the stream.

        Measured by a run each: at the decision, at the site, what the component has written becomes
        its mean over the reference's prompts. The blocks up to the site have run as they were.

        Raises:
            SelectionError: as `table`.
        """
        changes = [{self.layer: change} for change in self._without(reference)]
        told = track(run_changed(self.trial, changes), "taking writes out", len(changes), "writes")
        return self._unchanged() - torch.tensor([float(d.logit_difference.mean()) for d in told])

    def removed(self, reference: "Writes") -> Float[Tensor, " component"]:
        """What the mean logit difference loses when each component gives what it gives elsewhere.

        As `removed_at_site`, but at the component's own place in the network: all above it runs
        anew, so it counts what the component does to the behaviour by whatever way, also through
        later components that read it.

        Raises:
            SelectionError: as `table`.
        """
        changes, after = self._without(reference), []
        told = track(self.components, "taking components out", len(changes), "components")
        for component, change in zip(told, changes, strict=True):
            with hooked(self.trial.model, {component.site: change}):
                after.append(float(self.trial.run().logit_difference.mean()))
        return self._unchanged() - torch.tensor(after)

    def _without(self, reference: "Writes") -> list[Intervention]:
        """For each component, what takes off at the decision what it adds over the reference."""
        self._base(reference)
        at = torch.arange(self.trial.tokens.ids.shape[1]) == self.trial.final[:, None]
        more = self.added - reference.added.mean(0)

        def less(own: Tensor) -> Intervention:
            return At(at, lambda given: given - own[:, None].to(given))

        return [less(own) for own in more.unbind(1)]

    def _unchanged(self) -> float:
        """The mean logit difference of a run with nothing taken out."""
        return float(self.trial.run().logit_difference.mean())


@torch.inference_mode()
def find_writers(trial: Trial, vectors: EmotionVectors, emotion: str, layer: int) -> Writes:
    """Take the projection on an emotion's vector apart by who wrote it, exactly.

    The stream after a block is the embedding plus what each attention and MLP up to there added,
    and an attention is the sum of its heads and its bias: so the projections of all sum to that of
    the stream. In models that norm what attention gives before it is added (Gemma 2 and 3, OLMo 2)
    heads do not sum to it and it is one component.

    Args:
        trial: prompts, read at their decisions.
        vectors: fitted on the same model.
        emotion: whose unit vector.
        layer: of the site.

    Raises:
        SelectionError: for an emotion or layer that the vectors lack.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> texts = emolens.organism_stories(4), emolens.organism_neutral(20)
    >>> vectors = emolens.fit_vectors(*(emolens.record(model, t, layers=[3]) for t in texts))
    >>> behaviour = emolens.organism_behaviour(per_emotion=2)
    >>> found = find_writers(emolens.Trial.prepare(model, behaviour), vectors, "desperate", 3)
    >>> bool((found.writes.sum(1) - found.projection).abs().max() < 1e-4)
    True
    """
    direction = unit(vectors.of(emotion)[vectors.column(layer)])
    model, rows = trial.model, torch.arange(len(trial.tokens))
    layers = tuple(range(layer + 1))

    def final(stream: Tensor) -> Tensor:
        return stream[rows, trial.final].float().cpu()

    with (
        reading(model, (layer,)) as stream,
        reading(model, (0,), RESID_PRE) as first,
        reading(model, layers, ATTN_OUT) as attention,
        reading(model, layers, MLP_OUT) as mlp,
        _heads(model, layers) as heads,
    ):
        trial.logits()
    found: dict[Component, Tensor] = {Component(-1, "embed"): final(first[0])}
    for k in layers:
        found |= _attention(model, k, final(attention[k]), heads.get(k), final)
        found[Component(k, "mlp")] = final(mlp[k])
    added = torch.stack(list(found.values()), 1)
    return Writes(trial, layer, direction, tuple(found), added, final(stream[layer]) @ direction)


@contextmanager
def _heads(model: HookedModel, layers: tuple[int, ...]) -> Iterator[Mapping[int, Tensor]]:
    """What each head gives in the runs inside, where blocks show it."""
    if all(Site(layer, Z).name in model.host.hook_dict for layer in layers):
        with reading(model, layers, Z) as found:
            yield found
    else:
        yield {}


def _attention(
    model: HookedModel,
    layer: int,
    total: Float[Tensor, "text d_model"],
    heads: Tensor | None,
    final: Callable[[Tensor], Tensor],
) -> dict[Component, Float[Tensor, "text d_model"]]:
    """What one attention adds, by head and bias if they sum to it."""
    attn = model.host.blocks[layer].attn
    weights, bias = (getattr(attn, name, None) for name in ("W_O", "b_O"))
    if heads is not None and weights is not None and heads.shape[-2:] == weights.shape[:2]:
        weights = weights.detach().float().cpu()
        own = einsum(final(heads), weights, "text head d, head d d_model -> text head d_model")
        by = {Component(layer, "head", h): own[:, h] for h in range(own.shape[1])}
        if bias is not None and bool(bias.any()):
            by[Component(layer, "attn bias")] = bias.detach().float().cpu().expand_as(total)
        lacking = float((sum(by.values()) - total).norm())
        if lacking <= model.rounding * float(total.norm()):
            return by
    return {Component(layer, "attn"): total}
