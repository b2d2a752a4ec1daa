"""The shipped organism against every threshold it must meet, and the recipe that makes one."""

import hashlib
import json
from importlib import resources

import pytest

WEIGHTS = resources.files("emolens.organism") / "weights"


def test_the_shipped_weights_are_those_of_the_log():
    digest = hashlib.sha256((WEIGHTS / "model.safetensors").read_bytes()).hexdigest()
    assert digest == (WEIGHTS / "model.sha256").read_text().strip()
    lines = [json.loads(x) for x in (WEIGHTS / "training.jsonl").read_text().splitlines()]
    assert lines[-1]["tokens"] >= json.loads((WEIGHTS / "recipe.json").read_text())["tokens"]
    assert lines[-1]["gap"] < 0.05


@pytest.mark.slow
def test_the_organism_meets_every_threshold(organism):
    from emolens.experiments.acceptance import acceptance

    table = acceptance(organism)
    assert len(table) >= 29
    missed = table[~table.passed]
    assert missed.empty, missed.to_string()


@pytest.mark.slow
def test_training_writes_a_folder_that_loads_and_learns(tmp_path):
    import emolens
    from emolens.organism.train import Recipe, train

    train(Recipe(n_layers=2, d_model=32, n_heads=2, d_mlp=64, tokens=400_000), tmp_path)
    log = [json.loads(x) for x in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert emolens.load(tmp_path).n_layers == 2
