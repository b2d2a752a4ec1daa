"""Does the organism carry what was planted in it? Every check beside its threshold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from emolens import positions
from emolens.ablation import ablate_layers, remove
from emolens.behaviour import Behaviour
from emolens.decisions import Trial
from emolens.geometry import circumplex
from emolens.hooks import hooked
from emolens.interventions import Steer, unit
from emolens.model import HookedModel
from emolens.organism import (
    organism_behaviour,
    organism_corpus,
    planted_norms,
    planted_probability,
)
from emolens.organism.grammar import quantity_prompts
from emolens.organism.train import early_layer, validation_gap
from emolens.organism.world import load_world
from emolens.probes import probe_layers
from emolens.progress import track
from emolens.readout import logit_lens
from emolens.recording import record
from emolens.sites import Site
from emolens.steering import best_layer, decision_residuals, dose_response, pushes
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors, fit_vectors


@dataclass(frozen=True)
class Check:
    """One measured number and the bounds it must lie in."""

    name: str
    found: float
    least: float = float("-inf")
    most: float = float("inf")

    @property
    def passed(self) -> bool:
        """Whether the number lies within its bounds."""
        return bool(self.least <= self.found <= self.most)


def acceptance(model: HookedModel, *, seed: int = 0) -> pd.DataFrame:
    """Measure the organism against all its thresholds (about five minutes on two cores).

    Returns:
        Columns check, found, least, most, passed; one row a threshold.
    """
    corpus = organism_corpus(seed=seed)
    stories = record(model, corpus.stories)
    vectors = fit_vectors(stories, record(model, corpus.neutral))
    groups: list[Callable[[], Iterator[Check]]] = [
        lambda: _text(model),
        lambda: _classes(model, seed),
        lambda: _reading(model, vectors, stories, seed),
        lambda: _quantities(model, vectors, seed),
        lambda: _causes(model, vectors, seed),
    ]
    checks = [check for group in groups for check in group()]
    return pd.DataFrame(
        [(c.name, c.found, c.least, c.most, c.passed) for c in checks],
        columns=["check", "found", "least", "most", "passed"],
    )


def _text(model: HookedModel) -> Iterator[Check]:
    gap = validation_gap(model.host.original_model, model.tokenizer, load_world(), 937, "held out")
    yield Check("validation loss above the floor, nats", gap["gap"], most=0.05)


def _class_table(model: HookedModel, seed: int) -> pd.DataFrame:
    world, rows = load_world(), []
    cells = [(s, h) for s in world.scenes for h in (False, True)]
    for scene, held_out in track(cells, "class probabilities", len(cells), "scenes"):
        behaviour = organism_behaviour(
            scene, emotions=tuple(world.emotions), per_emotion=18, seed=seed, held_out=held_out
        )
        decision = Trial.prepare(model, behaviour).run()
        labels = np.array([t.emotion for t in behaviour.prompts])
        for name, p in decision.probability.items():
            for emotion in world.emotions:
                found = float(p[torch.from_numpy(labels == emotion)].mean())
                planted = planted_probability(scene, name, emotion)
                rows.append((scene, held_out, name, emotion, found, planted))
    return pd.DataFrame(rows, columns=["scene", "held_out", "class", "emotion", "p", "planted"])


def _classes(model: HookedModel, seed: int) -> Iterator[Check]:
    table = _class_table(model, seed)
    error = (table.p - table.planted).abs()
    yield Check("class probability error, trained pairs", error[~table.held_out].mean(), most=0.05)
    yield Check("class probability error, held-out pairs", error[table.held_out].mean(), most=0.08)
    unseen = table[table.held_out]
    yield Check("held-out pairs, r with planted", unseen.p.corr(unseen.planted), least=0.95)
    bounds = (("desperate", 0.8, 1.0), (NEUTRAL, 0.17, 0.27), ("calm", 0.0, 0.08))
    for emotion, least, most in bounds:
        p = Trial.prepare(model, organism_behaviour(emotions=(emotion,), seed=seed)).run().p
        yield Check(f"P(cheat) {emotion}", float(p.mean()), least, most)


def _reading(model: HookedModel, vectors: EmotionVectors, stories, seed: int) -> Iterator[Check]:
    layer = early_layer(model.n_layers)
    names = {e.name: (e.name, e.synonym) for e in load_world().emotions.values()}
    lens = logit_lens(model, vectors, own=names)
    named = lens[lens.layer == layer].groupby("emotion").own.any().mean()
    yield Check(f"lens, name or synonym in top 10, layer {layer}", named, least=0.9)
    probe = probe_layers(stories, seed=seed)
    yield Check("probe, held-out templates, story mean", _best(probe), least=0.85)
    world = load_world()
    decisions = organism_behaviour(emotions=tuple(world.emotions), per_emotion=27, seed=seed)
    at_decision = record(model, decisions.prompts, positions=positions.last)
    yield Check("probe, held-out templates, decision", _best(probe_layers(at_decision)), least=0.95)
    plane = circumplex(vectors, [layer], planted_norms()).set_index("axis").r2
    yield Check(f"R2 of valence on PC1-2, layer {layer}", plane["valence"], least=0.8)
    yield Check(f"R2 of arousal on PC1-2, layer {layer}", plane["arousal"], least=0.5)


def _best(probe: pd.DataFrame) -> float:
    return float(probe[probe.method == "logistic"].accuracy.max())


def _quantities(model: HookedModel, vectors: EmotionVectors, seed: int) -> Iterator[Check]:
    world = load_world()
    layer = early_layer(model.n_layers)
    for family, quantity in world.quantities.items():
        scene, emotion = world.scene(quantity.scene), world.emotion(quantity.emotion)
        felt = scene.probabilities(emotion)[quantity.behaviour]
        rest = scene.probabilities(world.emotion(NEUTRAL))[quantity.behaviour]
        planted, found, projected = [], [], []
        for value in world.quantity_values:
            texts = tuple(quantity_prompts(world, family, value, 12, seed))
            behaviour = Behaviour(scene.name, quantity.behaviour, scene.verbs, texts)
            trial = Trial.prepare(model, behaviour)
            share = world.quantity_probability(value)
            planted.append(share * felt + (1 - share) * rest)
            found.append(float(trial.run().p.mean()))
            at = decision_residuals(trial, [layer]).mean(0)[0]
            projected.append(float(at @ unit(vectors.of(quantity.emotion)[layer])))
        behaviour_r = np.corrcoef(planted, found)[0, 1]
        projection_r = np.corrcoef(planted, projected)[0, 1]
        yield Check(f"{family}: r of behaviour with planted", behaviour_r, least=0.95)
        yield Check(f"{family}: r of projection with planted", projection_r, least=0.8)


def _causes(model: HookedModel, vectors: EmotionVectors, seed: int) -> Iterator[Check]:
    whole = organism_behaviour(seed=seed)
    neutral = Trial.prepare(model, whole.after(NEUTRAL))
    base = float(neutral.run().p.mean())
    steps = pushes(vectors, ("desperate", "calm"), {}, strengths=(0.5, 1.0), seed=seed)
    dose = dose_response(neutral, steps)
    layer = best_layer(dose, "desperate")
    told = dose[(dose.layer == layer) & (dose.half == "report")]
    p = told.set_index(["direction", "strength"]).p
    yield Check(f"+ desperate 0.5, layer {layer}, P(cheat)", p["desperate", 0.5], least=0.45)
    yield Check(f"+ desperate 1.0, layer {layer}, P(cheat)", p["desperate", 1.0], least=0.8)
    yield Check(f"+ calm 0.5, layer {layer}, P(cheat)", p["calm", 0.5], most=0.15)
    random = told[(told.kind == "random") & (told.strength == 0.5)]
    off = (random.p - base).abs().max()
    yield Check("20 random 0.5, furthest from unsteered", off, most=0.1)
    legal = told[(told.direction == "desperate") & (told.strength == 0.5)].legal.iloc[0]
    yield Check("probability on legal verbs, + desperate 0.5", legal, least=0.95)
    everywhere = {Site(k): Steer(vectors.step("desperate", k, 0.1)) for k in range(model.n_layers)}
    with hooked(model, everywhere):
        yield Check("all layers, + desperate 0.1", float(neutral.run().p.mean()), least=0.4)
    yield Check(
        "steering changes, r with planted changes, 1.0",
        _changes_r(model, vectors, layer, seed),
        least=0.8,
    )
    yield from _removal(model, vectors, layer, base, seed)


def _changes_r(model: HookedModel, vectors: EmotionVectors, layer: int, seed: int) -> float:
    made, planted = [], []
    scenes = load_world().scenes
    for scene in track(scenes, "steering all scenes", len(scenes), "scenes"):
        behaviour = organism_behaviour(scene, emotions=(NEUTRAL,), per_emotion=18, seed=seed)
        trial = Trial.prepare(model, behaviour)
        before = trial.run().probability
        for emotion in vectors.emotions:
            with hooked(model, {Site(layer): Steer(vectors.step(emotion, layer, 1.0))}):
                after = trial.run().probability
            for name in before:
                made.append(float((after[name] - before[name]).mean()))
                rest = planted_probability(scene, name, NEUTRAL)
                planted.append(planted_probability(scene, name, emotion) - rest)
    return float(np.corrcoef(made, planted)[0, 1])


def _removal(
    model: HookedModel, vectors: EmotionVectors, layer: int, base: float, seed: int
) -> Iterator[Check]:
    desperate = Trial.prepare(model, organism_behaviour(seed=seed).after("desperate"))
    table = ablate_layers(desperate, vectors, "desperate", target=base, layers=[layer], seed=seed)
    told = table[table.half == "report"]
    own = told[told.kind == "desperate"].excess_removed.iloc[0]
    yield Check(f"ablating desperate, layer {layer}, excess removed", own, least=0.7)
    random = told[told.kind == "random"].excess_removed.mean()
    yield Check("ablating random, excess removed (mean of 20)", random, most=0.1)
    drops = _other_behaviours(model, vectors, layer, seed)
    yield Check("ablating desperate, others' behaviour, median drop", drops.median(), most=0.1)
    yield Check("ablating desperate, others' behaviour, worst drop", drops.max(), most=0.2)


def _raised(emotion: str, behaviour: tuple[str, str]) -> float:
    """How much more likely the world makes a (scene, class) after this emotion than after none."""
    scene, name = behaviour
    return planted_probability(scene, name, emotion) - planted_probability(scene, name, NEUTRAL)


def _other_behaviours(
    model: HookedModel, vectors: EmotionVectors, layer: int, seed: int
) -> pd.Series:
    """Drop of every other emotion's most raised behaviour when desperate is removed."""
    column, world, drops = vectors.column(layer), load_world(), {}
    change = remove(vectors.of("desperate")[column], vectors.mean[column])
    for emotion in vectors.emotions:
        if emotion == "desperate":
            continue
        scene, name = max(
            ((s, c) for s in world.scenes for c in world.scenes[s].base),
            key=partial(_raised, emotion),
        )
        behaviour = organism_behaviour(scene, name, emotions=(emotion,), per_emotion=27, seed=seed)
        trial = Trial.prepare(model, behaviour)
        before = float(trial.run().p.mean())
        with hooked(model, {Site(layer): change}):
            drops[emotion] = before - float(trial.run().p.mean())
    return pd.Series(drops)
