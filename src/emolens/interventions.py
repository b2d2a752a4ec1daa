"""Interventions on the residual stream as values: steer and ablate. A new one is a function."""

from collections.abc import Callable
from dataclasses import dataclass

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from emolens.errors import SelectionError

Residual = Float[Tensor, "text token d_model"]
Intervention = Callable[[Residual], Residual]


@dataclass(frozen=True, eq=False)
class Steer:
    """Add a vector, in residual units, at every position.

    A vector of zeros leaves the stream bitwise as it was.
    """

    vector: Float[Tensor, " d_model"]

    def __call__(self, residual: Residual) -> Residual:
        """The steered stream."""
        return residual + self.vector.to(residual)


@dataclass(frozen=True, eq=False)
class Ablate:
    """Set the coordinates along orthonormal directions to fixed values, at every position.

    With `value` the grand mean's coordinates, what is removed is the emotion and not the place
    where the stream lives; with zeros the directions are projected out.
    """

    directions: Float[Tensor, "direction d_model"]
    value: Float[Tensor, " direction"]

    def __call__(self, residual: Residual) -> Residual:
        """The ablated stream."""
        basis, value = self.directions.to(residual), self.value.to(residual)
        found = einsum(residual, basis, "text token d_model, k d_model -> text token k")
        return residual + einsum(
            value - found, basis, "text token k, k d_model -> text token d_model"
        )


def unit(vector: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """The vectors at length one.

    Raises:
        SelectionError: for a vector of length zero, which has no direction.
    """
    norm = vector.norm(dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        raise SelectionError("a vector of length zero has no direction: was it fitted on one text?")
    return vector / norm
