"""Peak memory of one reading, in a process of its own. Prints one JSON object.

python benchmarks/memory.py MODEL {record,cache} COUNT --resident N [--batch 32] [...]

Counted is the process's anonymous memory (RssAnon of Linux): libraries' data, weights, activations,
Python objects. The result of `record` and the token ids that it goes through are files mapped into
memory; their pages are the kernel's to write out and are not counted. N texts are in memory,
whatever part of them is read, and the COUNT longest of them are read in the order given, so that
the widest batch of every run is the same and two runs differ only by what reading holds. On CUDA it
is what torch allocated there.
"""

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from readings import cache_everything, choose_texts

import emolens

EVERY_S = 0.002


def anonymous() -> int:
    """Bytes that this process holds now and that are no part of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def peak_during(work: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Bytes before some work, and the most while it runs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return {"before": before, "peak": torch.cuda.max_memory_allocated(device)}
    before, seen, over = anonymous(), [], threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return {"before": before, "peak": max([before, *seen])}


def measured(words: Sequence[str]) -> dict[str, int]:
    """What the command line asks for."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("model", type=Path)
    asked.add_argument("reading", choices=["record", "cache"])
    asked.add_argument("count", type=int)
    asked.add_argument("--resident", type=int, required=True)
    asked.add_argument("--batch", type=int, default=32, help="texts that are cached at a time")
    asked.add_argument("--stories", type=Path)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--dtype", default="float32")
    options = asked.parse_args(words)
    model = emolens.load(options.model, device=options.device, dtype=getattr(torch, options.dtype))
    texts = choose_texts(options.resident, options.stories)
    emolens.record(model, texts[:2])  # what is loaded on first use is no part of the reading
    longest = sorted(range(len(texts)), key=lambda i: -len(texts[i].text))[: options.count]
    some = [texts[i] for i in sorted(longest)]
    with tempfile.TemporaryDirectory() as folder:
        work = {
            "record": lambda: emolens.record(model, some, folder=folder),
            "cache": lambda: cache_everything(model, some, options.batch),
        }
        return peak_during(work[options.reading], model.device)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1:])))
