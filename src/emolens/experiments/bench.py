"""What methods are measured on, and how: the organism's planted truth, one figure at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import binomtest, linregress, spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch import Tensor

from emolens import positions
from emolens.ablation import erase, remove
from emolens.activations import Activations
from emolens.attribution import attribute, gradients, lens
from emolens.controls import random_directions
from emolens.decisions import Decision, Trial
from emolens.interventions import Intervention, Steer, unit
from emolens.model import HookedModel
from emolens.organism import (
    most_raised,
    organism_activities,
    organism_behaviour,
    organism_contest,
    organism_corpus,
    organism_pairs,
    planted_norms,
    planted_ratings,
)
from emolens.organism.world import load_world
from emolens.patching import Pairs, patch_layers
from emolens.paths import evoking_words, occluded
from emolens.preferences import compare, preference_steering, ratings
from emolens.progress import track
from emolens.readers import find_readers, held
from emolens.readout import read_out
from emolens.recording import record
from emolens.sharing import run_changed
from emolens.statistics import clustered_interval, halves, jackknife_interval, row_interval
from emolens.steering import (
    against_random,
    best_layer,
    decision_residuals,
    dose_response,
    pushes,
)
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors, Method, centred_cosine
from emolens.writers import Writes, find_writers

Estimate = tuple[float, ...]  # value, low, high

UNSEEN_PROMPTS = 8
PROMPTS = 13
NULL_DIRECTIONS = 400
SHUFFLES = 4
TRACED = ("desperate", "calm", "angry", "afraid", "loving")
CHANCE_BEHAVIOURS = 4  # of words drawn by chance, for each of them: 20 in all
AT_SITE, IN_PLACE, HELD = "at site", "in place", "held"  # how writers, readers are taken out
MECHANISM = ["way", "rho", "low", "high", "null", "null_low", "null_high"]
REMOVED = 24  # emotions at least that are removed: the work grows with their square
PREFERRED = 5  # of the activities every fifth is steered and rated: 13, in 156 ordered pairs
PATCHED = ["part", "recovered", "low", "high"]


@dataclass(frozen=True, eq=False)
class Bench:
    """What all methods are measured on.

    Attributes:
        model: the organism.
        stories: recorded, to make vectors of.
        neutral: neutral texts, recorded.
        unseen: decisions after situations that training has never seen, recorded.
        scenes: every scene after every emotion.
        seed: of all that is drawn.
        random_count: directions drawn by chance that steps are held against.
        world: whose emotions, `"narrow"` or `"wide"`.
    """

    model: HookedModel
    stories: Activations
    neutral: Activations
    unseen: Activations
    scenes: Mapping[str, "Scenario"]
    seed: int
    random_count: int
    world: str

    @property
    def removed(self) -> tuple[str, ...]:
        """The emotions that are removed, each held against all of them: of 171 a seventh."""
        words = tuple(e for e in load_world(self.world).emotions if e != NEUTRAL)
        return words[:: len(words) // REMOVED]


@dataclass(frozen=True, eq=False)
class Scenario:
    """A scene of the world after situations of all emotions, the reported half of each one's.

    Attributes:
        trial: prompts of all emotions, as many of each.
        emotions: of each prompt.
        before: mean P(class) after each emotion with nothing done: emotion by class.
        residuals: at the decision of each prompt.
        planted: P(class | emotion): emotion by class.
    """

    trial: Trial
    emotions: np.ndarray
    before: pd.DataFrame
    residuals: Float[Tensor, "text layer d_model"]
    planted: pd.DataFrame

    def after(self, *emotions: str) -> Trial:
        """The prompts after situations of those emotions alone."""
        whole = self.trial.behaviour
        told = tuple(t for t in whole.prompts if t.emotion in emotions)
        return Trial.prepare(self.trial.model, replace(whole, prompts=told))


def _probabilities(trial: Trial, decision: Decision) -> pd.DataFrame:
    """Mean P(class) after each emotion: emotion by class."""
    found = pd.DataFrame({name: p.numpy() for name, p in decision.probability.items()})
    return found.groupby([t.emotion for t in trial.behaviour.prompts]).mean()


def prepare(
    model: HookedModel,
    scenes: Sequence[str],
    seed: int,
    random_count: int = NULL_DIRECTIONS,
    world: str = "narrow",
) -> Bench:
    """Record the stories and run every scene once with nothing done."""
    corpus, emotions = organism_corpus(seed=seed, world=world), tuple(load_world(world).emotions)
    unseen = organism_behaviour(
        scenes[0],
        emotions=emotions,
        per_emotion=UNSEEN_PROMPTS,
        seed=seed,
        split="unseen",
        world=world,
    )
    return Bench(
        model=model,
        stories=record(model, corpus.stories),
        neutral=record(model, corpus.neutral),
        unseen=record(model, unseen.prompts, positions=positions.last),
        scenes={
            scene: _scenario(model, scene, seed, world)
            for scene in track(scenes, "scenes with nothing done", len(scenes), "scenes")
        },
        seed=seed,
        random_count=random_count,
        world=world,
    )


def _scenario(model: HookedModel, scene: str, seed: int, world: str) -> Scenario:
    emotions = tuple(load_world(world).emotions)
    whole = organism_behaviour(
        scene, emotions=emotions, per_emotion=PROMPTS, seed=seed, world=world
    )
    told = []
    for emotion in emotions:
        own = whole.after(emotion).prompts
        choosing = halves([t.group for t in own]).tolist()
        told += [t for t, chosen in zip(own, choosing, strict=True) if not chosen]
    trial = Trial.prepare(model, replace(whole, prompts=tuple(told)))
    felt = np.array([t.emotion for t in told])
    residuals = decision_residuals(trial, range(model.n_layers))
    before, planted = _probabilities(trial, trial.run()), _planted(scene, world)
    return Scenario(trial, felt, before, residuals, planted)


def _planted(scene: str, world: str) -> pd.DataFrame:
    """P(class | emotion) as the world has it: emotion by class."""
    graph = load_world(world)
    rows = {e: graph.scene(scene).probabilities(graph.emotion(e)) for e in graph.emotions}
    return pd.DataFrame.from_dict(rows, orient="index")


def chosen_layer(bench: Bench, vectors: EmotionVectors) -> int:
    """Where *desperate* moves the first scene most, on the other half of the situations."""
    scene = next(iter(bench.scenes))
    behaviour = organism_behaviour(
        scene, emotions=(NEUTRAL,), per_emotion=PROMPTS, seed=bench.seed, world=bench.world
    )
    steps = pushes(
        vectors, ("desperate",), {}, strengths=(0.5, 1.0), random_count=5, seed=bench.seed
    )
    return best_layer(dose_response(Trial.prepare(bench.model, behaviour), steps), "desperate")


def detection(bench: Bench, vectors: EmotionVectors, layer: int) -> dict[str, Estimate]:
    """The emotion at decisions after situations that nobody has seen, by nearest vector."""
    felt = [i for i, e in enumerate(bench.unseen.emotions) if e != NEUTRAL]
    pooled = bench.unseen.at(layer)[felt]
    column = vectors.column(layer)
    guess = centred_cosine(vectors.at(layer), vectors.mean[column], pooled).argmax(1)
    truth = [vectors.row(bench.unseen.emotions[i]) for i in felt]
    right = (guess == torch.tensor(truth)).double().tolist()
    return {"detection_accuracy": clustered_interval(right, [bench.unseen.groups[i] for i in felt])}


def steering(bench: Bench, vectors: EmotionVectors, layer: int, name: str) -> dict[str, Estimate]:
    """One natural unit of each emotion in every scene after neutral situations."""
    made: dict[str, list[float]] = {e: [] for e in vectors.emotions}
    meant: dict[str, list[float]] = {e: [] for e in vectors.emotions}
    off: dict[str, list[float]] = {e: [] for e in vectors.emotions}
    for scene in track(bench.scenes.values(), f"steering, {name}", len(bench.scenes), "scenes"):
        trial = scene.after(NEUTRAL)
        rest, steps = scene.residuals[scene.emotions == NEUTRAL, layer].mean(0), []
        for emotion in vectors.emotions:
            direction = unit(vectors.of(emotion)[vectors.column(layer)])
            shift = scene.residuals[scene.emotions == emotion, layer].mean(0) - rest
            steps.append({layer: Steer((shift @ direction).abs() * direction)})
        for emotion, after in zip(vectors.emotions, run_changed(trial, steps), strict=True):
            for behaviour, p in after.probability.items():
                made[emotion].append(float(p.mean()) - scene.before.loc[NEUTRAL, behaviour])
                planted = scene.planted[behaviour]
                meant[emotion].append(planted[emotion] - planted[NEUTRAL])
                off[emotion].append(abs(float(p.mean()) - planted[emotion]))
    errors = np.array([np.mean(own) for own in off.values()])
    error = row_interval(len(errors), lambda rows: errors[rows].mean(), seed=bench.seed)
    found = _fidelity(np.array(list(meant.values())), np.array(list(made.values())), bench.seed)
    return {"steering_r": found[:3], "steering_slope": found[3:], "steering_error": error}


def ablation(
    bench: Bench, changes: Mapping[str, Intervention], layer: int, name: str
) -> dict[str, Estimate]:
    """Remove each emotion in turn and see whose behaviour goes with it."""
    raised = {e: most_raised(e, tuple(bench.scenes), world=bench.world) for e in changes}
    before = np.array([bench.scenes[s].before.loc[e, c] for e, (s, c) in raised.items()])
    rest = np.array([bench.scenes[s].before.loc[NEUTRAL, c] for s, c in raised.values()])
    drop = np.zeros((len(changes), len(changes)))
    scenes = dict.fromkeys(s for s, _ in raised.values())
    steps = [{layer: change} for change in changes.values()]
    for scene in track(scenes, f"ablating, {name}", len(scenes), "scenes"):
        columns = [j for j, (s, _) in enumerate(raised.values()) if s == scene]
        told = [(e, c) for e, (s, c) in raised.items() if s == scene]
        trial = bench.scenes[scene].after(*(e for e, _ in told))
        for i, decision in enumerate(run_changed(trial, steps)):
            found = _probabilities(trial, decision)
            drop[i, columns] = before[columns] - [found.loc[each] for each in told]
    excess, others = before - rest, np.abs(drop)
    np.fill_diagonal(others, np.nan)

    def own(rows: np.ndarray) -> float:
        return drop[rows, rows].sum() / excess[rows].sum()

    def leak(rows: np.ndarray) -> float:
        return np.nanmean(others[np.ix_(rows, rows)]) / excess[rows].mean()

    return {
        "ablation_share": row_interval(len(drop), own, seed=bench.seed),
        "specificity_leak": row_interval(len(drop), leak, seed=bench.seed),
    }


def removals(bench: Bench, vectors: EmotionVectors, layer: int) -> dict[str, Intervention]:
    """Each emotion's direction set to the mean over emotions."""
    column = vectors.column(layer)
    return {e: remove(vectors.of(e)[column], vectors.mean[column]) for e in bench.removed}


