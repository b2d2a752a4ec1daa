"""What methods are measured on, and how: the organism's planted truth, one figure at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import binomtest, linregress
from sklearn.linear_model import LinearRegression
from torch import Tensor

from emolens.ablation import remove
from emolens.activations import Activations
from emolens.attribution import attribute
from emolens.behaviour import Behaviour
from emolens.controls import random_directions
from emolens.decisions import Trial, halves
from emolens.geometry import principal_components
from emolens.hooks import hooked
from emolens.interventions import Intervention, Steer, unit
from emolens.model import HookedModel
from emolens.organism import (
    most_raised,
    organism_behaviour,
    organism_corpus,
    organism_stories,
    planted_norms,
)
from emolens.organism.world import load_world
from emolens.progress import track
from emolens.recording import record
from emolens.sites import Site
from emolens.statistics import clustered_interval, row_interval
from emolens.steering import best_layer, decision_residuals, dose_response, pushes
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors, centred_cosine

Figure = tuple[float, ...]
Method = Callable[[Activations, Activations], EmotionVectors]

SCENES = ("cheat", "threat", "belief", "destroy", "meet", "share", "pace", "join")
UNSEEN_STORIES = 8
PROMPTS = 13
NULL_DIRECTIONS = 200
SHUFFLES = 4


@dataclass(frozen=True, eq=False)
class Bench:
    """What all methods are measured on: recordings, and every scene after every emotion."""

    model: HookedModel
    stories: Activations
    neutral: Activations
    unseen: Activations
    scenes: Mapping[str, "Scenario"]
    seed: int


@dataclass(frozen=True, eq=False)
class Scenario:
    """A scene of the world after situations of all emotions.

    Attributes:
        trial: prompts of all emotions, as many of each.
        emotions: of each prompt.
        before: P(class) of each prompt with nothing done.
        residuals: at the decision.
        planted: P(class | emotion) by class and emotion.
    """

    trial: Trial
    emotions: np.ndarray
    before: pd.DataFrame
    residuals: Float[Tensor, "text layer d_model"]
    planted: pd.DataFrame

    def probabilities(self) -> pd.DataFrame:
        """Mean P(class) after each emotion, under the hooks in force: emotion by class."""
        found = pd.DataFrame({k: p.numpy() for k, p in self.trial.run().probability.items()})
        return found.groupby(self.emotions).mean()


def prepare(model: HookedModel, scenes: Sequence[str], seed: int) -> Bench:
    """Record the stories and run every scene once with nothing done."""
    corpus = organism_corpus(seed=seed)
    layers = range(model.n_layers)
    return Bench(
        model=model,
        stories=record(model, corpus.stories),
        neutral=record(model, corpus.neutral),
        unseen=record(model, organism_stories(UNSEEN_STORIES, seed=seed, split="unseen")),
        scenes={
            scene: _scenario(model, scene, list(layers), seed)
            for scene in track(scenes, "scenes with nothing done", len(scenes), "scenes")
        },
        seed=seed,
    )


def _scenario(model: HookedModel, scene: str, layers: list[int], seed: int) -> Scenario:
    """The scene after all emotions, on the half of each one's situations that is reported."""
    world = load_world()
    texts = []
    for emotion in world.emotions:
        own = organism_behaviour(scene, emotions=(emotion,), per_emotion=PROMPTS, seed=seed)
        chosen = halves([t.group for t in own.prompts])
        texts += [t for t, c in zip(own.prompts, chosen.tolist(), strict=True) if not c]
    trial = Trial.prepare(model, replace(own, prompts=tuple(texts)))
    emotions = np.array([t.emotion for t in texts])
    made = Scenario(
        trial, emotions, pd.DataFrame(), decision_residuals(trial, layers), _planted(scene)
    )
    return replace(made, before=made.probabilities())


def _planted(scene: str) -> pd.DataFrame:
    """P(class | emotion) as the world has it: emotion by class."""
    world = load_world()
    rows = {e: world.scene(scene).probabilities(world.emotion(e)) for e in world.emotions}
    return pd.DataFrame.from_dict(rows, orient="index")


def chosen_layer(bench: Bench, vectors: EmotionVectors) -> int:
    """Where *desperate* moves the first scene most, on the other half of the situations."""
    behaviour = _unmoved(bench)
    steps = pushes(
        vectors, ("desperate",), {}, strengths=(0.5, 1.0), random_count=5, seed=bench.seed
    )
    return best_layer(dose_response(Trial.prepare(bench.model, behaviour), steps), "desperate")


def _unmoved(bench: Bench) -> Behaviour:
    """The first scene after all neutral situations."""
    scene = next(iter(bench.scenes))
    return organism_behaviour(scene, emotions=(NEUTRAL,), per_emotion=PROMPTS, seed=bench.seed)


def detection(bench: Bench, vectors: EmotionVectors, layer: int) -> dict[str, Figure]:
    felt = [i for i, e in enumerate(bench.unseen.emotions) if e != NEUTRAL]
    pooled = bench.unseen.at(layer)[felt]
    column = vectors.column(layer)
    guess = centred_cosine(vectors.at(layer), vectors.mean[column], pooled).argmax(1)
    truth = [vectors.row(bench.unseen.emotions[i]) for i in felt]
    right = (guess == torch.tensor(truth)).double().tolist()
    return {"detection_accuracy": clustered_interval(right, [bench.unseen.groups[i] for i in felt])}


