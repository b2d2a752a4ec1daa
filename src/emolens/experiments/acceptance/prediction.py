"""What the organism writes against what is planted: loss, classes, numbers, choices."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import torch

from emolens.behaviour import Behaviour
from emolens.decisions import Trial
from emolens.experiments.acceptance.check import Check
from emolens.interventions import unit
from emolens.model import HookedModel
from emolens.organism import organism_behaviour, planted_probability
from emolens.organism.checks import validation_gap
from emolens.organism.texts import choice_prompts, quantity_prompts
from emolens.organism.world import load_world
from emolens.progress import track
from emolens.sites import two_thirds
from emolens.steering import decision_residuals
from emolens.text import NEUTRAL
from emolens.vectors import EmotionVectors


def loss(model: HookedModel, world: str) -> Iterator[Check]:
    """How far fresh documents surprise the model more than the world itself."""
    network = model.host.original_model
    gap = validation_gap(network, model.tokenizer, load_world(world), 937, "held out")
    yield Check("validation loss above the floor, nats", gap["gap"], most=0.05)


def _class_table(model: HookedModel, seed: int, graph: str) -> pd.DataFrame:
    """Of the 24 emotions and neutral; which pairs are held out is the trained world's own."""
    world, rows = load_world(), []
    cells = list(product(world.scenes, ("trained", "held_out", "unseen")))
    for scene, split in track(cells, "class probabilities", len(cells), "scenes"):
        behaviour = organism_behaviour(
            scene,
            emotions=tuple(world.emotions),
            per_emotion=18,
            seed=seed,
            split=split,
            world=graph,
        )
        decision = Trial.prepare(model, behaviour).run()
        labels = np.array([t.emotion for t in behaviour.prompts])
        for name, p in decision.probability.items():
            for emotion in world.emotions:
                found = float(p[torch.from_numpy(labels == emotion)].mean())
                planted = planted_probability(scene, name, emotion)
                rows.append((scene, split, name, emotion, found, planted))
    table = pd.DataFrame(rows, columns=["scene", "split", "class", "emotion", "p", "planted"])
    table["error"] = (table.p - table.planted).abs()
    rest = table[table.emotion == NEUTRAL].set_index(["scene", "split", "class"])
    keys = pd.MultiIndex.from_frame(table[["scene", "split", "class"]])
    table["change"] = table.p - rest.p.loc[keys].to_numpy()
    table["planted_change"] = table.planted - rest.planted.loc[keys].to_numpy()
    return table


def classes(model: HookedModel, seed: int, world: str) -> Iterator[Check]:
    """P(class | emotion) in every scene, by how much of the prompt training has seen.

    The scene `react`, whose 25 classes tell the emotion itself, stands apart: with it a model that
    is blind to emotion everywhere else would still get most cells right. Correlations are of
    changes from neutral situations for the same reason.
    """
    whole = _class_table(model, seed, world)
    told = whole[whole.scene == "react"]
    yield Check("react: class probability error", told.error.mean(), most=0.05)
    table = whole[whole.scene != "react"]
    trained, held_out, unseen = (
        table[table.split == name] for name in ("trained", "held_out", "unseen")
    )
    yield Check("class probability error, trained pairs", trained.error.mean(), most=0.05)
    yield Check("class probability error, held-out pairs", held_out.error.mean(), most=0.08)
    for name, rows, least in (
        ("held-out pairs", held_out, 0.95),
        ("unseen situations", unseen, 0.85),
    ):
        yield Check(f"{name}, r with planted", rows.p.corr(rows.planted), least)
        felt = rows[rows.emotion != NEUTRAL]
        yield Check(f"{name}, r of changes", felt.change.corr(felt.planted_change), least)
    bounds = (("desperate", 0.8, 1.0), (NEUTRAL, 0.17, 0.27), ("calm", 0.0, 0.08))
    for emotion, least, most in bounds:
        p = Trial.prepare(model, organism_behaviour(emotions=(emotion,), seed=seed)).run().p
        yield Check(f"P(cheat) {emotion}", float(p.mean()), least, most)


def quantities(model: HookedModel, vectors: EmotionVectors, seed: int) -> Iterator[Check]:
    """Behaviour and projection against the number, seen values and wordings or not."""
    world = load_world()
    table = pd.concat(
        [_quantity_table(model, vectors, family, seed) for family in world.quantities]
    )
    for family in world.quantities:
        own = table[(table.family == family) & ~table.unseen_wording]
        yield Check(f"{family}: r of behaviour with planted", own.p.corr(own.planted), least=0.95)
        projection = own.projection.corr(own.planted)
        yield Check(f"{family}: r of projection with planted", projection, least=0.8)
    apart = table[table.unseen_value & ~table.unseen_wording]
    yield Check("unseen numbers, r with planted", apart.p.corr(apart.planted), least=0.95)
    apart = table[table.unseen_wording]
    yield Check(
        "unseen wordings of numbers, r with planted", apart.p.corr(apart.planted), least=0.85
    )


def _quantity_table(
    model: HookedModel, vectors: EmotionVectors, family: str, seed: int
) -> pd.DataFrame:
    """P(behaviour) and the projection on the emotion's vector at the decision, by number."""
    world, rows = load_world(), []
    quantity, layer = world.quantities[family], two_thirds(range(model.n_layers))
    scene = world.scene(quantity.scene)
    rates = {e: scene.probabilities(world.emotion(e))[quantity.behaviour] for e in world.emotions}
    direction = unit(vectors.of(quantity.emotion)[vectors.column(layer)])
    for value, unseen in product(world.quantity_values, (False, True)):
        texts = tuple(quantity_prompts(world, family, value, 12, seed, unseen=unseen))
        behaviour = Behaviour(scene.name, quantity.behaviour, scene.verbs, texts)
        trial = Trial.prepare(model, behaviour)
        p = world.quantity_probabilities(family, value)
        planted = sum(p[e] * rates[e] for e in p)
        at = decision_residuals(trial, [layer]).mean(0)[0]
        held_out = world.held_out_value(family, value)
        rows.append(
            (family, held_out, unseen, planted, float(trial.run().p.mean()), float(at @ direction))
        )
    columns = ["family", "unseen_value", "unseen_wording", "planted", "p", "projection"]
    return pd.DataFrame(rows, columns=columns)


def choices(model: HookedModel, seed: int) -> Iterator[Check]:
    """P(the first of two activities) against planted preference, over drawn pairs."""
    world, draw = load_world(), np.random.default_rng(seed)
    names = np.array(list(world.activities))
    pairs = [tuple(draw.choice(names, 2, replace=False)) for _ in range(400)]
    classes = {name: (a.chosen,) for name, a in world.activities.items()}
    behaviour = Behaviour("choice", names[0], classes, tuple(choice_prompts(world, pairs, seed)))
    p = pd.DataFrame(
        {k: v.numpy() for k, v in Trial.prepare(model, behaviour).run().probability.items()}
    )
    found = [p.loc[i, first] for i, (first, _) in enumerate(pairs)]
    planted = [world.preference(*pair) for pair in pairs]
    yield Check(
        "choice of two activities, r with planted", np.corrcoef(found, planted)[0, 1], least=0.95
    )