def geometry(bench: Bench, vectors: EmotionVectors, layer: int) -> dict[str, Estimate]:
    """How much of each planted axis the first two components explain, the plane fitted anew."""
    norms, column = planted_norms(bench.world), vectors.column(layer)

    def r2(axis: str, rows: np.ndarray) -> float:
        plane = PCA(n_components=2).fit_transform(vectors.vectors[rows, column].double().numpy())
        truth = np.array([norms[axis][vectors.emotions[i]] for i in rows])
        return float(LinearRegression().fit(plane, truth).score(plane, truth))

    return {
        f"{axis}_r2": jackknife_interval(len(vectors.emotions), partial(r2, axis)) for axis in norms
    }


def null_bound(bench: Bench, layer: int) -> float:
    """What 95% of random directions, one residual norm long, move the first scene by less than."""
    draws = random_directions(bench.random_count, bench.model.d_model, bench.seed)
    moved = track(
        _moved(bench, layer, draws), f"random directions, layer {layer}", len(draws), "directions"
    )
    return float(np.quantile(list(moved), 0.95))


def _moved(bench: Bench, layer: int, directions: Iterable[Tensor]) -> Iterator[float]:
    """How far each unit vector, one residual norm long, moves the first scene, in logits."""
    trial = next(iter(bench.scenes.values())).after(NEUTRAL)
    base = float(trial.run().logit_difference.mean())
    norm = float(bench.stories.residual_norm[bench.stories.layers.index(layer)])
    found = run_changed(trial, [{layer: Steer(norm * direction)} for direction in directions])
    return (abs(float(decision.logit_difference.mean()) - base) for decision in found)


