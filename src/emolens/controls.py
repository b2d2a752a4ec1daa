"""Directions that should do nothing: what every causal number is compared with."""

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.interventions import unit


def random_directions(count: int, d_model: int, seed: int) -> Float[Tensor, "count d_model"]:
    """Unit vectors drawn evenly from the sphere; scale them to the norm they are to match."""
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(count, d_model, generator=generator))