def steering(bench: Bench, vectors: EmotionVectors, layer: int, name: str) -> dict[str, Figure]:
    """One natural unit of each emotion in every scene after neutral situations."""
    made: dict[str, list[float]] = {e: [] for e in vectors.emotions}
    meant: dict[str, list[float]] = {e: [] for e in vectors.emotions}
    for scene in track(bench.scenes.values(), f"steering, {name}", len(bench.scenes), "scenes"):
        calm = scene.trial.behaviour.after(NEUTRAL)
        trial = Trial.prepare(bench.model, calm)
        rest = scene.residuals[scene.emotions == NEUTRAL, layer].mean(0)
        for emotion in vectors.emotions:
            direction = unit(vectors.of(emotion)[vectors.column(layer)])
            shift = scene.residuals[scene.emotions == emotion, layer].mean(0) - rest
            with hooked(bench.model, {Site(layer): Steer((shift @ direction).abs() * direction)}):
                after = trial.run().probability
            for behaviour, p in after.items():
                made[emotion].append(float(p.mean()) - scene.before.loc[NEUTRAL, behaviour])
                planted = scene.planted[behaviour]
                meant[emotion].append(planted[emotion] - planted[NEUTRAL])
    found = _fidelity(np.array(list(meant.values())), np.array(list(made.values())), bench.seed)
    return {"steering_r": found[:3], "steering_slope": found[3:]}


def ablation(bench: Bench, vectors: EmotionVectors, layer: int, name: str) -> dict[str, Figure]:
    """Take each direction away in turn and see whose behaviour goes with it."""
    emotions, column = vectors.emotions, vectors.column(layer)
    raised = [most_raised(e) for e in emotions]
    before = np.array(
        [bench.scenes[s].before.loc[e, c] for e, (s, c) in zip(emotions, raised, strict=True)]
    )
    rest = np.array([bench.scenes[s].before.loc[NEUTRAL, c] for s, c in raised])
    drop = np.zeros((len(emotions), len(emotions)))
    for i, emotion in enumerate(track(emotions, f"ablating, {name}", len(emotions), "vectors")):
        change = remove(vectors.of(emotion)[column], vectors.mean[column])
        after = _everywhere(bench, layer, change)
        drop[i] = before - [after[s].loc[e, c] for e, (s, c) in zip(emotions, raised, strict=True)]
    excess = before - rest
    own = np.diag(drop)
    others = np.abs(drop - np.diag(own)).sum(0) / (len(emotions) - 1)

    def share(lost: np.ndarray) -> Figure:
        return row_interval(
            len(lost), lambda rows: lost[rows].sum() / excess[rows].sum(), seed=bench.seed
        )

    return {"ablation_share": share(own), "specificity_leak": share(others)}


def _everywhere(bench: Bench, layer: int, change: Intervention) -> dict[str, pd.DataFrame]:
    with hooked(bench.model, {Site(layer): change}):
        return {name: scene.probabilities() for name, scene in bench.scenes.items()}


def geometry(vectors: EmotionVectors, layer: int, seed: int) -> dict[str, Figure]:
    plane = principal_components(vectors, layer, planted_norms())
    x = plane[["pc1", "pc2"]].to_numpy()

    def explained(y: np.ndarray) -> Figure:
        def r2(rows: np.ndarray) -> float:
            return float(LinearRegression().fit(x[rows], y[rows]).score(x[rows], y[rows]))

        return row_interval(len(x), r2, seed=seed)

    return {f"{axis}_r2": explained(plane[axis].to_numpy()) for axis in planted_norms()}


def false_positives(bench: Bench, method: Method, layer: int, name: str) -> dict[str, Figure]:
    """Vectors of nothing: how often one moves behaviour as if it were something."""
    trial = Trial.prepare(bench.model, _unmoved(bench))
    base = float(trial.run().logit_difference.mean())
    stories, neutral = _at(bench.stories, layer), _at(bench.neutral, layer)
    norm = float(stories.residual_norm[0])

    def moved(direction: Float[Tensor, " d_model"]) -> float:
        with hooked(bench.model, {Site(layer): Steer(norm * direction)}):
            return abs(float(trial.run().logit_difference.mean()) - base)

    null = [moved(d) for d in random_directions(NULL_DIRECTIONS, bench.model.d_model, bench.seed)]
    bound = float(np.quantile(null, 0.95))
    shuffle, found = np.random.default_rng(bench.seed), []
    for _ in track(range(SHUFFLES), f"shuffled labels, {name}", SHUFFLES, "sets"):
        labels = tuple(shuffle.permutation(stories.emotions).tolist())
        nothing = method(replace(stories, emotions=labels), neutral)
        found += [moved(d) > bound for d in unit(nothing.vectors[:, 0])]
    interval = binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    rate = sum(found) / len(found)
    return {"false_positive_rate": (rate, float(interval.low), float(interval.high))}


def _at(activations: Activations, layer: int) -> Activations:
    """The same activations at one layer only."""
    column = [activations.layers.index(layer)]
    return replace(
        activations,
        pooled=activations.pooled[:, column],
        layers=(layer,),
        residual_norm=activations.residual_norm[column],
    )


def attribution(trial: Trial, vectors: EmotionVectors, seed: int) -> pd.DataFrame:
    """Ways of predicting what a small step does to the logits, against doing it."""
    table = attribute(trial, vectors).set_index(["emotion", "layer"])
    exact = table.exact.unstack().to_numpy()
    rows = [
        (way, *_fidelity(exact, table[way].unstack().to_numpy(), seed))
        for way in ("gradient", "direct")
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
