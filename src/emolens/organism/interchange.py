"""Interchange intervention training: a decision taken from another text's stream, with its verb.

Geiger et al. 2022, "Inducing causal structure for interpretable neural networks".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Interchange:
    """Which tokens of a batch get whose residual.

    `taker` and `giver` hold a row and a column each: the residual at `taker[i]` is replaced by
    the one at `giver[i]`. Tokens that keep their own are not listed.
    """

    taker: Int[Tensor, "swap 2"]
    giver: Int[Tensor, "swap 2"]

    @classmethod
    def draw(
        cls,
        ids: Int[Tensor, "row token"],
        scene_of: Int[Tensor, " vocab"],
        share: float,
        generator: torch.Generator,
    ) -> "Interchange":
        """Give each decision, with chance `share`, the residual of one drawn from the same scene.

        Args:
            ids: a batch; a decision is a token that a word with a scene comes after.
            scene_of: the scene whose decision a word settles; 0 for all other words.
            share: of decisions that take another's residual (now and then their own is drawn).
            generator: of the draws.
        """
        decisions = torch.nonzero(scene_of[ids[:, 1:]])
        taker = decisions[torch.rand(len(decisions), generator=generator) < share]
        if not len(taker):
            return cls(taker, taker)
        scene, asked = (scene_of[ids[at[:, 0], at[:, 1] + 1]] for at in (decisions, taker))
        same = (asked[:, None] == scene[None, :]).float()
        return cls(taker, decisions[torch.multinomial(same, 1, generator=generator)[:, 0]])

    def swapped(self, values: Tensor) -> Tensor:
        """A copy of `values` ([row, token, ...]), the takers' replaced by their givers'."""
        new = values.clone()
        new[self.taker[:, 0], self.taker[:, 1]] = values[self.giver[:, 0], self.giver[:, 1]]
        return new

    @contextmanager
    def after(self, block: nn.Module) -> Iterator[None]:
        """While it is open, `block` (of a Hugging Face model) gives the swapped residuals."""
        handle = block.register_forward_hook(lambda _module, _args, output: self.swapped(output))
        try:
            yield
        finally:
            handle.remove()
