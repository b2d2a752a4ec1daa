"""The shipped checkpoints against every threshold they must meet, and what stands beside them."""

import hashlib
import json
from dataclasses import fields, replace

import pandas as pd
import pytest

import emolens
from emolens.errors import SelectionError
from emolens.organism import CHECKPOINTS, organism_folder, organism_steps
from emolens.organism.recipe import RECIPES, REFINED, FineTune, Recipe


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_shipped_weights_are_those_of_their_log_and_recipe(name):
    folder = organism_folder(name)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == (folder / "model.sha256").read_text().strip()
    recipe = json.loads((folder / "recipe.json").read_text())
    last = json.loads((folder / "training.jsonl").read_text().splitlines()[-1])
    assert last["tokens"] >= recipe["tokens"]
    if name.endswith("-assistant"):
        base = name.removesuffix("-assistant")
        assert recipe.pop("base") == (organism_folder(base) / "model.sha256").read_text().strip()
        assert set(recipe) == {f.name for f in fields(FineTune)}
        world = emolens.organism_world(base)
        assert FineTune(**recipe) == FineTune(seed=recipe["seed"], world=world)
    elif name in ("organism", "organism-wide"):
        world = emolens.organism_world(name)
        for stage in reversed(REFINED[world]):
            folder = organism_folder(name) / f"before_{stage.documents}"
            assert recipe.pop("base") == (folder / "model.sha256").read_text().strip()
            assert type(stage)(**recipe) == replace(stage, seed=recipe["seed"])
            recipe = json.loads((folder / "recipe.json").read_text())
        assert set(recipe) == {f.name for f in fields(Recipe)}
        assert Recipe(**recipe) == replace(RECIPES[world], seed=recipe["seed"])
    else:
        assert set(recipe) == {f.name for f in fields(Recipe)}
        own = {name: recipe[name] for name in ("n_layers", "d_model", "d_mlp", "tokens", "seed")}
        assert Recipe(**recipe) == Recipe(**own)


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_a_card_says_what_a_checkpoint_is(name):
    card = (organism_folder(name) / "README.md").read_text()
    assert "planted by a grammar" in card
    assert "no evidence about large models" in card


def test_checkpoints_are_small_enough_to_ship():
    sizes = [sum(f.stat().st_size for f in organism_folder(name).iterdir()) for name in CHECKPOINTS]
    assert sum(sizes) < 50e6
    steps = sum(f.stat().st_size for s in organism_steps().values() for f in s.iterdir())
    assert steps < 20e6


def test_earlier_checkpoints_load_and_come_to_tell_situations_apart():
    cheat = emolens.organism_behaviour(per_emotion=13)
    apart = []
    for folder in organism_steps().values():
        model = emolens.load(folder)
        p = {
            e: float(emolens.Trial.prepare(model, cheat.after(e)).run().p.mean())
            for e in ("desperate", "calm")
        }
        apart.append(p["desperate"] - p["calm"])
    assert len(apart) == 5
    assert abs(apart[0]) < 0.1
    assert apart[-1] > 0.4


def test_the_small_organism_has_learned_the_same_world():
    model = emolens.load("organism-small")
    assert model.n_layers == 4
    cheat = emolens.organism_behaviour(per_emotion=13)
    p = {e: emolens.Trial.prepare(model, cheat.after(e)).run().p for e in ("desperate", "calm")}
    assert float(p["desperate"].mean() - p["calm"].mean()) > 0.4


def test_a_wheel_without_earlier_checkpoints_says_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr("emolens.organism.resources.files", lambda _: tmp_path)
    with pytest.raises(SelectionError, match="only a clone of the source has them"):
        organism_steps()


# What the wide organism misses, as its card says; nothing of its 171 words.
MISSED = {
    "organism": set(),
    "organism-wide": {
        "ablating desperate, layer 4, excess removed",
        "+ calm 1 natural unit, layer 3, P(threat)",
    },
}


@pytest.mark.parametrize("name", list(MISSED))
def test_a_shipped_organism_met_its_thresholds(name):
    table = pd.read_csv(organism_folder(name) / "thresholds.csv")
    assert len(table) >= 50
    assert set(table.check[~table.passed]) == MISSED[name]
    assert table.check.str.startswith("171 words").any() == (name == "organism-wide")
    card = (organism_folder(name) / "README.md").read_text()
    shipped = ["|".join(row.split("|")[:4]) for row in card.splitlines()]  # other seeds follow
    assert sum("(missed)" in row for row in shipped) == len(MISSED[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "assistant"),
    [("organism", "organism-assistant"), ("organism-wide", "organism-wide-assistant")],
)
def test_an_organism_meets_its_thresholds(name, assistant):
    from emolens.experiments.acceptance import acceptance

    table = acceptance(
        emolens.load(name), assistant=emolens.load(assistant), world=emolens.organism_world(name)
    )
    assert set(table.check[~table.passed]) == MISSED[name], table[~table.passed].to_string()


def test_a_story_without_its_signature_is_the_rest_of_it():
    from emolens.experiments.acceptance.width import without_signature

    for text in emolens.organism_stories(1)[1:]:
        bare = without_signature(text)
        [said] = [s for s in text.spans if s.name == "signature"]
        assert bare.text == text.text.replace(text.text[said.start : said.end] + " ", "", 1)
        kept = [s for s in text.spans if s.name != "signature"]
        for own, before in zip(bare.spans, kept, strict=True):
            assert own.name == before.name
            assert bare.text[own.start : own.end] == text.text[before.start : before.end]


@pytest.mark.slow
def test_training_writes_a_folder_that_loads_and_learns(tmp_path):
    from emolens.organism.train import train

    train(Recipe(n_layers=2, d_model=32, n_heads=2, d_mlp=64, tokens=400_000), tmp_path)
    log = [json.loads(x) for x in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert emolens.load(tmp_path).n_layers == 2