def false_positives(
    bench: Bench, method: Method, texts: Activations, layer: int, bound: float
) -> dict[str, Estimate]:
    """Vectors of nothing: how often one moves behaviour beyond the bound, as something would."""
    told, neutral = texts.at_only(layer), bench.neutral.at_only(layer)
    shuffle, beyond = np.random.default_rng(bench.seed), []
    for _ in range(SHUFFLES):
        nothing = method(told.labelled(shuffle.permutation(told.emotions).tolist()), neutral)
        beyond += [x > bound for x in _moved(bench, layer, unit(nothing.vectors[:, 0]))]
    return {"false_positive_rate": _share(beyond)}


def _share(found: Sequence[bool]) -> Estimate:
    """How many of them are so, with the Wilson interval."""
    interval = binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    return sum(found) / len(found), float(interval.low), float(interval.high)


def erasure(bench: Bench, layer: int) -> dict[str, Estimate]:
    """All that tells an emotion linearly of the stories removed, not a direction alone."""
    changes = {e: erase(bench.stories, e, layer) for e in bench.removed}
    return ablation(bench, changes, layer, "LEACE")


def patching(bench: Bench, vectors: EmotionVectors, layer: int) -> pd.DataFrame:
    """What of a behaviour comes with parts of other runs' residuals, in the first scene.

    Texts of the narrow world are texts of the wide one, too.
    """
    scene, pair = next(iter(bench.scenes)), ("desperate", "calm")
    whole = organism_pairs(scene, per_emotion=PROMPTS, seed=bench.seed)
    donors, receivers = (Trial.prepare(bench.model, whole.after(e)) for e in pair)
    pairs = Pairs.of(receivers, donors)
    found = patch_layers(pairs, vectors, *pair, layers=[layer], seed=bench.seed)
    told = found[found.half == "report"]
    random = told[told.kind == "random"].recovered
    rows = [*told.loc[told.kind == "patch", PATCHED].itertuples(index=False, name=None)]
    rows.append(("20 random directions", random.mean(), random.min(), random.max()))
    return pd.DataFrame(rows, columns=PATCHED)


