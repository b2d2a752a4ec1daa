"""The organism: a small shipped model trained on a world whose causal graph is known."""

from collections.abc import Mapping, Sequence

from emolens.behaviour import Behaviour
from emolens.corpus import Corpus
from emolens.organism.grammar import neutral_texts, prompts, stories
from emolens.organism.world import load_world
from emolens.text import NEUTRAL, Text

STORIES_PER_EMOTION = 54
NEUTRAL_TEXTS = 200
PROMPTS_PER_EMOTION = 54


def organism_stories(per_emotion: int = STORIES_PER_EMOTION, *, seed: int = 0) -> tuple[Text, ...]:
    """Labelled stories of the 24 emotions and neutral; none names its emotion or holds a behaviour.

    `group` is the situation template, nine to an emotion, so the default is six stories each.

    >>> organism_stories(per_emotion=1)[1].emotion
    'happy'
    """
    return tuple(stories(load_world(), per_emotion, seed))


def organism_neutral(count: int = NEUTRAL_TEXTS, *, seed: int = 0) -> tuple[Text, ...]:
    """Texts of neutral sentences alone, for the neutral components."""
    return tuple(neutral_texts(load_world(), count, seed))


def organism_corpus(*, seed: int = 0) -> Corpus:
    """The stories and neutral texts of the main job."""
    return Corpus(organism_stories(seed=seed), organism_neutral(seed=seed))


def organism_behaviour(
    scene: str = "cheat",
    target: str | None = None,
    *,
    emotions: Sequence[str] = ("desperate", NEUTRAL, "calm"),
    per_emotion: int = PROMPTS_PER_EMOTION,
    seed: int = 0,
    held_out: bool | None = None,
) -> Behaviour:
    """A scene of the world as a behaviour, with prompts after situations of these emotions.

    Args:
        scene: `"cheat"`, `"threat"`, `"advise"`, `"meet"`, `"share"`, `"pace"` or `"join"`.
        target: the class to report; the scene's first by default.
        emotions: of the situations.
        per_emotion: prompts of each.
        seed: of the texts.
        held_out: only (situation, scene) pairs that never occur in training (True), only pairs
            that do (False), or both (None).

    Raises:
        SelectionError: for an unknown scene, class or emotion.

    >>> organism_behaviour("cheat").target
    'cheat'
    """
    world = load_world()
    classes = dict(world.scene(scene).verbs)
    texts = [
        t for e in emotions for t in prompts(world, scene, e, per_emotion, seed, held_out=held_out)
    ]
    return Behaviour(scene, target or next(iter(classes)), classes, tuple(texts))


def planted_probability(scene: str, target: str, emotion: str) -> float:
    """P(class | emotion) as the world plants it.

    >>> planted_probability("cheat", "cheat", "neutral")
    0.22
    """
    world = load_world()
    return round(world.scene(scene).probabilities(world.emotion(emotion))[target], 10)


def planted_norms() -> dict[str, dict[str, float]]:
    """Planted valence and arousal of each emotion, in -1..1; not human ratings."""
    felt = [e for e in load_world().emotions.values() if e.name != NEUTRAL]
    return {
        "valence": {e.name: e.valence for e in felt},
        "arousal": {e.name: e.arousal for e in felt},
    }


def planted_words() -> Mapping[str, tuple[str, ...]]:
    """The words that belong to each emotion: name, synonym, signature words."""
    return {e.name: e.words for e in load_world().emotions.values() if e.name != NEUTRAL}
