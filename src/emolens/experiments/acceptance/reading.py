"""What can be read from the organism: lens, probes, the plane, who feels what."""

from collections.abc import Iterator

import pandas as pd
import torch

from emolens import positions
from emolens.activations import Activations
from emolens.experiments.acceptance.check import Check
from emolens.geometry import circumplex
from emolens.model import HookedModel
from emolens.organism import (
    organism_behaviour,
    planted_norms,
)
from emolens.organism.texts import contrasts
from emolens.organism.world import load_world
from emolens.probes import probe_layers
from emolens.readout import logit_lens
from emolens.recording import record
from emolens.sites import two_thirds
from emolens.vectors import EmotionVectors, centred_cosine


def reading(
    model: HookedModel, vectors: EmotionVectors, stories: Activations, seed: int, graph: str
) -> Iterator[Check]:
    """Lens, probes, the plane of valence and arousal, and who feels what, at two thirds depth."""
    layer = two_thirds(range(model.n_layers))
    found = named(model, vectors, layer, graph)
    yield Check(f"lens, name or synonym in top 10, layer {layer}", found, least=0.9)
    probe = probe_layers(stories, seed=seed)
    yield Check("probe, held-out templates, story mean", accuracy(probe, layer), least=0.85)
    world = load_world()
    decisions = organism_behaviour(emotions=tuple(world.emotions), per_emotion=27, seed=seed)
    at_decision = record(model, decisions.prompts, positions=positions.last)
    found = accuracy(probe_layers(at_decision, seed=seed), layer)
    yield Check("probe, held-out templates, decision", found, least=0.95)
    plane = circumplex(vectors, [layer], planted_norms()).set_index("axis").r2
    yield Check(f"R2 of valence on PC1-2, layer {layer}", plane["valence"], least=0.8)
    yield Check(f"R2 of arousal on PC1-2, layer {layer}", plane["arousal"], least=0.5)
    yield from felt(model, vectors, layer, seed)


def named(model: HookedModel, vectors: EmotionVectors, layer: int, graph: str) -> float:
    """Share of emotions whose name or synonym is among the ten words their vector raises most."""
    world = load_world(graph)
    own = {e: (world.emotion(e).word, world.emotion(e).synonym) for e in vectors.emotions}
    lens = logit_lens(model, vectors, own=own)
    return float(lens[lens.layer == layer].groupby("emotion").own.any().mean())


def accuracy(probe: pd.DataFrame, layer: int) -> float:
    return float(probe[(probe.method == "logistic") & (probe.layer == layer)].accuracy.iloc[0])


CONTRASTS = {
    "mask": "felt against shown",
    "turn": "own against other speaker, end of turn",
    "dialogue": "own against other speaker, later decision",
}


def felt(model: HookedModel, vectors: EmotionVectors, layer: int, seed: int) -> Iterator[Check]:
    """Which of two emotions in a text is felt, at its last word (chance .5)?"""
    column = vectors.column(layer)
    for opening, name in CONTRASTS.items():
        drawn = contrasts(load_world(), opening, 400, seed)
        texts = tuple(text for text, _ in drawn)
        residual = record(model, texts, layers=[layer], positions=positions.last).at(layer)
        cosine = centred_cosine(vectors.at(layer), vectors.mean[column], residual)
        rows = torch.arange(len(texts))
        own = cosine[rows, [vectors.row(text.emotion) for text in texts]]
        other = cosine[rows, [vectors.row(emotion) for _, emotion in drawn]]
        right = float((own > other).double().mean())
        yield Check(f"{name}, balanced accuracy (chance .5)", right, least=0.85)
