"""From the words of a situation through one direction to the behaviour: the whole path at once."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.attribution import gradients
from emolens.decisions import Trial
from emolens.errors import ModelError, SelectionError
from emolens.hooks import hooked, reading
from emolens.interventions import At, Patch, unit, whole
from emolens.positions import span
from emolens.progress import track
from emolens.readers import find_readers
from emolens.sites import RESID_PRE, Site
from emolens.statistics import clustered_interval
from emolens.vectors import EmotionVectors
from emolens.writers import find_writers

INTEGRATED_POINTS = 32  # between an average word and the real one, at every token
SHOWN = 6  # components of a stage, the rest summed
PATH_COLUMNS = ["stage", "part", "value", "low", "high", "unit", "share"]


def evoking_words(
    trial: Trial,
    vectors: EmotionVectors,
    emotion: str,
    layer: int,
    *,
    points: int = INTEGRATED_POINTS,
) -> pd.DataFrame:
    """Which tokens of the input evoke an emotion's direction at the decision.

    Integrated gradients (captum, `emolens[attribution]`) of the projection on the unit vector, from
    a text in which every token is the average one to the real text. The tokens of a text sum to the
    whole difference between the two.

    Args:
        trial: prompts, read at their decisions.
        vectors: fitted on the same model.
        emotion: whose vector.
        layer: 0-based block after which the projection is read.
        points: at which the gradient is taken.

    Returns:
        Columns prompt (its row), place (of the token), token (its text), span (the first named span
        that it belongs to, or ""), evoked (residual units).

    Raises:
        ModelError: if captum is not installed.
        SelectionError: for an emotion or layer that the vectors lack.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise ModelError(
            "captum is not installed: pip install 'emolens[attribution]', or use `occluded`"
        ) from None
    embedded, average = _embedded(trial)
    direction = unit(vectors.of(emotion)[vectors.column(layer)])
    tokens = trial.tokens

    def projected(stream: Tensor, ids: Tensor, mask: Tensor, place: Tensor) -> Tensor:
        put = {Site(0, RESID_PRE): lambda _: stream}
        with reading(trial.model, (layer,)) as found, hooked(trial.model, put):
            trial.model.logits_at(ids, mask, place)
        rows = torch.arange(len(ids))
        return found[layer][rows, place].float() @ direction.to(found[layer].device)

    with torch.enable_grad():
        found = IntegratedGradients(projected).attribute(
            embedded,
            baselines=average.expand_as(embedded),
            additional_forward_args=(tokens.ids, tokens.mask, trial.final),
            n_steps=points,
            internal_batch_size=len(tokens),
        )
    evoked = found.sum(-1).float().cpu()
    names = {name: _of_span(trial, name) for name in _span_names(trial)}
    rows = []
    for i, place in tokens.mask.nonzero().tolist():
        start, end = tokens.offsets[i, place].tolist()
        own = next((name for name, at in names.items() if at[i, place]), "")
        word = trial.behaviour.prompts[i].text[start:end]
        rows.append((i, place, word, own, float(evoked[i, place])))
    return pd.DataFrame(rows, columns=["prompt", "place", "token", "span", "evoked"])


@torch.inference_mode()
def occluded(trial: Trial, vectors: EmotionVectors, emotion: str, layer: int) -> pd.DataFrame:
    """What the projection and the behaviour lose when a span's tokens become the average token.

    Exact, one run a span name; the spans are the prompts' own.

    Returns:
        Columns span, evoked (residual units of the projection that are lost), low, high (95%
        bootstrap over templates), logit_difference (what that loses), n (prompts that have it).

    Raises:
        SelectionError: for an emotion or layer that the vectors lack, or prompts without spans.
    """
    names = _span_names(trial)
    if not names:
        raise SelectionError(
            f"no prompt of {trial.behaviour.name!r} has a named span to take out: name parts of "
            "the prompts, as Span('situation', start, end)"
        )
    _, average = _embedded(trial)
    direction = unit(vectors.of(emotion)[vectors.column(layer)])

    def run(places: Bool[Tensor, "text token"]) -> tuple[Tensor, Tensor]:
        source = average.expand(*places.shape, -1)
        with (
            hooked(trial.model, {Site(0, RESID_PRE): At(places, Patch(source, whole))}),
            reading(trial.model, (layer,)) as found,
        ):
            difference = trial.run().logit_difference
        rows = torch.arange(len(trial.tokens))
        return found[layer][rows, trial.final].float().cpu() @ direction, difference

    stream, base = run(torch.zeros_like(trial.tokens.mask))
    rows = []
    for name in track(names, "taking spans out", len(names), "spans"):
        places = _of_span(trial, name)
        having = places.any(1)
        less, changed = run(places)
        groups = [g for g, has in zip(trial.groups, having.tolist(), strict=True) if has]
        lost = clustered_interval((stream - less)[having].tolist(), groups)
        rows.append((name, *lost, float((base - changed)[having].mean()), int(having.sum())))
    return pd.DataFrame(rows, columns=["span", "evoked", "low", "high", "logit_difference", "n"])


