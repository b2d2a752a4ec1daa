"""Noise training: a text pushed in a direction without meaning goes on as if it were not pushed.

A stream of few numbers has little room: a direction drawn at random, as long as the step from one
emotion to another, has a part along every feature that the model has. A model that was never pushed
so reads it as a bit of everything, and steering along it changes behaviour though it should not.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PLAIN = 0.8  # norms: farther, a random step holds so much of one emotion that it ought to tell


@dataclass(frozen=True)
class Noise:
    """One push for each text of a batch, the same at all its tokens.

    Attributes:
        step: in mean norms of the stream; zeros for a text that is left alone.
    """

    step: Float[Tensor, "row 1 d_model"]

    @classmethod
    def draw(
        cls,
        neutral: Bool[Tensor, " row"],
        read: Float[Tensor, "d_model k"],
        share: float,
        neutral_share: float,
        generator: torch.Generator,
    ) -> "Noise":
        """Push some texts, up to one norm far, or `PLAIN` where they tell of no emotion.

        Those that tell of an emotion are pushed apart from what emotions are read by, so that no
        emotion is blurred; those that tell of none in any direction, for there a bit of every
        emotion should do nothing.

        Args:
            neutral: which texts tell of no emotion.
            read: orthonormal directions that emotions are read by.
            share: of the texts with an emotion.
            neutral_share: of the others.
            generator: of the draws; it is left alone if both shares are 0.
        """
        if not (share or neutral_share):
            return cls(torch.zeros(len(neutral), 1, len(read)))
        way = torch.randn(len(neutral), 1, len(read), generator=generator)
        way = way / way.norm(dim=-1, keepdim=True)
        far, chance = torch.rand(2, len(neutral), 1, 1, generator=generator)
        plain = neutral[:, None, None]
        apart = way - (way @ read) @ read.T
        taken = chance < torch.where(plain, neutral_share, share)
        length = torch.where(plain, PLAIN * far, far)
        return cls(torch.where(taken, length, 0.0) * torch.where(plain, way, apart))

    def added(self, stream: Float[Tensor, "row token d_model"]) -> Tensor:
        """A copy of `stream`, its texts pushed."""
        norm = stream.detach().float().norm(dim=-1).mean()
        return stream + (norm * self.step.to(stream.device)).to(stream)
