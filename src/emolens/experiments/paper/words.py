"""What the words of a text give without a network: what it adds must go beyond that."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from emolens.activations import Activations
from emolens.experiments.paper.study import Study
from emolens.hooks import hooked
from emolens.interventions import Residual
from emolens.model import HookedModel
from emolens.recording import record
from emolens.sites import RESID_PRE, Site
from emolens.vectors import EmotionVectors, fit_vectors

NETWORK = "network"
WORDS: Mapping[str, bool] = {"words": False, "words so far": True}  # whether earlier ones count


@contextmanager
def words_alone(model: HookedModel, *, so_far: bool = False, seed: int = 0) -> Iterator[None]:
    """Inside, what is read after block 0 knows which words there are and nothing of what they mean.

    Every word has the embedding of another one, so that words which training has made alike are
    not. A network with random weights holds little else, and much can be read from it.

    Args:
        model: the hooked model.
        so_far: the mean of all words up to each token instead of its own, which is about what
            attention without any training gathers.
        seed: of which word has whose embedding.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(model.tokenizer), generator=generator).to(model.device)
    seen: list[Residual] = []

    def exchange(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (order[args[0]], *args[1:])

    def keep(stream: Residual) -> Residual:
        seen[:] = [stream]
        return stream

    def put(stream: Residual) -> Residual:
        if not so_far:
            return seen[0]
        count = torch.arange(1, stream.shape[1] + 1, device=stream.device)
        return (seen[0].float().cumsum(1) / count[:, None]).to(stream.dtype)

    with hooked(model, {Site(0, RESID_PRE): keep, Site(0): put}):
        handle = model.host.register_forward_pre_hook(exchange)
        try:
            yield
        finally:
            handle.remove()


@dataclass(frozen=True, eq=False)
class Way:
    """A way of reading, and what stories are in it.

    Attributes:
        name: `"network"`, `"words"` or `"words so far"`.
        layer: where to read.
        stories: recorded there, by the network at all layers.
        neutral: the same.
        vectors: fitted on these.
    """

    name: str
    layer: int
    stories: Activations
    neutral: Activations
    vectors: EmotionVectors


Measure = TypeVar("Measure")
_KEPT: WeakKeyDictionary[Study, dict[str, Way]] = WeakKeyDictionary()


def ways(study: Study) -> list[Way]:
    """The network at the layer of the study, then its words alone."""
    network = Way(NETWORK, study.layer, study.stories, study.neutral, study.vectors)
    return [network, *(_words(study, name) for name in WORDS)]


def by_way(study: Study, measure: Callable[[Way], Measure]) -> dict[str, Measure]:
    """What is measured by the network and by its words alone, by the names of the ways.

    Args:
        study: model and materials.
        measure: reads with the model of the study at the layer of the way that it is given.
    """
    network, *alone = ways(study)
    found = {network.name: measure(network)}
    for way in alone:
        with words_alone(study.model, so_far=WORDS[way.name], seed=study.seed):
            found[way.name] = measure(way)
    return found


def _words(study: Study, name: str) -> Way:
    """Stories by their words alone, read once a study."""
    kept = _KEPT.setdefault(study, {})
    if name not in kept:
        corpus = study.materials.corpus
        with words_alone(study.model, so_far=WORDS[name], seed=study.seed):
            stories, neutral = (
                record(study.model, texts, layers=[0]) for texts in (corpus.stories, corpus.neutral)
            )
        kept[name] = Way(name, 0, stories, neutral, fit_vectors(stories, neutral))
    return kept[name]