def path_view(
    trial: Trial, reference: Trial, vectors: EmotionVectors, emotion: str, layer: int
) -> pd.DataFrame:
    """One table from the situation's words to the behaviour's logits, through one direction.

    Args:
        trial: prompts after situations of the emotion.
        reference: prompts of the same behaviour after neutral situations.
        vectors: fitted on the same model.
        emotion: whose vector.
        layer: 0-based block after which the direction is read and the step is added.

    Returns:
        Columns stage, part, value, low, high, unit, share. Stages in order: `words` (spans, what
        the projection loses without them), `writers` (components, over the reference), `direction`
        (the projection over the reference: the natural unit), `readers` (components, under a step
        of that length on the reference; parts count what those above make of them), `logits` (the
        part of that step's effect that no later component touches, all of it, and the difference
        that the situation itself makes). Shares are of the stage's whole; of `words`, of the
        direction's (each span is taken out by itself, so they need not sum to one); of `logits`, of
        the situation's own difference.

    Raises:
        SelectionError: as `find_writers`, `find_readers` and `occluded`.
    """
    own, base = (find_writers(each, vectors, emotion, layer) for each in (trial, reference))
    span_ = clustered_interval((own.projection - base.projection.mean()).tolist(), trial.groups)
    natural = span_[0]
    words = occluded(trial, vectors, emotion, layer)
    rows = [
        ("words", r.span, r.evoked, r.low, r.high, "residual", r.evoked / natural)
        for r in words.itertuples()
    ]
    table = own.table(base)
    rows += _shown("writers", table, "write", "residual")
    rows.append(("direction", emotion, *span_, "residual", 1.0))
    norm = float(vectors.residual_norm[vectors.column(layer)])
    carried = find_readers(reference, vectors, emotion, layer, strength=natural / norm)
    rows += _shown("readers", carried.table(), "exact", "logits")
    step = natural * own.direction
    last = gradients(reference, [reference.model.n_layers - 1])[:, 0] @ step
    situation = trial.run().logit_difference - reference.run().logit_difference.mean()
    ends = {
        "past all components": last,
        "the step": carried.effect,
        "the situation": situation,
    }
    whole = clustered_interval(situation.tolist(), trial.groups)[0]
    for name, values in ends.items():
        groups = trial.groups if name == "the situation" else reference.groups
        found = clustered_interval(values.tolist(), groups)
        rows.append(("logits", name, *found, "logits", found[0] / whole))
    return pd.DataFrame(rows, columns=PATH_COLUMNS)


def _shown(stage: str, table: pd.DataFrame, value: str, what: str) -> list[tuple]:
    """The largest parts of a stage, and the sum of the rest."""
    rows = [
        (stage, r.component, getattr(r, value), r.low, r.high, what, r.share)
        for r in table.head(SHOWN).itertuples()
    ]
    rest = table.iloc[SHOWN:]
    nan = float("nan")
    if len(rest):
        rows.append(
            (stage, f"{len(rest)} more", rest[value].sum(), nan, nan, what, rest.share.sum())
        )
    return rows


@torch.inference_mode()
def _embedded(
    trial: Trial,
) -> tuple[Float[Tensor, "text token d_model"], Float[Tensor, " d_model"]]:
    """The stream before the first block, and its mean over all tokens of the prompts."""
    with reading(trial.model, (0,), RESID_PRE) as found:
        trial.logits()
    stream = found[0].clone()
    return stream, stream[trial.tokens.words.to(stream.device)].mean(0)


def _span_names(trial: Trial) -> Sequence[str]:
    """Names of the prompts' spans, in order of appearance."""
    return tuple(dict.fromkeys(s.name for t in trial.behaviour.prompts for s in t.spans))


def _of_span(trial: Trial, name: str) -> Bool[Tensor, "text token"]:
    return span(name)(trial.behaviour.prompts, trial.tokens).mask
