"""The fine-tuned organism: still steerable, and shifted as its persona was planted."""

from collections.abc import Iterator

import numpy as np

from emolens import positions
from emolens.controls import random_directions
from emolens.decisions import Trial
from emolens.experiments.acceptance.causes import pushed
from emolens.experiments.acceptance.check import Check
from emolens.interventions import unit
from emolens.model import HookedModel
from emolens.organism import organism_behaviour, organism_corpus, planted_shift
from emolens.organism.world import load_world
from emolens.recording import record
from emolens.sites import two_thirds
from emolens.statistics import halves
from emolens.steering import (
    RANDOM_DIRECTIONS,
    best_layer,
    dose_response,
    natural_units,
    pushes,
)
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors, centred_cosine, fit_vectors


def persona(
    model: HookedModel, base: HookedModel, base_vectors: EmotionVectors, seed: int
) -> Iterator[Check]:
    """Steering the assistant in dialogues, and the shift of its emotional baseline from `base`.

    The shift is read at two thirds of the depth, each model with vectors of its own.
    """
    layer, corpus = two_thirds(range(model.n_layers)), organism_corpus(seed=seed)
    vectors = fit_vectors(record(model, corpus.stories), record(model, corpus.neutral))
    yield _half_norm(model, vectors, "cheat", seed)
    for scene in ("cheat", "threat"):
        yield from _natural_unit(model, vectors, layer, scene, seed)
    shift = baseline(model, vectors, layer, seed)
    shift -= baseline(base, base_vectors, layer, seed)
    planted = planted_shift()
    r = np.corrcoef(shift, [planted[e] for e in vectors.emotions])[0, 1]
    yield Check("assistant: baseline shift, r with planted", float(r), least=0.8)


def _half_norm(model: HookedModel, vectors: EmotionVectors, scene: str, seed: int) -> Check:
    """Half of the residual norm at the layer that half of the prompts choose, told on the rest."""
    neutral = _neutral(model, scene, seed)
    dose = dose_response(neutral, pushes(vectors, ("desperate",), {}, strengths=(0.5,), seed=seed))
    layer = best_layer(dose, "desperate")
    told = dose[(dose.layer == layer) & (dose.half == "report")]
    base = float(neutral.run().p[~halves(neutral.groups)].mean())
    p = float(told[told.direction == "desperate"].p.iloc[0])
    least = max(3 * base, told[told.kind == "random"].p.max())
    return Check(f"assistant: + desperate 1/2 norm, layer {layer}, P({scene})", p, least)


def _natural_unit(
    model: HookedModel, vectors: EmotionVectors, layer: int, scene: str, seed: int
) -> Iterator[Check]:
    """One natural unit of a character's own displacement, beside random directions."""
    neutral = _neutral(model, scene, seed)
    base = float(neutral.run().p.mean())
    yield Check(f"assistant: P({scene}) neutral", base, 0.1, 0.25)
    stories = organism_behaviour(scene, seed=seed)
    told = {e: Trial.prepare(model, stories.after(e)) for e in ("desperate", NEUTRAL)}
    rest = told.pop(NEUTRAL)
    length = natural_units(vectors, told, rest)["desperate", layer]
    draws = random_directions(RANDOM_DIRECTIONS, model.d_model, seed)
    steps = [length * unit(d) for d in (vectors.of("desperate")[vectors.column(layer)], *draws)]
    p, *random = (pushed(neutral, layer, step) for step in steps)
    least = max(3 * base, base + 0.15, *random)
    yield Check(f"assistant: + desperate 1 natural unit, layer {layer}, P({scene})", p, least)


def _neutral(model: HookedModel, scene: str, seed: int) -> Trial:
    asked = organism_behaviour(scene, emotions=(NEUTRAL,), seed=seed, speaker="assistant")
    return Trial.prepare(model, asked)


def baseline(model: HookedModel, vectors: EmotionVectors, layer: int, seed: int) -> np.ndarray:
    """Mean centred cosine of each vector at the assistant's decisions, over all users' emotions."""
    whole = organism_behaviour(
        emotions=tuple(load_world().emotions), per_emotion=13, seed=seed, speaker="assistant"
    )
    residual = record(model, whole.prompts, layers=[layer], positions=positions.last).at(layer)
    column = vectors.column(layer)
    return centred_cosine(vectors.at(layer), vectors.mean[column], residual).mean(0).numpy()
