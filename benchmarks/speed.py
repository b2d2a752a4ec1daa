"""What emolens costs beside the bare libraries. Prints one JSON line a number.

python benchmarks/speed.py [--model FOLDER] [--pairs 7]

Ratios are medians over pairs run one after the other in one process, so that a busy machine
weighs on both sides.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

import emolens
from emolens.organism import organism_folder
from emolens.provenance import versions


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def pairs(ours: Callable[[], object], bare: Callable[[], object], count: int) -> dict:
    """Median time of each, and the median of the ratios of neighbours."""
    ours(), bare()
    timed = [(seconds(ours), seconds(bare)) for _ in range(count)]
    return {
        "emolens_s": round(statistics.median(a for a, _ in timed), 4),
        "bare_s": round(statistics.median(b for _, b in timed), 4),
        "ratio": round(statistics.median(a / b for a, b in timed), 3),
        "pairs": count,
    }


def fresh(code: str) -> Callable[[], object]:
    """Run a line in a new interpreter."""
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


def reading(folder: str, count: int) -> dict:
    """Pooled residuals of all layers against the bare Hugging Face body on the same batches."""
    from transformers import AutoModel

    model = emolens.load(folder)
    stories = emolens.organism_stories(per_emotion=18)
    hf = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = model.tokenize(stories)
    rows = tokens.mask.sum(1).argsort(descending=True).split(200)

    def bare() -> None:
        with torch.inference_mode():
            for row in rows:
                width = int(tokens.mask[row].sum(1).max())
                ids, mask = tokens.ids[row, :width], tokens.mask[row, :width]
                hf(ids, attention_mask=mask.long(), use_cache=False)

    return pairs(lambda: emolens.record(model, stories), bare, count)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--model", default=str(organism_folder()))
    words.add_argument("--pairs", type=int, default=7)
    options = words.parse_args()
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads()} | versions()
    found = {
        "import emolens beside import torch": pairs(
            fresh("import torch, emolens"), fresh("import torch"), options.pairs
        ),
        "record, all layers, beside the bare body": reading(options.model, options.pairs),
    }
    for name, numbers in found.items():
        print(json.dumps({"what": name} | numbers | machine))


if __name__ == "__main__":
    main()
