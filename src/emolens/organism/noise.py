"""Noise training: a text pushed in a direction without meaning goes on as if it were not pushed.

A stream of 128 numbers has little room: a direction drawn at random, as long as the step from one
emotion to another, has a part along every feature that the model has. A model that was never pushed
so reads it as a bit of everything, and steering along it changes behaviour though it should not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

LONGEST = 0.8  # of a push, in mean norms of the stream


@dataclass(frozen=True)
class Noise:
    """One push for each text of a batch, the same at all its tokens.

    Attributes:
        step: in mean norms of the stream; zeros for a text that is left alone.
    """

    step: Float[Tensor, "row 1 d_model"]

    @classmethod
    def draw(cls, rows: int, d_model: int, share: float, generator: torch.Generator) -> "Noise":
        """Push a text with chance `share`, in any direction, up to `LONGEST` far."""
        way = torch.randn(rows, 1, d_model, generator=generator)
        far, chance = torch.rand(2, rows, 1, 1, generator=generator)
        length = torch.where(chance < share, LONGEST * far, 0.0)
        return cls(length * way / way.norm(dim=-1, keepdim=True))

    def added(self, stream: Float[Tensor, "row token d_model"]) -> Tensor:
        """A copy of `stream`, its texts pushed."""
        norm = stream.detach().float().norm(dim=-1).mean()
        return stream + (norm * self.step.to(stream.device)).to(stream)

    @contextmanager
    def after(self, block: nn.Module) -> Iterator[None]:
        """While it is open, `block` (of a Hugging Face model) gives the pushed streams."""
        handle = block.register_forward_hook(lambda _module, _args, output: self.added(output))
        try:
            yield
        finally:
            handle.remove()
