"""Give one run another's residuals, whole or in part, or what a head, attention or MLP gives there.

Two prompts of a pair differ in how they begin and share how they end. The run of the one (the
receiver) gets the residuals that the run of the other (the donor) has at the shared tokens. If a
direction carries what drives the behaviour, patching along it alone moves the behaviour about as
far as patching everything does, and patching everything else moves it hardly at all.

TransformerLens has tools for that too (`transformer_lens.patching`). They take two batches whose
tokens stand at the same places, run them without a mask, and put one value in for another: prompts
that are shifted against each other do not fit. Where they are not shifted, both say the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emolens.controls import CONTROL, random_directions, turned
from emolens.decisions import Decision, Trial
from emolens.errors import ModelError, SelectionError
from emolens.hooks import hooked, reading
from emolens.interventions import (
    At,
    Head,
    Intervention,
    Part,
    Patch,
    along,
    apart,
    placebo,
    unit,
    whole,
)
from emolens.progress import track
from emolens.sharing import run_changed
from emolens.sites import ATTN_OUT, MLP_OUT, RESID_POST, Site, Z
from emolens.statistics import clustered_ratio, each_half
from emolens.steering import RANDOM_DIRECTIONS
from emolens.vectors import EmotionVectors

PATCH_COLUMNS = ["part", "kind", "half", "p", "logit_difference", "recovered", "low", "high", "n"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompts in pairs that begin differently and end alike.

    Attributes:
        receiver: prompts whose run is patched.
        donor: prompts whose residuals are put in; the i-th belongs to the i-th receiver.
        shared: how many tokens at its end each pair shares.
    """

    receiver: Trial
    donor: Trial
    shared: Int[Tensor, " pair"]

    @classmethod
    def of(cls, receiver: Trial, donor: Trial) -> "Pairs":
        """Pair two trials of one model, prompt by prompt.

        Raises:
            SelectionError: for two models or behaviours, another number of prompts, or a pair that
                does not end alike or does not differ at all.
        """
        if receiver.model is not donor.model or receiver.ids.keys() != donor.ids.keys():
            raise SelectionError(
                "receiver and donor are of two models or behaviours: prepare both trials on one"
            )
        if len(receiver.tokens) != len(donor.tokens):
            raise SelectionError(
                f"{len(receiver.tokens)} receivers and {len(donor.tokens)} donors do not pair up: "
                "give one donor for each receiver, in the same order"
            )
        ends = zip(_backwards(receiver), _backwards(donor), strict=True)
        shared = []
        for i, (one, other) in enumerate(ends):
            alike = [a == b for a, b in zip(one, other, strict=False)]
            count = alike.index(False) if False in alike else len(alike)
            if count == 0 or (all(alike) and len(one) == len(other)):
                raise SelectionError(
                    f"pair {i} {'does not end alike' if count == 0 else 'does not differ'}: "
                    f"{receiver.behaviour.prompts[i].text[-60:]!r} and "
                    f"{donor.behaviour.prompts[i].text[-60:]!r}"
                )
            shared.append(count)
        return cls(receiver, donor, torch.tensor(shared))

    @property
    def mask(self) -> Bool[Tensor, "pair token"]:
        """The receivers' tokens that the donors share."""
        token = torch.arange(self.receiver.tokens.ids.shape[1])
        final = self.receiver.final[:, None]
        return (token <= final) & (token > final - self.shared[:, None])

    @torch.inference_mode()
    def sources(
        self, layers: Sequence[int], kind: str = RESID_POST
    ) -> dict[int, Float[Tensor, "pair token *width"]]:
        """The donors' residuals after each layer, moved to the receivers' positions.

        With another `kind` of `Site`, what the donors have there at each layer.
        """
        with reading(self.donor.model, tuple(layers), kind) as found:
            self.donor.logits()
        token = torch.arange(self.receiver.tokens.ids.shape[1])
        place = token + (self.donor.final - self.receiver.final)[:, None]
        place = place.clamp(0, self.donor.tokens.ids.shape[1] - 1)
        rows = torch.arange(len(place))[:, None]
        return {layer: found[layer][rows, place] for layer in layers}


def _backwards(trial: Trial) -> list[list[int]]:
    """Token ids of each prompt from the decision back to its begin."""
    rows = zip(trial.tokens.ids.tolist(), trial.final.tolist(), strict=True)
    return [ids[final::-1] for ids, final in rows]


