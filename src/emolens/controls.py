"""Directions and labels that mean nothing: what every number is compared with."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import ortho_group
from torch import Tensor

from emolens.activations import Activations
from emolens.interventions import Part, Residual, unit

CONTROL = "control"  # kind of what is done along a direction that is no emotion's


def random_directions(count: int, d_model: int, seed: int) -> Float[Tensor, "count d_model"]:
    """Unit vectors drawn evenly from the sphere; scale them to the norm they are to match."""
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(count, d_model, generator=generator))


def permutations(count: int, d_model: int, seed: int) -> Int[Tensor, "count d_model"]:
    """Orders of coordinates: `vector[order]` is as long and as uneven, and means nothing.

    >>> sorted(permutations(1, 3, 0)[0].tolist())
    [0, 1, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(d_model, generator=generator) for _ in range(count)]
    return torch.stack(orders) if orders else torch.empty(0, d_model, dtype=torch.long)


def shuffled(activations: Activations, seed: int) -> Activations:
    """The same recordings with their labels in another order, neutral included.

    Each label is as frequent as before, and says nothing of its text. What a probe still reads,
    or a vector still does (`fit_vectors(shuffled(stories, 0), neutral)`), is not the emotion's.

    >>> import emolens
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=2), layers=[3])
    >>> sorted(shuffled(stories, 0).emotions) == sorted(stories.emotions)
    True
    """
    labels = np.random.default_rng(seed).permutation(activations.emotions)
    return activations.labelled(labels.tolist())


def turned(seed: Sequence[int]) -> Part:
    """All of the way, but turned by one random rotation or reflection, the same at every token.

    At each token it is as long as the way itself, and lies to that of any other token as the ways
    lie to each other. Only what they point at is left to chance.
    """

    def part(way: Residual) -> Residual:
        turn = ortho_group.rvs(way.shape[-1], random_state=np.random.default_rng(seed))
        return way @ torch.from_numpy(turn).to(way)

    return part
