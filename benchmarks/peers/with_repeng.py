"""repeng: hidden states of the last token at every layer, by `repeng.extract.batched_get_hiddens`.

That is the part of `ControlVector.train` that runs the model; the pairing and the PCA after it are
not timed. By default it reads 32 texts at a time in the order given, and so does `defaults` here;
`our_batches` calls it once for each of our batches.
"""

from typing import Any

from repeng.extract import batched_get_hiddens
from worker import Reading, open_hugging_face, serve

DEFAULT_BATCH = 32  # of repeng.extract.read_representations


def readings(job: dict[str, Any]) -> dict[str, Reading]:
    model, tokenizer = open_hugging_face(job)
    layers = list(range(model.config.num_hidden_layers))

    def read(texts, size):
        return batched_get_hiddens(model, tokenizer, texts, layers, size)

    return {
        "defaults": lambda texts, _: read(texts, DEFAULT_BATCH),
        "our_batches": lambda texts, batches: [
            read([texts[row] for row in rows], len(rows)) for rows in batches
        ],
    }


if __name__ == "__main__":
    serve("repeng", readings)
