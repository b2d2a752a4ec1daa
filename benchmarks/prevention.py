"""How much of the organism's planted shift a vector in training prevents, and at what loss.

python benchmarks/prevention.py [--json] [--out FOLDER] [--tokens 600000] [--seeds 0 1]

The fine-tuning of the organism, a quarter as long as the shipped one's, three times a seed: plain,
with the shift's own vector added to the assistant's tokens in training, and with a random direction
as long. All three see the same documents. The vector is away when the shift is measured.

prevented             share of the plain run's shift that the steered one lacks; the least of the
                      seeds, with 95% intervals over the users' situations
loss_as_trained       of the steered run above the plain one, in nats a token, on fresh documents of
                      the stage, with the vector in force; the most of the seeds
loss_base_documents   the same on documents of the base corpus, without the vector
prevented_by_chance   share that the run along the random direction lacks; the most of the seeds

`rows` is the whole table. Folders that are there in `--out` are measured, not trained again.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from emolens.experiments.prevention import SHORT, prevent_shift
from emolens.provenance import versions

HALF, EQUAL = 0.5, 0.02  # of the shift; nats a token


def of_seeds(table: pd.DataFrame, run: str, measure: str) -> pd.DataFrame:
    """A run's rows of one measure."""
    return table[(table.run == run) & (table.measure == measure)].drop(columns=["run", "measure"])


def told(table: pd.DataFrame) -> dict[str, dict]:
    """The figures beside their bars, and what each seed has."""
    worst = {
        "prevented": ("steered", "shift, prevented", "min", HALF),
        "loss_as_trained": ("steered", "loss, as trained, above plain", "max", EQUAL),
        "loss_base_documents": ("steered", "loss, base documents, above plain", "max", EQUAL),
        "prevented_by_chance": ("random", "shift, prevented", "max", None),
    }
    found = {}
    for name, (run, measure, which, bar) in worst.items():
        rows = of_seeds(table, run, measure)
        value = round(float(getattr(rows.value, which)()), 4)
        each = json.loads(rows.round(4).to_json(orient="records"))
        found[name] = {"value": value, "bar": bar, "seeds": each}
    return found


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--json", action="store_true", help="print the figures as JSON")
    words.add_argument("--out", type=Path)
    words.add_argument("--tokens", type=int, default=SHORT.tokens)
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = prevent_shift(
            options.out or Path(folder),
            recipe=replace(SHORT, tokens=options.tokens),
            seeds=options.seeds,
        )
    found = {
        "schema": 1,
        **told(table),
        "tokens": options.tokens,
        "rows": json.loads(table.round(4).to_json(orient="records")),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    print(json.dumps(found, indent=1) if options.json else table.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
