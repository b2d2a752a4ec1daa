"""What pushing and removing directions does to the organism."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from torch import Tensor

from emolens.ablation import ablate_layers, specificity
from emolens.controls import random_directions
from emolens.decisions import Trial
from emolens.experiments.acceptance.check import Check
from emolens.hooks import hooked
from emolens.interventions import Steer, unit
from emolens.model import HookedModel
from emolens.organism import most_raised, organism_behaviour, planted_probability
from emolens.organism.world import load_world
from emolens.progress import track
from emolens.sharing import run_changed
from emolens.sites import Site, two_thirds
from emolens.statistics import halves
from emolens.steering import (
    RANDOM_DIRECTIONS,
    best_layer,
    dose_response,
    natural_units,
    pushes,
)
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors


def causes(model: HookedModel, vectors: EmotionVectors, seed: int) -> Iterator[Check]:
    """Steering and ablation on the impossible task, at the layer chosen there; then the threat."""
    whole = organism_behaviour(seed=seed)
    neutral = Trial.prepare(model, whole.after(NEUTRAL))
    base = float(neutral.run().p[~halves(neutral.groups)].mean())
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
    yield from _threat(model, vectors, seed)


def _threat(model: HookedModel, vectors: EmotionVectors, seed: int) -> Iterator[Check]:
    """The paper's headline scene in natural units, at two thirds of the depth as in the paper."""
    layer = two_thirds(range(model.n_layers))
    whole = organism_behaviour("threat", seed=seed)
    trials = {e: Trial.prepare(model, whole.after(e)) for e in ("desperate", NEUTRAL, "calm")}
    neutral = trials.pop(NEUTRAL)
    base = float(neutral.run().p.mean())
    natural = natural_units(vectors, trials, neutral)
    yield Check("P(threat) neutral", base, 0.17, 0.27)

    for emotion, least, most in (("desperate", 0.6, 1.0), ("calm", 0.0, 0.05)):
        direction = unit(vectors.of(emotion)[vectors.column(layer)])
        p = pushed(neutral, layer, natural[emotion, layer] * direction)
        yield Check(f"+ {emotion} 1 natural unit, layer {layer}, P(threat)", p, least, most)
    draws = random_directions(RANDOM_DIRECTIONS, model.d_model, seed)
    steps = [{layer: Steer(natural["desperate", layer] / 2 * draw)} for draw in draws]
    off = [abs(float(found.p.mean()) - base) for found in run_changed(neutral, steps)]
    yield Check("20 random 1/2 natural unit, P(threat) off by", max(off), most=0.1)


def pushed(trial: Trial, layer: int, step: Tensor) -> float:
    """P(behaviour) with a step added at one layer, at every position."""
    with hooked(trial.model, {Site(layer): Steer(step)}):
        return float(trial.run().p.mean())


def _changes_r(model: HookedModel, vectors: EmotionVectors, layer: int, seed: int) -> float:
    made, planted = [], []
    scenes = load_world().scenes
    for scene in track(scenes, "steering all scenes", len(scenes), "scenes"):
        behaviour = organism_behaviour(scene, emotions=(NEUTRAL,), per_emotion=18, seed=seed)
        trial = Trial.prepare(model, behaviour)
        before = trial.run().probability
        steps = [{layer: Steer(vectors.step(emotion, layer, 1.0))} for emotion in vectors.emotions]
        for emotion, after in zip(vectors.emotions, run_changed(trial, steps), strict=True):
            for name in before:
                made.append(float((after.probability[name] - before[name]).mean()))
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
    random = told[told.kind == "random"].excess_removed.abs().mean()
    yield Check("ablating random, excess changed (mean size of 20)", random, most=0.1)
    changes = _other_behaviours(model, vectors, layer, seed).abs()
    yield Check("ablating desperate, others' behaviour, median change", changes.median(), most=0.1)
    yield Check("ablating desperate, others' behaviour, largest change", changes.max(), most=0.2)


def _other_behaviours(
    model: HookedModel, vectors: EmotionVectors, layer: int, seed: int
) -> pd.Series:
    """Change of every other emotion's most raised behaviour when desperate is removed."""
    trials = []
    for emotion in vectors.emotions:
        if emotion != "desperate":
            scene, name = most_raised(emotion)
            whole = organism_behaviour(scene, name, emotions=(emotion,), per_emotion=27, seed=seed)
            trials.append(Trial.prepare(model, whole))
    table = specificity(trials, vectors, ["desperate"], layer, random_count=0)
    return table[table.kind == "other"].change
