"""Graded interchange training: part of a decision's stream from another text, and so its verb.

Interchange intervention training is of Geiger et al. 2022, "Inducing causal structure for
interpretable neural networks". There all of the stream is replaced; here a drawn part of it, and
the other text's verb is the target with a chance that grows with that part, so that a push by a
part of what tells two emotions apart has a part of its effect, not none or all. Near either end the
chance is flat: else rates would be drawn to the middle, since streams of one text differ a little.

A text without emotion is pushed as steering pushes it, by what tells one emotion from the others.
Its own distance from a text with emotion also holds what tells any from none, which no vector of an
emotion has. And half of the time the words that led to the decision are pushed along, as steering
does; else a strong push of a whole text would confuse what later layers look up there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LITTLE = 0.1  # largest part without any effect
FAR = 2.2  # largest part of a far push: steering goes beyond what the model does by itself
WITHOUT = 0.8  # share of decisions without emotion that take: they are few, and pushes start there


@dataclass(frozen=True)
class Interchange:
    """Which tokens of a batch get how much of whose residual.

    `taker` and `giver` hold a row and a column each: the residual at `taker[i]` moves by `part[i]`
    of the way to the one at `giver[i]`, those of its row from column `since[i]` on are moved by as
    much, and it takes the giver's verb where `verb[i]` says so. The way is from the mean of the
    residuals at `origin[i]` among `decisions`, mostly the taker's own. Tokens that keep their own
    residual are not listed.
    """

    decisions: Int[Tensor, "decision 2"]
    taker: Int[Tensor, "swap 2"]
    giver: Int[Tensor, "swap 2"]
    origin: Bool[Tensor, "swap decision"]
    since: Int[Tensor, " swap"]
    part: Float[Tensor, " swap"]
    verb: Bool[Tensor, " swap"]

    @classmethod
    def draw(
        cls,
        ids: Int[Tensor, "row token"],
        felt: Bool[Tensor, "row token"],
        scene_of: Int[Tensor, " vocab"],
        share: float,
        generator: torch.Generator,
        *,
        enough: float,
        far_share: float,
    ) -> "Interchange":
        """Give each decision, with chance `share`, part of one drawn from the same scene.

        The parts are uniform between 0 and 1 (and between 0 and `FAR` for some without emotion).
        The words before are pushed along for every other taker, back to the decision before it. A
        decision without emotion takes from one with emotion, and its way begins at the mean of the
        scene's others with emotion, where there are such.

        Args:
            ids: a batch; a decision is a token that a word with a scene comes after.
            felt: words that tell of, or are decided on with, an emotion.
            scene_of: the scene whose decision a word settles; 0 for all other words.
            share: of decisions with emotion that take another's residual (now and then their own is
                drawn); 0 for no interchange at all.
            generator: of the draws.
            enough: smallest part with all of the effect.
            far_share: of takers without emotion that may be moved beyond the giver.
        """
        decisions = torch.nonzero(scene_of[ids[:, 1:]])
        row, verb_at = decisions[:, 0], decisions[:, 1] + 1
        scene, feels = scene_of[ids[row, verb_at]], felt[row, verb_at]
        chance = torch.where(feels, share, WITHOUT if share else 0.0)
        takes = torch.rand(len(decisions), generator=generator) < chance
        taker, start = decisions[takes], _starts(decisions)[takes]
        part, chance, along = torch.rand(3, len(taker), generator=generator)
        if far_share:
            far = ~feels[takes] & (torch.rand(len(taker), generator=generator) < far_share)
            part = torch.where(far, FAR * part, part)
        verb = LITTLE + (enough - LITTLE) * chance < part
        since = torch.where(along < 0.5, start, taker[:, 1])
        same = scene[takes][:, None] == scene
        pushed = ~feels[takes][:, None] & same & feels  # what takers without emotion draw from
        given = torch.where(pushed.any(1, keepdim=True), pushed, same)
        drawn = _one_of_each(given, generator)
        others = pushed.scatter(1, drawn[:, None], value=False)
        own = torch.eye(len(decisions), dtype=torch.bool)[takes]
        origin = torch.where(others.any(1, keepdim=True), others, own)
        return cls(decisions, taker, decisions[drawn], origin, since, part, verb)

    def mixed(self, stream: Float[Tensor, "row token d_model"]) -> Tensor:
        """A copy of `stream`, the takers' residuals moved as far as their parts say."""
        row, column = self.taker.unbind(1)
        weights = (self.origin / self.origin.sum(1, keepdim=True)).to(stream)[..., None]
        origin = (weights * stream[self.decisions.unbind(1)]).sum(1)  # not @: autocast rounds it
        way = stream[self.giver.unbind(1)] - origin
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


def _starts(decisions: Int[Tensor, "decision 2"]) -> Int[Tensor, " decision"]:
    """The column after the decision before, in the same row; 0 for a row's first."""
    row, column = decisions.unbind(1)
    follows = torch.zeros_like(row, dtype=torch.bool)
    follows[1:] = row[1:] == row[:-1]
    return torch.where(follows, column.roll(1) + 1, 0)


def _one_of_each(allowed: Bool[Tensor, "row column"], generator: torch.Generator) -> Tensor:
    """A column drawn for each row, of those allowed there."""
    if not len(allowed):
        return torch.zeros(0, dtype=torch.int64)
    return torch.multinomial(allowed.float(), 1, generator=generator)[:, 0]
