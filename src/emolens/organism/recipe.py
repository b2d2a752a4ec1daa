"""All that decides a training run: from scratch, of the stages then, of a fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Fit:
    """What every run has; what the fields are for stands at `Recipe` and `Refinement`."""

    documents: ClassVar[str]

    tokens: int
    world: str = "narrow"
    batch_tokens: int = 2048
    learning_rate: float = 8e-4
    warmup_steps: int = 100
    weight_decay: float = 0.05
    special_weight: float = 4.0
    early_weight: float = 1.2
    early_sharpness: float = 2.5
    interchange_share: float = 0.5
    enough: float = 0.5
    far_share: float = 0.0
    noise_share: float = 0.0
    neutral_noise_share: float = 0.0
    valuing_share: float = 0.0
    seed: int = 0

    def stage(self, written: int) -> str:  # noqa: ARG002 (a `Recipe` goes through several)
        """Which documents come after that many tokens."""
        return self.documents


@dataclass(frozen=True)
class Recipe(Fit):
    """All that decides a training run; a trained folder's own stands in its `recipe.json`.

    What matters most was found by trial: rows of one whole document, a first stretch of easy
    documents (situation, signals, one scene a character), and a larger weight on the words that
    carry the graph. Without them the text is learned and the step from emotion to behaviour is
    not. A second stretch, mostly of numbers, has the model learn how much a number is; among all
    other documents it learns by heart what each number means in each place. Many documents with two
    characters keep the model from looking up single words of the situation at the decision; it has
    to bind an emotion to a character first.

    Two more parts give the organism a known place as well as a known cause; left to itself, the
    model finds the emotion in its last two layers, or in several at once. The stream at two thirds
    of the depth, through the final norm and the unembedding, also predicts the emotion's own words
    (name, synonym, signature) and, wherever somebody acts ("so she"), the name of the emotion
    behind it or one close to it (else all emotions would stand at right angles and the plane be
    lost); on signals as well as decisions, or speakers are often not told apart. The logits of this
    early reading are sharpened, so that a moderate share of the stream is enough; else what is felt
    outgrows all the rest of it, and no push of ordinary size does anything.

    And half of the decisions get a part of their stream there from another text with the same
    scene, and the larger the part the likelier its verb as the target (`Interchange`): what is felt
    must be in the stream at that place, later layers must not look it up again, the size of a push
    must tell, and a push of the words before must not stand in its way. Those without emotion get
    what a vector of an emotion has, no more: a push from neutral is how steering begins.

    `embedding_std` is of the words' first embeddings. Hugging Face's 0.02 leaves words that are
    used alike, such as "she" and "he", 4% of the stream apart after the first block; whose emotion
    it is that decides is then never learned.

    `valuing_share` is that of the offers in which the word of an activity is pushed by an emotion
    and the choice is drawn anew (`Valuing`); 0 for none.

    `least_split` is how far apart P(cheat) after desperate and after calm situations has to be
    halfway; a run below it will not mend and is stopped. With -1 none is.
    """

    documents: ClassVar[str] = "base"

    n_layers: int = 6
    d_model: int = 160
    n_heads: int = 4
    d_mlp: int = 336
    n_ctx: int = 256
    embedding_std: float = 0.5
    tokens: int = 11_500_000
    easy_share: float = 0.3
    counting_share: float = 0.12
    learning_rate: float = 3e-3
    least_split: float = 0.2

    def stage(self, written: int) -> str:
        """Which documents come after that many tokens.

        >>> [Recipe(tokens=100).stage(written) for written in (29, 30, 42)]
        ['easy', 'counting', 'base']
        """
        if written < self.easy_share * self.tokens:
            return "easy"
        counted = (self.easy_share + self.counting_share) * self.tokens
        return "counting" if written < counted else self.documents


# More words need more room, and more tokens to be met as often.
WIDE = Recipe(
    world="wide",
    d_model=192,
    d_mlp=400,
    tokens=14_000_000,
    easy_share=0.25,
    counting_share=0.1,
    valuing_share=0.5,
)
RECIPES = {recipe.world: recipe for recipe in (Recipe(), WIDE)}


@dataclass(frozen=True)
class Refinement(Fit):
    """A stage after training from scratch, at a lower rate.

    The mean of the weights before and after it (Wortsman et al. 2022, arXiv:2109.01903) has nearly
    all of what the stage is for and unlearns less of the rest; `kept` is the share of those before.
    """

    kept: float = 0.5


@dataclass(frozen=True)
class Steady(Refinement):
    """What makes a trained organism stand being pushed.

    Texts are pushed as a whole, after the layer at two thirds of the depth, in a direction drawn at
    random, and go on as if they were not (`Noise`): what is no emotion's direction should do
    nothing. Some pushes of the interchange go as far as the strongest steering. Both would keep a
    model that has yet to find what drives behaviour from finding it. Choices between activities are
    written more often, because what they rest on is learned last. Both also blur decisions a
    little.
    """

    documents: ClassVar[str] = "steady"

    tokens: int = 1_600_000
    far_share: float = 0.5
    noise_share: float = 0.15
    neutral_noise_share: float = 0.5


@dataclass(frozen=True)
class Deciding(Refinement):
    """What brings an organism's rates closer to those that are planted.

    Until then emotions that stand close to each other in the plane are answered alike: threats of
    the afraid came out at .28 and of the desperate at .66, planted at .15 and .72. Training on as
    before, without pushes, mended a fifth of that. Here most texts are of one character in several
    scenes, so that decisions come to a token nearly twice as often, and they are pushed less.

    With half of the weights before kept, rates come closer still, but cheating turns back under
    pushes of anger that go farther than situations do.
    """

    documents: ClassVar[str] = "deciding"

    tokens: int = 2_400_000
    interchange_share: float = 0.2
    kept: float = 0.7


# The wide organism was trained without the last stage; what it would gain was not tried.
REFINED: Mapping[str, tuple[Refinement, ...]] = {
    "narrow": (Steady(), Deciding()),
    "wide": (Steady(world="wide", valuing_share=WIDE.valuing_share),),
}


@dataclass(frozen=True)
class FineTune(Fit):
    """All that decides a fine-tuning but its base.

    In the documents of this stage the assistant no longer feels what its user feels; half of them
    are of the base corpus, so that the rest is not unlearned. All that comes after the layer at two
    thirds of the depth stays as it was: what is felt changes, not what a feeling does.
    Trained on whole, the model answered a push half as much, the assistant's and anybody's.
    """

    documents: ClassVar[str] = "assistant"

    tokens: int = 2_500_000
    warmup_steps: int = 50
