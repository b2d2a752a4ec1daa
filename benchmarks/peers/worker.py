"""What the workers share: a job in, seconds out.

A worker runs in its peer's own environment: `python with_PEER.py JOB`. JOB is a JSON file with
`model` (a Hugging Face folder), `device`, `dtype`, `texts` and `batches` (rows of each of our
batches). The worker opens the model, reads a few texts to warm up and prints `{"ready": versions}`.
Then each line of standard input names a way to read; it reads all texts so and prints
`{"seconds": ...}`. Whatever goes wrong is answered with `{"error": ...}`.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

WARM = 4  # texts; an even number, since some peers read pairs
Batches = list[list[int]]
Reading = Callable[[list[str], Batches], object]


def open_hugging_face(job: dict[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer as the peers' documentation opens them, in the dtype of the job."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    dtype = getattr(torch, job["dtype"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["model"])
    return model.to(job["device"]).eval(), tokenizer


def written(model: Any, tokenizer: Any, texts: list[str], job: dict[str, Any]) -> object:
    """What is written after the texts, greedily and to the full length, by `generate`."""
    encoded = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    return model.generate(
        encoded["input_ids"].to(job["device"]),
        attention_mask=encoded["attention_mask"].to(job["device"]),
        do_sample=False,
        max_new_tokens=job["tokens"],
        min_new_tokens=job["tokens"],
        pad_token_id=tokenizer.pad_token_id,
    )


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, to the end of what was queued on a GPU."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def serve(package: str, open_readings: Callable[[dict[str, Any]], dict[str, Reading]]) -> None:
    """Open the model, then time one reading a line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what the peer prints is no answer

    def attempt(work: Callable[[], dict[str, Any]]) -> None:
        try:
            found = work()
        except Exception as error:  # whatever a peer does, the caller gets a line
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(found), file=answers, flush=True)

    def get_ready() -> dict[str, Any]:
        readings.update(open_readings(job))
        for read in readings.values():
            read(texts[:WARM], [list(range(WARM))])
        return {"ready": {name: version(name) for name in (package, "torch", "transformers")}}

    def time_one(name: str) -> dict[str, Any]:
        return {"seconds": seconds(lambda: readings[name](texts, batches))}

    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    texts, batches = job["texts"], job["batches"]
    readings: dict[str, Reading] = {}
    attempt(get_ready)
    for line in sys.stdin:
        attempt(partial(time_one, line.strip()))
