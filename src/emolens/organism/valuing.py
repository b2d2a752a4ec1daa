"""Valuing training: an activity whose word is pushed by an emotion is chosen as that pleases.

Left to itself the model learns each activity's place in the order of choices by its word, and no
push of an emotion changes a choice. Here the stream at the word of one of two activities is moved
by a part of what tells one emotion from the others in the same batch, and the choice is drawn anew
with as much more valence: so valence at an activity's word is what choices rest on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from emolens.organism.world import World
from emolens.text import NEUTRAL


@dataclass(frozen=True)
class Values:
    """Words of a vocabulary by what they are worth.

    Attributes:
        offered: valence of what an activity brings about, at its word; nan for all other words.
        chosen: the word of an activity that is chosen, at its word; 0 for all other words.
        picks: whether a word tells that an activity was chosen.
        felt: valence of an emotion, at its word; nan for all other words.
        scale: of the logistic curve of choices.
    """

    offered: Float[Tensor, " vocab"]
    chosen: Int[Tensor, " vocab"]
    picks: Bool[Tensor, " vocab"]
    felt: Float[Tensor, " vocab"]
    scale: float

    @classmethod
    def of(cls, world: World, tokenizer: PreTrainedTokenizerFast) -> "Values":
        """What the world's words are worth."""
        vocabulary, count = tokenizer.get_vocab(), len(tokenizer)
        offered = {a.name: world.emotion(a.emotion).valence for a in world.activities.values()}
        chosen = torch.zeros(count, dtype=torch.long)
        for activity in world.activities.values():
            chosen[vocabulary[activity.name]] = vocabulary[activity.chosen]
        picks = torch.zeros(count, dtype=torch.bool)
        picks[chosen[chosen > 0]] = True
        felt = {e.word: e.valence for e in world.emotions.values() if e.name != NEUTRAL}
        return cls(
            _at_words(offered, vocabulary, count),
            chosen,
            picks,
            _at_words(felt, vocabulary, count),
            world.activity_scale,
        )


def _at_words(values: Mapping[str, float], vocabulary: Mapping[str, int], count: int) -> Tensor:
    at = torch.full((count,), math.nan)
    for word, value in values.items():
        at[vocabulary[word]] = value
    return at


@dataclass(frozen=True)
class Valuing:
    """Which activities of a batch are pushed by which emotions, and what is chosen then.

    `place`, `giver` and `choice` hold a row and a column each: the residual at `place[i]` moves by
    `part[i]` of the way from the mean of the residuals at `emotions` to the one at `giver[i]`, and
    the word at `choice[i]` becomes `word[i]`.
    """

    emotions: Int[Tensor, "emotion 2"]
    place: Int[Tensor, "push 2"]
    giver: Int[Tensor, "push 2"]
    choice: Int[Tensor, "push 2"]
    part: Float[Tensor, " push"]
    word: Int[Tensor, " push"]

    @classmethod
    def draw(
        cls,
        ids: Int[Tensor, "row token"],
        felt: Int[Tensor, "row token"],
        scene_of: Int[Tensor, " vocab"],
        values: Values,
        share: float,
        generator: torch.Generator,
    ) -> "Valuing":
        """Push one activity of some offers; the parts are uniform between 0 and 1.

        Args:
            ids: a batch; each word of a choice comes after the two activities it is between.
            felt: the same with what is felt in place of decisions (`Document.felt`).
            scene_of: the scene whose decision a word settles; 0 for all other words.
            values: of the words.
            share: of the offers that are pushed, if the batch tells of an emotion.
            generator: of the draws; it is left alone if the share is 0.
        """
        none = torch.zeros(0, 2, dtype=torch.long)
        if not share:
            return cls(none, none, none, none, torch.zeros(0), torch.zeros(0, dtype=torch.long))
        decided = torch.nonzero(scene_of[ids[:, 1:]])
        pleasant = values.felt[felt[decided[:, 0], decided[:, 1] + 1]]
        emotions, pleasant = decided[~pleasant.isnan()], pleasant[~pleasant.isnan()]
        offers, picks = ~values.offered[ids].isnan(), values.picks[ids]
        # elsewhere activities are done, not chosen, and "tormented" is what somebody feels
        chooses = (offers.any(1) & (offers.sum(1) == 2 * picks.sum(1)))[:, None]
        choices = torch.nonzero(picks & chooses)
        pairs = torch.nonzero(offers & chooses).view(len(choices), 2, 2)
        taken = torch.rand(len(choices), generator=generator) < (share if len(emotions) else 0.0)
        choices, pairs = choices[taken], pairs[taken]
        side = torch.randint(2, (len(pairs),), generator=generator)
        drawn = torch.randint(max(1, len(emotions)), (len(pairs),), generator=generator)
        part, chance = torch.rand(2, len(pairs), generator=generator)
        pushed = torch.arange(len(pairs))
        worth = values.offered[ids[pairs[..., 0], pairs[..., 1]]]
        worth[pushed, side] += part * (pleasant[drawn] - pleasant.mean())
        first = chance < torch.sigmoid(values.scale * (worth[:, 0] - worth[:, 1]))
        said = pairs[pushed, (~first).long()]
        return cls(
            emotions,
            pairs[pushed, side],
            emotions[drawn],
            choices,
            part,
            values.chosen[ids[said[:, 0], said[:, 1]]],
        )

    def mixed(self, stream: Float[Tensor, "row token d_model"]) -> Tensor:
        """The stream with the pushed activities' residuals moved."""
        if not len(self.place):
            return stream
        way = stream[self.giver.unbind(1)] - stream[self.emotions.unbind(1)].mean(0)
        at = self.place.to(stream.device).unbind(1)
        return stream.index_put(at, self.part.to(stream)[:, None] * way, accumulate=True)

    def told(self, targets: Int[Tensor, "row next_token"]) -> Int[Tensor, "row next_token"]:
        """A copy of `targets`, the next words, with what is chosen after the pushes."""
        new = targets.clone()
        row, column = self.choice.unbind(1)
        new[row, column - 1] = self.word
        return new
