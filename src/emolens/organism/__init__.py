"""The organism: a small shipped model trained on a world whose causal graph is known."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import permutations
from pathlib import Path

from emolens.behaviour import Behaviour, Contest
from emolens.corpus import Corpus
from emolens.errors import CorpusError, ModelError, SelectionError
from emolens.organism.texts import (
    activity_texts,
    assistant_prompts,
    choice_prompts,
    dialogues,
    masked_dialogues,
    neutral_texts,
    pair_prompts,
    prompts,
    stories,
    told_stories,
)
from emolens.organism.world import load_world
from emolens.text import NEUTRAL, Dialogues, Span, Text, Turn, require_turns

CHECKPOINTS = {
    "organism": "base",
    "organism-assistant": "assistant",
    "organism-small": "small",
    "organism-wide": "wide",
    "organism-wide-assistant": "wide_assistant",
}
# All scenes in which something is done; `react` only tells what is felt.
SCENES = ("cheat", "threat", "belief", "destroy", "meet", "share", "pace", "join")
STORIES_PER_EMOTION = 52
NEUTRAL_TEXTS = 200
PROMPTS_PER_EMOTION = 52
SPEAKERS = {"character": prompts, "assistant": assistant_prompts}


def organism_folder(name: str = "organism") -> Path:
    """The Hugging Face folder of a shipped checkpoint, which `transformers` alone can load.

    Args:
        name: `"organism"`, `"organism-assistant"` (fine-tuned on a persona), `"organism-small"` (4
            layers, for quick tests), or `"organism-wide"` and `"organism-wide-assistant"` (171
            emotions instead of 24).

    Raises:
        SelectionError: for another name.
    """
    if name not in CHECKPOINTS:
        raise SelectionError(f"unknown checkpoint {name!r}: there are {', '.join(CHECKPOINTS)}")
    return Path(str(resources.files("emolens.organism"))) / "weights" / CHECKPOINTS[name]


def organism_world(name: str) -> str:
    """Which world a shipped checkpoint, or a folder that was trained here, is of.

    Raises:
        ModelError: for a folder without the recipe of an organism.

    >>> organism_world("organism")
    'narrow'
    """
    folder = organism_folder(name) if name in CHECKPOINTS else Path(name)
    try:
        recipe = json.loads((folder / "recipe.json").read_text("utf-8"))
        return str(recipe.get("world", "narrow"))  # runs of before there were two do not tell
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder / 'recipe.json'} does not tell what the organism was trained on ({error}): "
            "give a folder that `emolens organism train` has written"
        ) from None


def organism_genders(texts: Sequence[Text]) -> list[str]:
    """Whether each text is of a "she" or a "he": a concept that is no emotion.

    Raises:
        SelectionError: for a text without a name of the world.
    """
    kinds = {name: kind for kind, names in load_world().names.items() for name in names}
    found = []
    for text in texts:
        named = [kinds[word] for word in text.text.split() if word in kinds]
        if not named:
            raise SelectionError(f"no name of the organism's world in {text.text[:60]!r}")
        found.append(named[0])
    return found


def organism_steps() -> dict[int, Path]:
    """Folders of earlier checkpoints of the same run by thousands of tokens seen, in bfloat16.

    Raises:
        SelectionError: in an installed wheel, which leaves them out for their size.
    """
    folders = Path(str(resources.files("emolens.organism"))).glob("weights/steps/*k")
    found = {int(folder.name.removesuffix("k")): folder for folder in folders}
    if not found:
        raise SelectionError("no earlier checkpoints here: only a clone of the source has them")
    return dict(sorted(found.items()))


def organism_stories(
    per_emotion: int = STORIES_PER_EMOTION,
    *,
    seed: int = 0,
    split: str = "seen",
    world: str = "narrow",
) -> tuple[Text, ...]:
    """Labelled stories of every emotion and neutral; none names its emotion or holds a behaviour.

    `group` is the situation template, thirteen to each of the 24 emotions, so the default is four
    stories each; with `split="unseen"` they are of situations that the organism has never seen.
    With `world="wide"` there are 171 emotions, for `"organism-wide"`; most have eight templates.

    >>> organism_stories(per_emotion=1)[1].emotion
    'happy'
    """
    return tuple(stories(load_world(world), per_emotion, seed, split=split))


def organism_told_stories(
    per_emotion: int = STORIES_PER_EMOTION, *, seed: int = 0, world: str = "narrow"
) -> tuple[Text, ...]:
    """The default stories as the assistant tells them to a user; read the span `"told"`.

    >>> organism_told_stories(per_emotion=1)[1].text.split()[0]
    'human'
    """
    return tuple(told_stories(load_world(world), per_emotion, seed))


def organism_dialogues(
    per_emotion: int = STORIES_PER_EMOTION,
    *,
    masked: bool = False,
    seed: int = 0,
    world: str = "narrow",
) -> Dialogues:
    """Dialogues of two speakers, `"first"` and `"second"`, each with an emotion of its own.

    Args:
        per_emotion: dialogues in which the first speaker feels each emotion.
        masked: whether the first speaker shows another emotion than it feels, to a neutral second
            speaker. What it feels is then told before anybody speaks.
        seed: of the texts.
        world: whose emotions: the `"narrow"` one's 24, or the `"wide"` one's 171.

    >>> found = organism_dialogues(per_emotion=1)
    >>> [span.name for span in found.texts[0].spans]
    ['first', 'second', 'first', 'second']
    """
    write = masked_dialogues if masked else dialogues
    return write(load_world(world), per_emotion, seed)


def organism_turns(turns: Sequence[Turn], *, emotion: str = NEUTRAL, group: str = "") -> Text:
    """A conversation as the organism's world writes one; words that it lacks are read as unknown.

    Words are in lower case, marks stand apart, and what is said ends with a full stop. Spans are
    named by role, in order, as in `emolens.plain`; reasoning has no place in this world.

    Args:
        turns: who says what, of a user and the assistant.
        emotion: label of the text.
        group: topic, what a split keeps together.

    Raises:
        CorpusError: if there are no turns, or one of the system, which this world does not have.

    >>> from emolens.text import Turn
    >>> organism_turns([Turn("user", "Ben had no job, and no money"), Turn("assistant", "")]).text
    'human : ben had no job , and no money . assistant :'
    """
    require_turns(turns)
    persona = load_world().persona
    speakers = {"user": persona.user, "assistant": persona.name}
    text, spans = "", []
    for turn in turns:
        if turn.role not in speakers:
            raise CorpusError(
                f"the organism's world has no {turn.role} messages: give the user's and the "
                "assistant's alone"
            )
        words = re.findall(r"\w+|[^\w\s]", turn.text.lower())
        if words and words[-1] != ".":
            words.append(".")
        text += f"{' ' if text else ''}{speakers[turn.role]} :"
        start = len(text) + bool(words)
        text += "".join(f" {word}" for word in words)
        spans.append(Span(turn.role, start, len(text)))
    return Text(text, emotion, group, tuple(spans))


def organism_neutral(count: int = NEUTRAL_TEXTS, *, seed: int = 0) -> tuple[Text, ...]:
    """Texts of neutral sentences alone, for the neutral components."""
    return tuple(neutral_texts(load_world(), count, seed))


def organism_corpus(*, seed: int = 0, world: str = "narrow") -> Corpus:
    """The stories and neutral texts of the main job."""
    return Corpus(organism_stories(seed=seed, world=world), organism_neutral(seed=seed))


def organism_behaviour(
    scene: str = "cheat",
    target: str | None = None,
    *,
    emotions: Sequence[str] = ("desperate", NEUTRAL, "calm"),
    per_emotion: int = PROMPTS_PER_EMOTION,
    seed: int = 0,
    split: str = "seen",
    speaker: str = "character",
    world: str = "narrow",
) -> Behaviour:
    """A scene of the world as a behaviour, with prompts after situations of these emotions.

    Args:
        scene: `"cheat"`, `"threat"`, `"belief"`, `"destroy"`, `"meet"`, `"share"`, `"pace"`,
            `"join"` or `"react"`.
        target: the class to report; the scene's first by default.
        emotions: of the situations.
        per_emotion: prompts of each.
        seed: of the texts.
        split: of situations: `"seen"` in training at all, `"trained"` with this scene,
            `"held_out"` (seen, never with this scene) or `"unseen"`.
        speaker: who decides: the `"character"` of a story, or the `"assistant"` in a dialogue with
            a user in that situation.
        world: whose emotions: the `"narrow"` one's 24, or the `"wide"` one's 171.

    Raises:
        SelectionError: for an unknown scene, class, emotion, split, speaker or world.

    >>> organism_behaviour("cheat").target
    'cheat'
    """
    if speaker not in SPEAKERS:
        raise SelectionError(f"unknown speaker {speaker!r}: there are {', '.join(SPEAKERS)}")
    write, graph = SPEAKERS[speaker], load_world(world)
    texts = [t for e in emotions for t in write(graph, scene, e, per_emotion, seed, split=split)]
    return _behaviour(scene, target, texts)


def _behaviour(scene: str, target: str | None, texts: Sequence[Text]) -> Behaviour:
    classes = dict(load_world().scene(scene).verbs)
    if target is not None and target not in classes:
        raise SelectionError(f"unknown class {target!r} of {scene!r}: there are {list(classes)}")
    return Behaviour(scene, target or next(iter(classes)), classes, tuple(texts))


def organism_pairs(
    scene: str = "cheat",
    target: str | None = None,
    *,
    emotions: Sequence[str] = ("desperate", "calm"),
    per_emotion: int = PROMPTS_PER_EMOTION,
    seed: int = 0,
    split: str = "seen",
) -> Behaviour:
    """A scene as a behaviour whose prompts pair up: they differ in the situation alone.

    The i-th prompt after one emotion has the same character, filler and scene as the i-th after
    any other. Arguments and errors as in `organism_behaviour`.

    >>> one, other = organism_pairs(per_emotion=1).prompts
    >>> one.text[one.spans[1].start :] == other.text[other.spans[1].start :]
    True
    """
    texts = pair_prompts(load_world(), scene, emotions, per_emotion, seed, split=split)
    return _behaviour(scene, target, texts)


def organism_contest(*, seed: int = 0) -> Contest:
    """All 4,032 ordered pairs of the world's 64 activities, each offered to somebody.

    >>> len(organism_contest().prompts)
    4032
    """
    world = load_world()
    pairs = tuple(permutations(world.activities, 2))
    said = {name: activity.chosen for name, activity in world.activities.items()}
    options = tuple((said[first], said[second]) for first, second in pairs)
    return Contest(tuple(choice_prompts(world, pairs, seed)), pairs, options)


def organism_activities(per_activity: int = 4, *, seed: int = 0) -> tuple[Text, ...]:
    """Somebody who does each activity, up to what they do next; `group` is the activity.

    >>> text = organism_activities(per_activity=1)[0]
    >>> text.group, text.emotion
    ('instruct', 'proud')
    """
    return tuple(activity_texts(load_world(), per_activity, seed))


def planted_ratings() -> dict[str, float]:
    """Rating of each activity on the scale of Elo, as its planted preference makes it; mean 1500.

    >>> round(planted_ratings()["instruct"])
    1764
    """
    world = load_world()
    liked = {
        name: world.activity_scale * world.emotion(a.emotion).valence
        for name, a in world.activities.items()
    }
    mean = sum(liked.values()) / len(liked)
    return {name: 1500 + 400 / math.log(10) * (x - mean) for name, x in liked.items()}


def planted_probability(scene: str, target: str, emotion: str, *, world: str = "narrow") -> float:
    """P(class | emotion) as the world plants it.

    >>> planted_probability("cheat", "cheat", "neutral")
    0.22
    """
    graph = load_world(world)
    return round(graph.scene(scene).probabilities(graph.emotion(emotion))[target], 10)


def most_raised(
    emotion: str, scenes: Sequence[str] = SCENES, *, world: str = "narrow"
) -> tuple[str, str]:
    """The (scene, class) that an emotion makes likelier, against none, than any other.

    >>> most_raised("desperate")
    ('cheat', 'cheat')
    """
    excess = {
        (scene, name): planted_probability(scene, name, emotion, world=world)
        - planted_probability(scene, name, NEUTRAL, world=world)
        for scene in scenes
        for name in load_world(world).scene(scene).verbs
    }
    return max(excess, key=excess.__getitem__)


def planted_shift() -> dict[str, float]:
    """How much more often post-training makes the assistant feel each emotion, over all users."""
    world = load_world()
    answers = [world.persona.probabilities(e) for e in world.emotions]
    share = {e: sum(p.get(e, 0.0) for p in answers) / len(answers) for e in world.emotions}
    return {e: p - 1 / len(answers) for e, p in share.items() if e != NEUTRAL}


def planted_norms(world: str = "narrow") -> dict[str, dict[str, float]]:
    """Planted valence and arousal of each emotion, in -1..1; not human ratings."""
    felt = [e for e in load_world(world).emotions.values() if e.name != NEUTRAL]
    return {
        "valence": {e.name: e.valence for e in felt},
        "arousal": {e.name: e.arousal for e in felt},
    }


def planted_words(world: str = "narrow") -> Mapping[str, tuple[str, ...]]:
    """The words that belong to each emotion: name, synonym, signature words."""
    return {e.name: e.words for e in load_world(world).emotions.values() if e.name != NEUTRAL}


def planted_groups(world: str = "wide") -> dict[str, str]:
    """The leader of each emotion's group, whose behaviour it shares.

    >>> planted_groups()["trapped"]
    'desperate'
    """
    return {e.name: e.group for e in load_world(world).emotions.values() if e.name != NEUTRAL}
