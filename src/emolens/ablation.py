"""Take directions away and see how much of an emotion's behaviour goes with them, and what else."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from concept_erasure import LeaceEraser
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import kl_div

from emolens.activations import Activations
from emolens.controls import CONTROL, random_directions
from emolens.decisions import Decision, Trial
from emolens.errors import SelectionError
from emolens.hooks import hooked
from emolens.interventions import Ablate, At, Intervention, Residual, spanned
from emolens.model import HookedModel
from emolens.positions import PositionRule, pick
from emolens.progress import track
from emolens.recording import plan_batches
from emolens.sharing import run_changed
from emolens.sites import Site
from emolens.statistics import clustered_interval
from emolens.steering import HALF_COLUMNS, RANDOM_DIRECTIONS, half_rows
from emolens.text import NEUTRAL, Text, groups_of
from emolens.vectors import EmotionVectors

LEAST = 0.01  # difference of probabilities of which a share means something
LOGITS = 2**27  # most numbers of one batch's log-probabilities: half a gigabyte
SPECIFICITY_COLUMNS = ["situation", "behaviour", "removed", "kind", "unablated", "p"]
SPECIFICITY_COLUMNS += ["change", "low", "high", "n"]
SIDE_COLUMNS = ["change", "kl", "kl_low", "kl_high", "perplexity"]
SIDE_COLUMNS += ["ratio", "ratio_low", "ratio_high", "n"]
REACHES = ("layer", "onward")


def remove(
    directions: Float[Tensor, " d_model"] | Float[Tensor, "vector d_model"],
    mean: Float[Tensor, " d_model"],
) -> Ablate:
    """Set the coordinates in the span of directions to those of the mean over emotions.

    With a mean of zeros the directions are projected out.
    """
    basis = spanned(directions.reshape(-1, directions.shape[-1]))
    return Ablate(basis, basis @ mean)


def erase(activations: Activations, emotion: str, layer: int) -> Intervention:
    """Least-squares concept erasure: no linear probe can tell the emotion, and little else changes.

    LEACE (Belrose et al. 2023) as the library `concept-erasure` has it, with "this emotion or not"
    as the concept. What it removes is read along the whitened direction, not along the vector.

    Args:
        activations: of labelled texts; all labels count, neutral included.
        emotion: to be erased.
        layer: that the activations are of, and that the intervention is for.

    Raises:
        SelectionError: for an emotion or layer that was not recorded.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=4), layers=[3])
    >>> erase(stories, "calm", 3)(stories.pooled).shape
    torch.Size([100, 1, 160])
    """
    activations.of(emotion)
    concept = torch.tensor([[float(e == emotion)] for e in activations.emotions])
    eraser = LeaceEraser.fit(activations.at(layer).double(), concept.double())

    def change(residual: Residual) -> Residual:
        return replace(
            eraser,
            proj_left=eraser.proj_left.to(residual),
            proj_right=eraser.proj_right.to(residual),
            bias=eraser.bias.to(residual),
        )(residual)

    return change


def ablate_layers(
    trial: Trial,
    vectors: EmotionVectors,
    emotions: str | Sequence[str],
    *,
    target: float,
    layers: Sequence[int] | None = None,
    reach: str = "layer",
    positions: PositionRule | None = None,
    controls: EmotionVectors | None = None,
    random_count: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """The behaviour after situations of an emotion, with directions removed layer by layer.

    Removed means: the coordinates in the span of the emotions' vectors are set to those of the mean
    over emotions. As many random directions are treated the same way.

    Args:
        trial: prompts whose situations bring the emotion.
        vectors: fitted on the same model.
        emotions: whose direction is removed; of several, the subspace that their vectors span.
        target: P(behaviour) after neutral situations, where a perfect removal would end.
        layers: all fitted ones by default.
        reach: `"layer"` removes at one layer, from which later ones may write the emotion anew;
            `"onward"` at that and at every later fitted layer, each with its own vectors.
        positions: at which tokens; None is all of them.
        controls: directions that are no emotion's, each removed alone (`control_vectors`).
        random_count: how many random directions, or subspaces, per layer.
        seed: of the random directions.

    Returns:
        Columns layer, direction, kind (the emotion's name, `"control"` or `"random"`), the columns
        of a dose-response from half to n, unablated (P without ablation on the same half), target,
        excess_removed: the share of (unablated - target) that went; 1 is all of it, negative is the
        wrong way, NaN where the excess is within 0.01 of none, so that there is nothing to remove.

    Raises:
        SelectionError: for an emotion or layer that was not fitted, another reach, or a prompt
            without such tokens.
    """
    if reach not in REACHES:
        raise SelectionError(f"unknown reach {reach!r}: choose one of {', '.join(REACHES)}")
    chosen = tuple(layers if layers is not None else vectors.layers)
    felt = (emotions,) if isinstance(emotions, str) else tuple(emotions)
    name = felt[0] if len(felt) == 1 else f"{len(felt)} emotions"
    whole = pd.DataFrame(half_rows(trial, trial.run()), columns=HALF_COLUMNS).set_index("half").p
    changes: dict[int, list[Intervention]] = {}
    for layer in vectors.layers if reach == "onward" else chosen:
        mean = vectors.mean[vectors.column(layer)]
        own = remove(vectors.at(layer)[[vectors.row(emotion) for emotion in felt]], mean)
        others = [] if controls is None else [remove(each, mean) for each in controls.at(layer)]
        random = _random_removals(mean, layer, len(own.directions), random_count, seed)
        changes[layer] = [own, *others, *random]
    if positions is not None:
        mask = pick(positions, trial.behaviour.prompts, trial.tokens).mask
        changes = {layer: [At(mask, each) for each in found] for layer, found in changes.items()}
    labels = [(name, name)]
    labels += [] if controls is None else [(other, CONTROL) for other in controls.emotions]
    labels += [(f"random {i}", "random") for i in range(random_count)]
    jobs = [(layer, *label) for layer in chosen for label in labels]
    told, rows = track(jobs, f"ablating {name}", len(jobs), "runs"), []
    for job, decision in zip(told, _ablated(trial, chosen, changes, reach), strict=True):
        rows += [(*job, *row) for row in half_rows(trial, decision)]
    table = pd.DataFrame(rows, columns=["layer", "direction", "kind", *HALF_COLUMNS])
    table["unablated"] = table.half.map(whole)
    table["target"] = target
    excess = table.unablated - table.target
    table["excess_removed"] = (table.unablated - table.p) / excess.where(excess.abs() > LEAST)
    return table


def _random_removals(
    mean: Float[Tensor, " d_model"], layer: int, width: int, count: int, seed: int
) -> list[Ablate]:
    draws = random_directions(count * width, len(mean), seed * 1000 + 500 + layer)
    return [remove(some, mean) for some in draws.unflatten(0, (count, width))]


def _ablated(
    trial: Trial,
    layers: Sequence[int],
    changes: Mapping[int, Sequence[Intervention]],
    reach: str,
) -> Iterator[Decision]:
    """The decisions under each change of each layer, alone or with those of later layers."""
    told = []
    for layer in layers:
        reached = [layer, *(k for k in changes if k > layer and reach == "onward")]
        told += [{k: changes[k][i] for k in reached} for i in range(len(changes[layer]))]
    return run_changed(trial, told)


def specificity(
    trials: Sequence[Trial],
    vectors: EmotionVectors,
    removed: Sequence[str],
    layer: int,
    *,
    random_count: int = RANDOM_DIRECTIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """What is lost of each behaviour when an emotion's direction is removed: its own, and others.

    A direction that carries one emotion takes the behaviours of that emotion with it and leaves
    those of the others. Each is removed as in `ablate_layers`, at all tokens of one layer.

    Args:
        trials: each with prompts of one situation.
        vectors: fitted on the same model.
        removed: emotions whose directions are removed in every trial, beside the trial's own.
        layer: where.
        random_count: how many random directions are removed as well.
        seed: of the random directions.

    Returns:
        Columns situation, behaviour (its target class), removed, kind (`"own"`, `"other"`,
        `"random"`), unablated and p (mean P(target) without and with removal), change (their
        difference) with low and high (95% bootstrap over templates), n.

    Raises:
        SelectionError: for an emotion or layer that was not fitted, or a trial with prompts of
            several situations.
    """
    rows, mean = [], vectors.mean[vectors.column(layer)]
    random = _random_removals(mean, layer, 1, random_count, seed)
    for trial in track(trials, "removing directions", len(trials), "behaviours"):
        felt = {text.emotion for text in trial.behaviour.prompts}
        if len(felt) > 1:
            raise SelectionError(
                f"behaviour {trial.behaviour.name!r} has situations of {', '.join(sorted(felt))}: "
                "give a trial for each, with Behaviour.after"
            )
        (situation,) = felt
        names = [e for e in dict.fromkeys((*removed, situation)) if e != NEUTRAL]
        labels = [(name, "own" if name == situation else "other") for name in names]
        labels += [(f"random {i}", "random") for i in range(random_count)]
        own = [remove(vectors.at(layer)[vectors.row(name)], mean) for name in names]
        before = trial.run().p
        found = run_changed(trial, [{layer: change} for change in own + random])
        for (name, kind), decision in zip(labels, found, strict=True):
            change = clustered_interval((decision.p - before).tolist(), trial.groups)
            p = clustered_interval(decision.p.tolist(), trial.groups)[0]
            label = (situation, trial.behaviour.target, name, kind)
            rows.append((*label, p - change[0], p, *change, len(before)))
    return pd.DataFrame(rows, columns=SPECIFICITY_COLUMNS)


@torch.inference_mode()
def side_effects(
    model: HookedModel, texts: Sequence[Text], changes: Mapping[str, Mapping[Site, Intervention]]
) -> pd.DataFrame:
    """What interventions do to plain texts, which they are meant to leave alone.

    Args:
        model: the hooked model.
        texts: neutral ones show the side effect best.
        changes: by name: what is done at which site, at all tokens.

    Returns:
        One row a change. Columns change, kl (of the next token's distribution without from that
        with the change, in nats, mean over tokens) with kl_low and kl_high, perplexity (with the
        change), ratio (of that to the perplexity without) with ratio_low and ratio_high, n (texts).
        Texts count alike; intervals are 95% bootstraps over their groups.

    Raises:
        ModelError: for an encoder.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> step = {emolens.Site(3): emolens.Steer(torch.zeros(model.d_model))}
    >>> texts = [emolens.Text("mira fed the goat .")]
    >>> side_effects(model, texts, {"nothing": step})[["kl", "ratio"]].iloc[0].tolist()
    [0.0, 1.0]
    """
    model.require_logits("perplexity")
    tokens = model.tokenize(texts)
    lengths = tokens.mask.sum(1)
    found = torch.zeros(len(changes), 3, len(texts))
    batches = list(plan_batches(lengths, max(1, LOGITS // len(model.tokenizer))))
    for batch in track(batches, "side effects", len(batches), "batches"):
        rows = torch.tensor(batch)
        width = int(lengths[rows].max())
        ids, mask = tokens.ids[rows, :width], tokens.mask[rows, :width]
        plain = model.forward(ids, mask).float().log_softmax(-1)
        before = _surprise(plain, ids, mask)
        for number, sites in enumerate(changes.values()):
            with hooked(model, sites):
                changed = model.forward(ids, mask).float().log_softmax(-1)
            apart = kl_div(changed, plain, reduction="none", log_target=True).sum(-1)
            after = _surprise(changed, ids, mask)
            found[number, :, rows] = torch.stack([_mean(apart, mask), before, after]).cpu()
    groups = groups_of(texts)
    told = []
    for name, (apart, plain, changed) in zip(changes, found.tolist(), strict=True):
        perplexity = math.exp(clustered_interval(changed, groups)[0])
        more = np.subtract(changed, plain).tolist()
        ratio = [math.exp(x) for x in clustered_interval(more, groups)]
        told.append((name, *clustered_interval(apart, groups), perplexity, *ratio, len(texts)))
    return pd.DataFrame(told, columns=SIDE_COLUMNS)


def _surprise(
    log_p: Float[Tensor, "text token vocab"],
    ids: Int[Tensor, "text token"],
    mask: Bool[Tensor, "text token"],
) -> Float[Tensor, " text"]:
    """Mean negative log-probability of each next token that there is, in nats."""
    told = log_p[:, :-1].gather(-1, ids[:, 1:, None].to(log_p.device))[..., 0]
    return _mean(-told, mask[:, 1:])


def _mean(
    values: Float[Tensor, "text token"], mask: Bool[Tensor, "text token"]
) -> Float[Tensor, " text"]:
    kept = mask.to(values)
    return (values * kept).sum(1) / kept.sum(1)
