"""steering-vectors: the residual of the last token at every layer, after each block.

`defaults` is `extract_activations`, the part of `train_steering_vector` that runs the model, with
its defaults: neighbouring texts as a pair, one pair at a time, each text of it in a pass of its
own. `our_batches` runs each of our batches in one pass inside `record_activations`, the recorder
that it is built on, and takes the last token from what was recorded.
"""

from typing import Any

import torch
from steering_vectors import extract_activations, record_activations
from worker import Reading, open_hugging_face, serve


def readings(job: dict[str, Any]) -> dict[str, Reading]:
    model, tokenizer = open_hugging_face(job)

    def in_pairs(texts, _):
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        return extract_activations(model, tokenizer, pairs)

    @torch.no_grad()
    def one_pass(texts):
        encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        encoded = encoded.to(model.device)
        with record_activations(model) as recorded:
            model(**encoded)
        last = encoded["attention_mask"].sum(1) - 1
        rows = torch.arange(len(texts), device=model.device)
        return [found[-1][rows, last].cpu() for found in recorded.values()]

    return {
        "defaults": in_pairs,
        "our_batches": lambda texts, batches: [
            one_pass([texts[row] for row in rows]) for rows in batches
        ],
    }


if __name__ == "__main__":
    serve("steering-vectors", readings)
