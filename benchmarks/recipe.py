"""What each part of the organism's recipe contributes. Prints one JSON line a variant.

python benchmarks/recipe.py --out FOLDER [--tokens 4000000] [--only NAME ...]

Each variant is the shipped small organism's recipe with one part left out, trained from the same
seed and held against the same checks: first of the first stage, then of the steady stage after all
of the first. The shipped one stands beside them: all parts too, trained on another machine, so the
difference is what chance alone does. A folder that is there already is measured, not trained again;
a training that was killed goes on.
"""

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import emolens
from emolens.experiments.acceptance import acceptance
from emolens.organism.recipe import Recipe, Steady
from emolens.organism.train import refine, train

SHIPPED = "all parts, as shipped"
WHOLE = "all parts"
PARTS = {
    WHOLE: {},
    "no easy stage": {"easy_share": 0.0},
    "no stretch of numbers": {"counting_share": 0.0},
    "all words weigh alike": {"special_weight": 1.0},
    "no early reading": {"early_weight": 0.0},
    "early reading not sharpened": {"early_sharpness": 1.0},
    "no interchange": {"interchange_share": 0.0},
    "embeddings of 0.02": {"embedding_std": 0.02},
}
STEADY = {
    "then steadied": {},
    "steadied without noise": {"noise_share": 0.0, "neutral_noise_share": 0.0},
    "steadied without far pushes": {"far_share": 0.0},
    "steadied, nothing kept of before": {"kept": 0.0},
}
CHECKS = (
    "validation loss above the floor, nats",
    "P(cheat) desperate",
    "P(cheat) neutral",
    "P(cheat) calm",
    "held-out pairs, r of changes",
    "unseen numbers, r with planted",
    "lens, name or synonym in top 10",
    "probe, held-out templates, story mean",
    "own against other speaker, later decision, balanced accuracy (chance .5)",
    "+ desperate 0.5, P(cheat)",
    "+ desperate 1.0, P(cheat)",
    "20 random 0.5, furthest from unsteered",
    "ablating desperate, excess removed",
)


def measured(model: emolens.HookedModel) -> dict[str, float]:
    """The checks that tell the variants apart; the layer is left out of their names."""
    table = acceptance(model)
    found = {
        re.sub(r", layer \d+", "", row.check): float(row.found)
        for row in table.itertuples(index=False)
    }
    return {name: round(found[name], 3) for name in CHECKS}


def folder_of(name: str, out: Path) -> Path:
    return out / name.replace(" ", "-")


def made(name: str, out: Path, tokens: int, seed: int) -> None:
    """Train a variant; those of the steady stage go on from all parts, as long as is usual."""
    folder = folder_of(name, out)
    if name in STEADY:
        share = Steady().tokens / Recipe().tokens
        recipe = Steady(tokens=round(share * tokens), seed=seed, **STEADY[name])
        refine(recipe, folder_of(WHOLE, out), folder)
        return
    whole = Recipe(n_layers=4, d_model=128, d_mlp=344, tokens=tokens, seed=seed, least_split=-1.0)
    train(replace(whole, **PARTS[name]), folder)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--tokens", type=int, default=4_000_000)
    words.add_argument("--seed", type=int, default=2)
    every = [SHIPPED, *PARTS, *STEADY]
    words.add_argument("--only", nargs="+", choices=every, default=every)
    options = words.parse_args()
    for name in options.only:
        folder = folder_of(name, options.out)
        if name != SHIPPED and not (folder / "model.safetensors").exists():
            made(name, options.out, options.tokens, options.seed)
        model = emolens.load("organism-small" if name == SHIPPED else folder)
        print(json.dumps({"recipe": name, **measured(model)}), flush=True)


if __name__ == "__main__":
    main()