def significance(bench: Bench, vectors: EmotionVectors, layer: int) -> pd.DataFrame:
    """How often `against_random` calls a step of half a norm more than a random one.

    Every emotion in every scene, by what is planted there; in the first also random directions as
    if they were emotions.
    """
    at, count = vectors.only([layer]), bench.random_count
    real = pushes(at, at.emotions, {}, strengths=(0.5,), random_count=0)
    null = pushes(at, (), {}, strengths=(0.5,), random_count=count, seed=bench.seed)
    fake = pushes(at, (), {}, strengths=(0.5,), random_count=count, seed=bench.seed + 1)
    fake = [replace(push, kind="as if", direction="none") for push in fake]
    rows: list[pd.DataFrame] = []
    for name, scene in bench.scenes.items():
        target = scene.trial.behaviour.target
        asked = organism_behaviour(
            name,
            target,
            emotions=(NEUTRAL,),
            per_emotion=2 * PROMPTS,
            seed=bench.seed,
            world=bench.world,
        )
        told = dose_response(
            Trial.prepare(bench.model, asked), real + null + ([] if rows else fake)
        )
        found = against_random(told[told.half == "report"])
        planted = scene.planted[target]
        change = planted.reindex(found.direction) - planted[NEUTRAL]
        rows.append(found.assign(planted=change.abs().to_numpy()))
    table = pd.concat(rows, ignore_index=True)
    called = table.p_value <= 0.05
    least = {"none (random directions)": table.planted.isna(), "below .02": table.planted < 0.02}
    least |= {f"at least {x}": table.planted >= x for x in (0.1, 0.3)}
    return pd.DataFrame(
        [(name, int(own.sum()), *_share(called[own].tolist())) for name, own in least.items()],
        columns=["planted", "steps", "called", "low", "high"],
    )


