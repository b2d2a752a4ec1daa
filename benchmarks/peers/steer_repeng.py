"""repeng: Hugging Face's `generate` on a `ControlModel`, one vector at every layer.

All texts are one batch, padded on the left. A `ControlModel` adds one vector for the whole batch.
"""

from typing import Any

import numpy as np
from repeng import ControlModel, ControlVector
from worker import Reading, open_hugging_face, serve, written


def readings(job: dict[str, Any]) -> dict[str, Reading]:
    model, tokenizer = open_hugging_face(job)
    layers = list(range(model.config.num_hidden_layers))
    step = np.array(job["vector"], dtype="float32")
    controlled = ControlModel(model, layers)
    # as vector + coefficient, which `set_control` multiplies out once
    controlled.set_control(ControlVector("llama", dict.fromkeys(layers, step)), 1.0)
    return {"steered": lambda texts, _: written(controlled, tokenizer, texts, job)}


if __name__ == "__main__":
    serve("repeng", readings)
