"""Directions that should do nothing: what every causal number is compared with."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.interventions import unit


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
    return torch.stack([torch.randperm(d_model, generator=generator) for _ in range(count)])