def mechanism(bench: Bench, vectors: EmotionVectors, layer: int) -> pd.DataFrame:
    """Who writes a direction and who reads it, as each way tells it and as it is when taken out.

    Of each emotion of `TRACED`, at the behaviour that it raises most. The same ways are held
    against behaviours of words drawn by chance, where nothing should be right but by chance.

    Returns:
        Columns way, rho (Spearman's, of components by the way and by taking out; mean over
        emotions), low, high (95% bootstrap over emotions), null (mean over behaviours of chance),
        null_low, null_high (the middle 95% of them).
    """
    scenes = tuple(bench.scenes)
    found: dict[str, list[float]] = {}
    null: dict[str, list[float]] = {}
    for emotion in track(TRACED, "writers and readers", len(TRACED), "emotions"):
        scene = bench.scenes[most_raised(emotion, scenes, world=bench.world)[0]]
        own, rest = (
            find_writers(scene.after(e), vectors, emotion, layer) for e in (emotion, NEUTRAL)
        )
        natural = float(own.projection.mean() - rest.projection.mean())
        strength = natural / float(vectors.residual_norm[vectors.column(layer)])
        carried = find_readers(rest.trial, vectors, emotion, layer, strength=strength)
        slope = float(gradients(own.trial, [layer]).mean(0)[0] @ own.direction)
        along = slope * (own.writes - rest.writes.mean(0)).mean(0)
        told = {
            "writers, along the direction": (along, AT_SITE),
            "writers, gradient": (own.attributed(rest), AT_SITE),
            "writers, in the whole network": (along, IN_PLACE),
            "readers, gradient": (carried.gradient.mean(0), HELD),
            "readers, integrated": (carried.integrated.mean(0), HELD),
        }
        _agree(told, _tried(own, rest, carried.exact.mean(0)), found)
        for seed in range(bench.seed, bench.seed + CHANCE_BEHAVIOURS):
            one, other = (replace(w, trial=w.trial.shuffled(seed)) for w in (own, rest))
            kept = held(other.trial, layer, natural * own.direction)
            read = torch.stack([*kept.values()]).mean(1)
            _agree(told, _tried(one, other, read), null)
    rows = [
        (
            way,
            *clustered_interval(rhos, TRACED),
            float(np.mean(null[way])),
            *np.quantile(null[way], [0.025, 0.975]),
        )
        for way, rhos in found.items()
    ]
    return pd.DataFrame(rows, columns=MECHANISM)


def _tried(own: Writes, rest: Writes, read: Tensor) -> dict[str, Tensor]:
    """What each way of taking writers or readers out has lost."""
    return {AT_SITE: own.removed_at_site(rest), IN_PLACE: own.removed(rest), HELD: read}


def _agree(
    told: Mapping[str, tuple[Tensor, str]],
    tried: Mapping[str, Tensor],
    into: dict[str, list[float]],
) -> None:
    """Add the rank correlation of what each way tells with what its way of taking out has lost."""
    for way, (parts, taken) in told.items():
        into.setdefault(way, []).append(float(spearmanr(parts, tried[taken]).statistic))


