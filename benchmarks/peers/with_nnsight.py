"""nnsight: the output of every block at the last token, saved inside `model.trace`.

Its documentation traces one prompt at a time, and so does `defaults`; `our_batches` gives each of
our batches to one trace, which nnsight pads on the left, so that the last token is the last column.
"""

from typing import Any

import nnsight
import torch
from worker import Reading, serve


def readings(job: dict[str, Any]) -> dict[str, Reading]:
    dtype = getattr(torch, job["dtype"])
    model = nnsight.TransformersModel(
        job["model"], task="text-generation", dtype=dtype, dispatch=True
    )
    model.to(job["device"])  # its device_map= needs a package that it does not install

    @torch.no_grad()
    def trace(prompts):
        with model.trace(prompts):
            found = nnsight.save([])
            for block in model.model.layers:
                found.append(block.output[:, -1])
        return torch.stack(found).cpu()

    return {
        "defaults": lambda texts, _: [trace(text) for text in texts],
        "our_batches": lambda texts, batches: [
            trace([texts[row] for row in rows]) for rows in batches
        ],
    }


if __name__ == "__main__":
    serve("nnsight", readings)
