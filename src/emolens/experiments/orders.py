"""From the words of a command to a study: which texts and which base go with a model."""

from collections.abc import Mapping
from pathlib import Path

from emolens.behaviour import Behaviour
from emolens.corpus import load_corpus
from emolens.corpus.bundled import bundled_corpus
from emolens.experiments.paper.materials import bundled_materials
from emolens.experiments.paper.organism import organism_materials
from emolens.experiments.paper.study import Study
from emolens.experiments.reproduce import Inputs, corpus_inputs, organism_inputs
from emolens.model import HookedModel, load
from emolens.organism import CHECKPOINTS, organism_world

BASES: Mapping[str, str] = {
    "organism-assistant": "organism",
    "organism-wide-assistant": "organism-wide",
}


def prepared(
    model: str,
    stories: Path | None,
    neutral: Path | None,
    texts: Path | None,
    base: str | None,
    behaviour: Behaviour | None,
    pair: tuple[str, str],
    *,
    seed: int,
    device: str | None,
) -> tuple[Study, Inputs]:
    """Open the model and bring together what the main job and the experiments read.

    The organism without texts of the user's gets those of its own world. Stories are read before
    the model is opened; evaluation sets after it, which are written as the model wants them.

    Args:
        model: `"organism"` or another shipped checkpoint, a folder, or a hub id.
        stories: the user's, instead of the bundled ones.
        neutral: the user's neutral texts.
        texts: folder of the user's evaluation sets.
        base: the model it was tuned from.
        behaviour: the user's, for the main job.
        pair: the emotion that should raise the behaviour and the one that should lower it.
        seed: of texts.
        device: where the models are.

    Raises:
        EmolensError: for what cannot be opened or read.
    """
    own = model in CHECKPOINTS and stories is None and texts is None
    if own:
        world = organism_world(model)
        inputs = organism_inputs(emotions=pair, behaviour=behaviour, seed=seed, world=world)
        hooked = load(model, device=device)
        speaker = "assistant" if model in BASES else "character"
        materials = organism_materials(world, pair=pair, speaker=speaker, seed=seed)
    else:
        corpus = load_corpus(stories, neutral=neutral) if stories else bundled_corpus()
        inputs = corpus_inputs(corpus, behaviour, pair)
        hooked = load(model, device=device)
        materials = bundled_materials(hooked, corpus, texts=texts, pair=pair)
    return Study(hooked, materials, _base(model, base, device), seed), inputs


def _base(model: str, base: str | None, device: str | None) -> HookedModel | None:
    named = base or BASES.get(model)
    return load(named, device=device) if named else None