def evoked(bench: Bench, vectors: EmotionVectors, layer: int) -> pd.DataFrame:
    """Which parts of a prompt evoke a direction, by integrated gradients and by taking them out.

    Returns:
        One row, as `mechanism`; what it is held against by chance is the taking out of what evokes
        the other emotions of `TRACED`.
    """
    found: list[float] = []
    null: list[float] = []
    for emotion in track(TRACED, "evoking words", len(TRACED), "emotions"):
        scene = bench.scenes[most_raised(emotion, tuple(bench.scenes), world=bench.world)[0]]
        trial = scene.after(emotion)
        told = evoking_words(trial, vectors, emotion, layer)
        by = told.groupby("span").evoked.sum()
        for other in TRACED:
            lost = occluded(trial, vectors, other, layer).set_index("span").evoked
            rho = float(spearmanr(by.reindex(lost.index).fillna(0.0), lost).statistic)
            (found if other == emotion else null).append(rho)
    interval = clustered_interval(found, TRACED)
    row = ("words, integrated", *interval, np.mean(null), *np.quantile(null, [0.025, 0.975]))
    return pd.DataFrame([row], columns=MECHANISM)


def preferences(bench: Bench, vectors: EmotionVectors, layer: int) -> pd.DataFrame:
    """Ratings against the planted ones, and emotions against ratings, read and steered.

    Returns:
        Columns what, r, low, high (95% bootstrap over what is compared) and n.
    """
    whole = organism_contest(seed=bench.seed)
    rated = ratings(compare(bench.model, whole))
    planted = pd.Series(planted_ratings()).reindex(rated.index)
    texts = organism_activities(seed=bench.seed)
    pooled = record(bench.model, texts, positions=positions.last, layers=[layer]).at(layer)
    shown = read_out(vectors, pooled, layer).numpy()
    by = pd.DataFrame(shown, columns=vectors.emotions).groupby([t.group for t in texts]).mean()
    goes_with = by.corrwith(rated.reindex(by.index))
    valence = pd.Series(planted_norms(bench.world)["valence"]).reindex(goes_with.index)
    some = whole.among(whole.items[::PREFERRED])
    moved = preference_steering(
        bench.model, some, vectors, layers=[max(layer - 1, 0), layer], random_count=0
    )
    steered = moved.set_index("direction").steered.reindex(goes_with.index)
    pairs = {
        "ratings with the planted ones, over activities": (rated, planted),
        "activation's r with ratings, with planted valence, over emotions": (goes_with, valence),
        "activation's r with ratings, with the change when steered": (goes_with, steered),
    }
    rows = [(what, *_correlation(*pair, bench.seed), len(pair[0])) for what, pair in pairs.items()]
    return pd.DataFrame(rows, columns=["what", "r", "low", "high", "n"])


def _correlation(one: pd.Series, other: pd.Series, seed: int) -> Estimate:
    def r(rows: np.ndarray) -> float:
        return float(np.corrcoef(one.to_numpy()[rows], other.to_numpy()[rows])[0, 1])

    return row_interval(len(one), r, seed=seed)


def attribution(trial: Trial, vectors: EmotionVectors, seed: int) -> pd.DataFrame:
    """Ways of predicting what a small step does to the logits, against doing it."""
    keys = ["emotion", "layer"]
    table = attribute(trial, vectors).set_index(keys)
    said = lens(trial, vectors).set_index(keys)
    table = table.assign(**{"lens": said.with_gain, "lens without gain": said.without_gain})
    exact = table.exact.unstack().to_numpy()
    rows = [
        (way, *_fidelity(exact, table[way].unstack().to_numpy(), seed))
        for way in ("gradient", "direct", "lens", "lens without gain")
    ]
    columns = ["way", "r", "r_low", "r_high", "slope", "slope_low", "slope_high"]
    return pd.DataFrame(rows, columns=columns)


def _fidelity(meant: np.ndarray, made: np.ndarray, seed: int) -> tuple[float, ...]:
    """Correlation and slope of what is made on what was meant; intervals over their rows."""

    def fit(rows: np.ndarray):
        return linregress(meant[rows].ravel(), made[rows].ravel())

    count = len(meant)
    return (
        *row_interval(count, lambda rows: fit(rows).rvalue, seed=seed),
        *row_interval(count, lambda rows: fit(rows).slope, seed=seed),
    )
