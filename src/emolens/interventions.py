"""Interventions on what flows in a run as values: steer, ablate, patch. A new one is a function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from emolens.errors import SelectionError

RANK = 1e-4  # of the largest singular value: what is less is rounding, of float32 sums
Residual = Float[Tensor, "text token d_model"]
Intervention = Callable[[Residual], Residual]
Change = Mapping[int, Intervention]  # what is done to the residual stream after which blocks


def block_hook(change: Intervention) -> Callable[[torch.nn.Module, Any, Any], Any]:
    """A change as a plain hook on a block, which gives the stream alone or with more behind it."""

    def after(_block: torch.nn.Module, _args: Any, given: Any) -> Any:
        return (change(given[0]), *given[1:]) if isinstance(given, tuple) else change(given)

    return after


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


@dataclass(frozen=True, eq=False)
class Clamp:
    """Keep the coordinate along one direction within bounds, at every position.

    What lies within is left as it is, so a clamp acts only where the model itself goes too far (or
    not far enough).

    Attributes:
        direction: of length one.
        low: least coordinate, in residual units; `-inf` for no such bound.
        high: largest coordinate.
    """

    direction: Float[Tensor, " d_model"]
    low: float
    high: float

    def __call__(self, residual: Residual) -> Residual:
        """The clamped stream."""
        direction = self.direction.to(residual)
        found = residual @ direction
        return residual + (found.clamp(self.low, self.high) - found)[..., None] * direction


@dataclass(frozen=True, eq=False)
class Hold:
    """Push the stream back, at each position, where it leaves a band along one direction.

    A proportional controller: the push is the longer the further a coordinate is out of its band,
    up to a bound. What lies within is left bitwise as it is. Unlike `Clamp` it may push along
    another direction than it reads.

    Attributes:
        read: direction of length one, along which the coordinate is taken.
        centre: where coordinates are counted from, such as the mean over emotions.
        low: lower edge of the band, in residual units; `-inf` for no such edge.
        high: upper edge.
        push: direction of length one, added where the coordinate is above the band and taken away
            where it is below.
        gain: length of the push for each unit out of the band.
        most: longest push, in residual units.
    """

    read: Float[Tensor, " d_model"]
    centre: Float[Tensor, " d_model"]
    low: float
    high: float
    push: Float[Tensor, " d_model"]
    gain: float
    most: float

    def length(self, residual: Residual) -> Float[Tensor, "text token"]:
        """How long a push each position gets; negative below the band."""
        found = (residual - self.centre.to(residual)) @ self.read.to(residual)
        out = found - found.clamp(self.low, self.high)
        return (self.gain * out).clamp(-self.most, self.most)

    def __call__(self, residual: Residual) -> Residual:
        """The stream, pushed where it is out of the band."""
        length = self.length(residual)[..., None]
        return torch.where(length == 0, residual, residual + length * self.push.to(residual))


@dataclass(frozen=True, eq=False)
class At:
    """An intervention at chosen positions; the rest stays bitwise as it was."""

    mask: Bool[Tensor, "text token"]
    change: Intervention

    def __call__(self, residual: Residual) -> Residual:
        """The stream, changed at those positions."""
        return torch.where(
            self.mask.to(residual.device)[..., None], self.change(residual), residual
        )


Part = Callable[[Residual], Residual]  # of a difference of residuals, what a patch puts in


@dataclass(frozen=True, eq=False)
class Patch:
    """Move the stream to another run's residuals.

    Attributes:
        source: the other run's residuals, each at the position that it goes to.
        part: what of the way to the other run's residual is gone: `whole`, `along` directions,
            `apart` from them, or a function of your own.
    """

    source: Float[Tensor, "text token d_model"]
    part: Part

    def __call__(self, residual: Residual) -> Residual:
        """The patched stream."""
        # in half precision a sum of the stream and the way would not arrive
        own = residual.to(torch.promote_types(residual.dtype, torch.float32))
        return (own + self.part(self.source.to(own) - own)).to(residual)


@dataclass(frozen=True, eq=False)
class Head:
    """Change what one attention head gives, at `Site(layer, "z")`; the others stay bitwise as is.

    Attributes:
        index: 0-based head.
        change: is called with that head's [text token d_head].
    """

    index: int
    change: Intervention

    def __call__(
        self, heads: Float[Tensor, "text token head d_head"]
    ) -> Float[Tensor, "text token head d_head"]:
        """All heads' results, one of them changed."""
        changed = heads.clone()
        changed[:, :, self.index] = self.change(heads[:, :, self.index])
        return changed


def whole(way: Residual) -> Residual:
    """All of the way: the residual itself is put in."""
    return way


def along(directions: Float[Tensor, "direction d_model"]) -> Part:
    """What of the way lies along orthonormal directions."""
    return placebo(directions, directions)


def apart(directions: Float[Tensor, "direction d_model"]) -> Part:
    """What of the way does not lie along orthonormal directions: the complement of `along`."""
    inside = along(directions)
    return lambda way: way - inside(way)


def placebo(
    directions: Float[Tensor, "direction d_model"], others: Float[Tensor, "direction d_model"]
) -> Part:
    """As far as `along` goes, but in other orthonormal directions: its norm-matched control."""

    def part(way: Residual) -> Residual:
        found = einsum(way, directions.to(way), "text token d_model, k d_model -> text token k")
        return einsum(found, others.to(way), "text token k, k d_model -> text token d_model")

    return part


def unit(vector: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """The vectors at length one.

    Raises:
        SelectionError: for a vector of length zero, which has no direction.
    """
    norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    if not bool(norm.all()):
        raise SelectionError("a vector of length zero has no direction: was it fitted on one text?")
    return vector / norm


def spanned(vectors: Float[Tensor, "vector d_model"]) -> Float[Tensor, "direction d_model"]:
    """Orthonormal directions that span the same subspace: as many as the vectors' rank.

    Vectors that are differences from their own mean have one dimension less than there are vectors.

    Raises:
        SelectionError: if all are of length zero.
    """
    _, size, directions = torch.linalg.svd(vectors, full_matrices=False)
    found = directions[size > size[0] * RANK]
    if not len(found):
        raise SelectionError("vectors of length zero span nothing: were they fitted on one text?")
    return found
