"""Does the organism carry what was planted in it? Every check beside its threshold."""

import pandas as pd

from emolens.experiments.acceptance.causes import causes
from emolens.experiments.acceptance.persona import persona
from emolens.experiments.acceptance.prediction import choices, classes, loss, quantities
from emolens.experiments.acceptance.reading import reading
from emolens.experiments.acceptance.width import width
from emolens.model import HookedModel
from emolens.organism import organism_corpus
from emolens.recording import record
from emolens.vectors import fit_vectors


def acceptance(
    model: HookedModel,
    *,
    assistant: HookedModel | None = None,
    seed: int = 0,
    world: str = "narrow",
) -> pd.DataFrame:
    """Measure the organism against all its thresholds (about two minutes on two cores).

    Args:
        model: the base organism.
        assistant: fine-tuned from it, if that is to be measured as well.
        seed: of texts and random directions.
        world: that the model was trained on. A wide one is held to all thresholds of the narrow
            world, whose texts are texts of its own, and to those of its words.

    Returns:
        Columns check, found, least, most, passed; one row a threshold.
    """
    corpus = organism_corpus(seed=seed)
    stories = record(model, corpus.stories)
    vectors = fit_vectors(stories, record(model, corpus.neutral))
    checks = [
        *loss(model, world),
        *classes(model, seed, world),
        *reading(model, vectors, stories, seed, world),
        *quantities(model, vectors, seed),
        *choices(model, seed),
        *causes(model, vectors, seed),
        *(width(model, seed) if world == "wide" else ()),
        *(persona(assistant, model, vectors, seed) if assistant is not None else ()),
    ]
    return pd.DataFrame(
        [(c.name, c.found, c.least, c.most, c.passed) for c in checks],
        columns=["check", "found", "least", "most", "passed"],
    )
