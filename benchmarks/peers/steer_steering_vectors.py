"""steering-vectors: Hugging Face's `generate` under `SteeringVector.apply`, at every layer.

All texts are one batch, padded on the left. A `SteeringVector` adds one vector for the whole batch.
"""

from typing import Any

import torch
from steering_vectors import SteeringVector
from worker import Reading, open_hugging_face, serve, written


def readings(job: dict[str, Any]) -> dict[str, Reading]:
    model, tokenizer = open_hugging_face(job)
    step = torch.tensor(job["vector"], dtype=getattr(torch, job["dtype"]), device=job["device"])
    vector = SteeringVector(dict.fromkeys(range(model.config.num_hidden_layers), step))

    def steered(texts, _):
        with vector.apply(model):
            return written(model, tokenizer, texts, job)

    return {"steered": steered}


if __name__ == "__main__":
    serve("steering-vectors", readings)
