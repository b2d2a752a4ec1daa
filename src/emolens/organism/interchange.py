"""Graded interchange training: part of a decision's stream from another text, and so its verb.

Interchange intervention training is of Geiger et al. 2022, "Inducing causal structure for
interpretable neural networks". There all of the stream is replaced; here a drawn part of it, and
the other text's verb is the target with a chance equal to that part, so that a push by a part of
what tells two emotions apart has a part of its effect, not none or all. Half of the time the words
that led to the decision are pushed along, as steering does; else a strong push of a whole text
would confuse what later layers look up there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Interchange:
    """Which tokens of a batch get how much of whose residual.

    `taker` and `giver` hold a row and a column each: the residual at `taker[i]` moves by `part[i]`
    of the way to the one at `giver[i]`, those of its row from column `since[i]` on are moved by as
    much, and it takes the giver's verb where `verb[i]` says so. Tokens that keep their own are not
    listed.
    """

    taker: Int[Tensor, "swap 2"]
    giver: Int[Tensor, "swap 2"]
    since: Int[Tensor, " swap"]
    part: Float[Tensor, " swap"]
    verb: Bool[Tensor, " swap"]

    @classmethod
    def draw(
        cls,
        ids: Int[Tensor, "row token"],
        scene_of: Int[Tensor, " vocab"],
        share: float,
        generator: torch.Generator,
    ) -> "Interchange":
        """Give each decision, with chance `share`, part of one drawn from the same scene.

        The parts are uniform between 0 and 1. The words before are pushed along for every other
        taker, back to the decision before it.

        Args:
            ids: a batch; a decision is a token that a word with a scene comes after.
            scene_of: the scene whose decision a word settles; 0 for all other words.
            share: of decisions that take another's residual (now and then their own is drawn).
            generator: of the draws.
        """
        decisions = torch.nonzero(scene_of[ids[:, 1:]])
        takes = torch.rand(len(decisions), generator=generator) < share
        taker, start = decisions[takes], _starts(decisions)[takes]
        part, chance, along = torch.rand(3, len(taker), generator=generator)
        since = torch.where(along < 0.5, start, taker[:, 1])
        if not len(taker):
            return cls(taker, taker, since, part, chance < part)
        scene, asked = (scene_of[ids[at[:, 0], at[:, 1] + 1]] for at in (decisions, taker))
        same = (asked[:, None] == scene[None, :]).float()
        giver = decisions[torch.multinomial(same, 1, generator=generator)[:, 0]]
        return cls(taker, giver, since, part, chance < part)

    def mixed(self, stream: Float[Tensor, "row token d_model"]) -> Tensor:
        """A copy of `stream`, the takers' residuals moved toward their givers'."""
        row, column = self.taker.unbind(1)
        way = stream[self.giver.unbind(1)] - stream[row, column]
        token = torch.arange(stream.shape[1])
        pushed = (token >= self.since[:, None]) & (token <= column[:, None])
        step = self.part.to(stream)[:, None] * way
        return stream.index_add(
            0, row.to(stream.device), pushed.to(stream)[..., None] * step[:, None]
        )

    def told(self, targets: Int[Tensor, "row token"]) -> Int[Tensor, "row token"]:
        """A copy of `targets`, the givers' verbs at those takers that take them."""
        new = targets.clone()
        new[self.taker[self.verb].unbind(1)] = targets[self.giver[self.verb].unbind(1)]
        return new

    @contextmanager
    def after(self, block: nn.Module) -> Iterator[None]:
        """While it is open, `block` (of a Hugging Face model) gives the mixed residuals."""
        handle = block.register_forward_hook(lambda _module, _args, output: self.mixed(output))
        try:
            yield
        finally:
            handle.remove()


def _starts(decisions: Int[Tensor, "decision 2"]) -> Int[Tensor, " decision"]:
    """The column after the decision before, in the same row; 0 for a row's first."""
    row, column = decisions.unbind(1)
    follows = torch.zeros_like(row, dtype=torch.bool)
    follows[1:] = row[1:] == row[:-1]
    return torch.where(follows, column.roll(1) + 1, 0)