def patch_layers(
    pairs: Pairs,
    vectors: EmotionVectors,
    toward: str,
    away: str,
    *,
    layers: Sequence[int] | None = None,
    controls: EmotionVectors | None = None,
    random_count: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of the donors' behaviour comes with their residuals, layer by layer.

    At each layer, at all shared tokens: the whole residual; only its part along the unit vector of
    `toward` minus `away`; all but that part; and, as the control of the direction, steps as long
    as those along it in random directions, or in directions that are no emotion's.

    Args:
        pairs: receivers and donors.
        vectors: fitted on the same model.
        toward: the donors' emotion.
        away: the receivers' emotion.
        layers: all fitted ones by default.
        controls: directions that are no emotion's (`control_vectors`).
        random_count: how many random directions a layer.
        seed: of the random directions.

    Returns:
        Columns layer, part (`"whole"`, `"direction"`, `"complement"`, a control's name,
        `"random 0"`, ...), kind (`"patch"`, `"control"` or `"random"`), half, p (mean P(target)),
        logit_difference, recovered with low and high (95% bootstrap over templates), n. Recovered
        is the mean change of the logit difference over the mean that the donors are apart: 0 is the
        receivers' behaviour, 1 the donors'.

    Raises:
        SelectionError: for an emotion or layer that was not fitted.
    """
    chosen = tuple(layers if layers is not None else vectors.layers)
    jobs: list[tuple[int, str, str, Part]] = []
    for layer in chosen:
        column = vectors.column(layer)
        difference = vectors.of(toward)[column] - vectors.of(away)[column]
        direction = unit(difference)[None]
        draws = random_directions(random_count, vectors.mean.shape[-1], seed * 1000 + layer)
        jobs += [
            (layer, "whole", "patch", whole),
            (layer, "direction", "patch", along(direction)),
            (layer, "complement", "patch", apart(direction)),
        ]
        if controls is not None:
            others = zip(controls.emotions, unit(controls.at(layer)), strict=True)
            jobs += [(layer, n, CONTROL, placebo(direction, other[None])) for n, other in others]
        jobs += [
            (layer, f"random {i}", "random", placebo(direction, other[None]))
            for i, other in enumerate(draws)
        ]
    sources, read, mask = pairs.sources(chosen), _Recovery.between(pairs), pairs.mask
    patches = [{layer: At(mask, Patch(sources[layer], part))} for layer, _, _, part in jobs]
    told, rows = track(jobs, f"patching {toward}", len(jobs), "runs"), []
    for job, found in zip(told, run_changed(pairs.receiver, patches), strict=True):
        rows += [(*job[:3], *row) for row in read.rows(found)]
    return pd.DataFrame(rows, columns=["layer", *PATCH_COLUMNS])


def patch_positions(
    pairs: Pairs, *, layers: Sequence[int] | None = None, last: int | None = None
) -> pd.DataFrame:
    """The same for the whole residual of one token at a time: where the behaviour is decided.

    Args:
        pairs: receivers and donors.
        layers: all of the model's by default.
        last: how many tokens from the decision back; by default those that every pair shares.

    Returns:
        Columns layer, position (0 is the decision's token, -1 the one before), and those of
        `patch_layers` from half to n. Pairs that share fewer tokens stay as they are there.
    """
    model = pairs.receiver.model
    chosen = model.check_layers(layers if layers is not None else range(model.n_layers))
    count = last if last is not None else int(pairs.shared.min())
    token = torch.arange(pairs.receiver.tokens.ids.shape[1])
    jobs = [(layer, back) for layer in chosen for back in range(count)]
    sources, read, shared = pairs.sources(chosen), _Recovery.between(pairs), pairs.mask
    places = [shared & (token == pairs.receiver.final[:, None] - back) for back in range(count)]
    patches = [{layer: At(places[back], Patch(sources[layer], whole))} for layer, back in jobs]
    told, rows = track(jobs, "patching tokens", len(jobs), "runs"), []
    for (layer, back), found in zip(told, run_changed(pairs.receiver, patches), strict=True):
        rows += [(layer, -back, *row) for row in read.rows(found)]
    return pd.DataFrame(rows, columns=["layer", "position", *PATCH_COLUMNS[2:]])


def patch_components(
    pairs: Pairs, *, layers: Sequence[int] | None = None, random_count: int = 5, seed: int = 0
) -> pd.DataFrame:
    """How much of the donors' behaviour comes with what single parts of a block give.

    At each layer, at all shared tokens: what its attention adds to the stream; what its MLP adds;
    and what each head gives before the output projection. A part alone is put in, and whatever
    follows from it runs on, so that shares of several parts need not add up to what they do
    together. What a part reads at tokens that are not shared stays the receivers'.

    The control of a part is its own displacement, turned: at each token the way from the
    receiver's to the donor's value is as long and lies to the other tokens' ways as it did, but all
    of them point where a random rotation takes them. A part that recovers no more than that was
    only shaken. (Another pair's donor would be no control, for it carries the same emotion; nor
    would a step drawn anew for each token, for such steps cancel where a donor's add up.)

    Args:
        pairs: receivers and donors.
        layers: all of the model's by default.
        random_count: how many random turns a part. Each costs a run, as the patch itself does;
            five show how far a shaken part goes, and p-values take more.
        seed: of the random turns.

    Returns:
        Columns layer, component (`"attention"`, `"mlp"`, `"head 0"`, ...), kind (`"patch"`, or
        `"random"` for each turn), and those of `patch_layers` from half to n.

    Raises:
        ModelError: where TransformerLens does not give the heads' results head by head.
        SelectionError: for a layer that the model lacks, or one without attention or MLP.

    >>> import emolens
    >>> from emolens.decisions import Trial
    >>> model, scene = emolens.load("organism"), emolens.organism_pairs(per_emotion=4)
    >>> calm, desperate = (Trial.prepare(model, scene.after(e)) for e in ("calm", "desperate"))
    >>> pairs = Pairs.of(calm, desperate)
    >>> found = patch_components(pairs, layers=[2], random_count=0)
    >>> found[found.half == "report"].component.tolist()
    ['attention', 'mlp', 'head 0', 'head 1', 'head 2', 'head 3']
    """
    model = pairs.receiver.model
    chosen = model.check_layers(layers if layers is not None else range(model.n_layers))
    model.check_sites(Site(layer, kind) for layer in chosen for kind in (ATTN_OUT, MLP_OUT, Z))
    jobs = (
        (layer, name, kind, site, patch(part))
        for layer in chosen
        for place, (name, site, patch) in enumerate(_components(pairs, layer))
        for kind, part in _whole_and_turned((seed, layer, place), random_count)
    )
    count = len(chosen) * (2 + model.n_heads) * (1 + random_count)
    read, rows = _Recovery.between(pairs), []
    for layer, name, kind, site, change in track(jobs, "patching parts", count, "runs"):
        with hooked(model, {site: change}):
            found = pairs.receiver.run()
        rows += [(layer, name, kind, *row) for row in read.rows(found)]
    return pd.DataFrame(rows, columns=["layer", "component", *PATCH_COLUMNS[1:]])


def _whole_and_turned(seed: tuple[int, ...], random_count: int) -> Iterator[tuple[str, Part]]:
    """A patch and its controls."""
    yield "patch", whole
    for draw in range(random_count):
        yield "random", turned((*seed, draw))


def _components(
    pairs: Pairs, layer: int
) -> Iterator[tuple[str, Site, Callable[[Part], Intervention]]]:
    """A block's parts: what each is called, where it is, and how the donors' is put in there."""
    model, mask, site = pairs.receiver.model, pairs.mask, Site(layer, Z)
    heads = pairs.sources([layer], Z)[layer]
    if heads.ndim != 4 or heads.shape[2] != model.n_heads:
        raise ModelError(
            f"{model.name!r} has {model.n_heads} heads, and TransformerLens gives {site.name} as "
            f"{tuple(heads.shape[2:])}: what is one head's cannot be told, patch the residuals"
        )
    for name, kind in (("attention", ATTN_OUT), ("mlp", MLP_OUT)):
        yield name, Site(layer, kind), partial(_patch, pairs.sources([layer], kind)[layer], mask)
    for index, source in enumerate(heads.unbind(2)):
        yield f"head {index}", site, partial(_patch_head, index, source, mask)


def _patch(
    source: Float[Tensor, "pair token width"], mask: Bool[Tensor, "pair token"], part: Part
) -> Intervention:
    return At(mask, Patch(source, part))


def _patch_head(
    index: int,
    source: Float[Tensor, "pair token d_head"],
    mask: Bool[Tensor, "pair token"],
    part: Part,
) -> Intervention:
    return Head(index, _patch(source, mask, part))


@dataclass(frozen=True, eq=False)
class _Recovery:
    """Logit differences of receivers and donors as they are, to hold patched ones against."""

    pairs: Pairs
    receiver: Float[Tensor, " pair"]
    donor: Float[Tensor, " pair"]

    @classmethod
    def between(cls, pairs: Pairs) -> "_Recovery":
        receiver, donor = (t.run().logit_difference for t in (pairs.receiver, pairs.donor))
        return cls(pairs, receiver, donor)

    def rows(self, found: Decision) -> list[tuple]:
        """One row per half of the pairs, of what the receivers decided when patched."""
        rows = []
        for half, mask, groups in each_half(self.pairs.receiver.groups):
            changed = (found.logit_difference - self.receiver)[mask]
            apart_by = (self.donor - self.receiver)[mask]
            rows.append(
                (
                    half,
                    float(found.p[mask].mean()),
                    float(found.logit_difference[mask].mean()),
                    *clustered_ratio(changed.tolist(), apart_by.tolist(), groups),
                    len(groups),
                )
            )
        return rows
