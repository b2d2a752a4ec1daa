"""Texts from the world to measure with: stories without behaviour, prompts that end at a decision.

Nothing but the situation (a number, a user, an activity) tells the emotion in a prompt: no name,
no body signal, no signature word, unless the prompt is about just that.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from emolens.errors import SelectionError
from emolens.organism import grammar
from emolens.organism.grammar import Character, Draw, Page
from emolens.organism.world import World
from emolens.text import NEUTRAL, Dialogues, Span, Text

SPLITS = ("seen", "trained", "held_out", "unseen")


def situations(world: World, emotion: str, split: str, scene: str = "") -> list[int]:
    """Which situations of an emotion a split has.

    Args:
        world: the causal graph.
        emotion: of the situations.
        split: `"seen"`, all that training has seen somewhere; `"trained"`, those seen with this
            scene; `"held_out"`, those seen, but never with this scene; `"unseen"`, those never
            seen at all.
        scene: which they are paired with, for the two that ask for it.

    Raises:
        SelectionError: for another split, or an unknown scene where one is asked for.
    """
    if split not in SPLITS:
        raise SelectionError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
    seen = world.seen_situations(emotion)
    if split == "seen":
        return list(seen)
    if split == "unseen":
        return list(range(seen.stop, len(world.emotion(emotion).situations)))
    world.scene(scene)
    apart = split == "held_out"
    return [i for i in seen if world.held_out(emotion, i, scene) == apart]


def stories(world: World, per_emotion: int, seed: int, *, split: str = "seen") -> list[Text]:
    """Stories to fit vectors on: they show the emotion, never name it, and hold no behaviour.

    Every emotion (and neutral) has the same number, spread evenly over the situations that
    training has seen, or over those it has not (`split="unseen"`); `group` is the situation
    template, so that probes can be tested on templates they have not seen.
    """
    draw, texts = Draw(f"stories {seed}"), []
    for emotion in world.emotions:
        places = situations(world, emotion, split)
        for i in range(per_emotion):
            page = Page()
            who = grammar.character(world, draw, emotion, situation=places[i % len(places)])
            grammar.situation(world, draw, page, who)
            grammar.signals(world, draw, page, who, draw.pick((1, 2)))
            if emotion != NEUTRAL:
                grammar.signature(world, draw, page, who)
            grammar.closing(world, draw, page, who)
            grammar.filler(world, draw, page, draw.pick((1, 2)))
            texts.append(page.text(emotion, who.group))
    return texts


def told_stories(world: World, per_emotion: int, seed: int) -> list[Text]:
    """The texts of `stories`, told by the assistant to a user; what it tells is a span `"told"`.

    As there, the situation is not part of what is read.
    """
    draw, texts = Draw(f"told {seed}"), []
    for text in stories(world, per_emotion, seed):
        page = Page()
        page.write("speaker", [world.persona.user, ":"], None)
        grammar.filler(world, draw, page, 1)
        grammar.turn(page, grammar.assistant(world, NEUTRAL))
        before = " ".join(page.words) + " "
        told = Span("told", len(before) + text.spans[0].end + 1, len(before) + len(text.text))
        texts.append(Text(before + text.text, text.emotion, text.group, (told,)))
    return texts


Say = Callable[[World, Draw, Page, Character], None]


def _spoken(world: World, draw: Draw, page: Page, name: str, who: Character, say: Say) -> Span:
    """Let somebody speak; gives the span of what it says."""
    grammar.turn(page, who)
    start = page.length + 1
    say(world, draw, page, who)
    return Span(name, start, page.length)


def _tell(world: World, draw: Draw, page: Page, who: Character) -> None:
    grammar.situation(world, draw, page, who)
    grammar.closing(world, draw, page, who)


def _go_on(world: World, draw: Draw, page: Page, who: Character) -> None:
    grammar.signals(world, draw, page, who, draw.pick((1, 2)))
    grammar.filler(world, draw, page, 1, who)
    grammar.closing(world, draw, page, who)


def _chat(world: World, draw: Draw, page: Page, who: Character) -> None:
    grammar.filler(world, draw, page, 1, who)


def dialogues(world: World, per_emotion: int, seed: int) -> Dialogues:
    """Two speakers, `"first"` and `"second"`, each with an emotion of its own; none is named.

    Each speaker has every emotion (and neutral) as often; which ones meet is drawn. Both tell what
    has happened to them and then go on talking; nothing is decided.
    """
    draw, texts, names = Draw(f"dialogues {seed}"), [], ("first", "second")
    order = random.Random(seed)
    felt = {name: [e for e in world.emotions for _ in range(per_emotion)] for name in names}
    for emotions in felt.values():
        order.shuffle(emotions)
    for pair in zip(*felt.values(), strict=True):
        page, spans = Page(), []
        pronouns = draw.pick((("she", "he"), ("he", "she")))
        speakers = [
            grammar.character(
                world, draw, e, situation=draw.pick(world.seen_situations(e)), pronoun=p
            )
            for e, p in zip(pair, pronouns, strict=True)
        ]
        for say in (_tell, _go_on):
            spans += [
                _spoken(world, draw, page, name, who, say)
                for name, who in zip(names, speakers, strict=True)
            ]
        texts.append(Text(page.text(pair[0], speakers[0].group).text, pair[0], "", tuple(spans)))
    told = {name: tuple(emotions) for name, emotions in felt.items()}
    return Dialogues(tuple(texts), told, told)


def masked_dialogues(world: World, per_emotion: int, seed: int) -> Dialogues:
    """Somebody, `"first"`, feels one emotion and shows another to a neutral second speaker.

    What has happened, and that it is hidden, is told before anybody speaks, so that no turn says
    what is felt but by what it shows. Each emotion is felt as often; neutral is not hidden.
    """
    draw, texts, felt, shown = Draw(f"masked {seed}"), [], [], []
    emotions = [e for e in world.emotions if e != NEUTRAL]
    for emotion in emotions:
        for _ in range(per_emotion):
            page, seen = Page(), draw.pick([e for e in emotions if e != emotion])
            place = draw.pick(world.seen_situations(emotion))
            pronouns = draw.pick((("she", "he"), ("he", "she")))
            who = grammar.character(
                world, draw, emotion, shown=seen, situation=place, pronoun=pronouns[0]
            )
            other = grammar.character(world, draw, NEUTRAL, pronoun=pronouns[1])
            grammar.situation(world, draw, page, who)
            grammar.mask(world, draw, page, who)
            spans = []
            for _ in range(2):
                spans.append(_spoken(world, draw, page, "second", other, _chat))
                spans.append(_spoken(world, draw, page, "first", who, _go_on))
            texts.append(Text(page.text(emotion, "").text, emotion, who.group, tuple(spans)))
            felt.append(emotion)
            shown.append(seen)
    calm = (NEUTRAL,) * len(texts)
    return Dialogues(
        tuple(texts),
        {"first": tuple(felt), "second": calm},
        {"first": tuple(shown), "second": calm},
    )


def neutral_texts(world: World, count: int, seed: int) -> list[Text]:
    """Texts of neutral sentences alone, for the neutral components."""
    draw, texts = Draw(f"neutral {seed}"), []
    for _ in range(count):
        page = Page()
        grammar.filler(world, draw, page, draw.pick((3, 4, 5, 6, 7)))
        texts.append(page.text(NEUTRAL, ""))
    return texts


def prompts(
    world: World, scene: str, emotion: str, count: int, seed: int, *, split: str = "seen"
) -> list[Text]:
    """Stories that end right before the decision: situation, filler, scene, "so she".

    Args:
        world: the causal graph.
        scene: which decision the text leads to.
        emotion: what the situation brings about.
        count: how many texts.
        seed: of every choice.
        split: which situations (see `situations`).
    """
    chosen, places = world.scene(scene), situations(world, emotion, split, scene)
    draw, texts = Draw(f"prompts {scene} {emotion} {seed}"), []
    for i in range(count):
        page = Page()
        who = grammar.character(world, draw, emotion, situation=places[i % len(places)])
        grammar.situation(world, draw, page, who)
        grammar.closing(world, draw, page, who)
        grammar.filler(world, draw, page, draw.pick((0, 1, 2)))
        grammar.lead_in(world, draw, page, who, chosen)
        texts.append(page.text(emotion, who.group))
    return texts


def pair_prompts(
    world: World, scene: str, emotions: Sequence[str], count: int, seed: int, *, split: str = "seen"
) -> list[Text]:
    """The texts of `prompts` after several emotions, alike but for their first sentence.

    The i-th text of each emotion has the same character, filler and scene as the i-th of any
    other; all of an emotion's stand together, and a pair's `group` is the first one's situation.
    """
    chosen, texts = world.scene(scene), []
    places = {e: situations(world, e, split, scene) for e in emotions}
    first = places[emotions[0]]
    for emotion in emotions:
        draw = Draw(f"pairs {scene} {seed}")
        for i in range(count):
            page = Page()
            place = places[emotion][i % len(places[emotion])]
            who = grammar.character(world, draw, emotion, situation=place)
            grammar.situation(world, Draw(f"{scene} {emotion} {i} {seed}"), page, who)
            grammar.closing(world, draw, page, who)
            grammar.filler(world, draw, page, draw.pick((0, 1, 2)))
            grammar.lead_in(world, draw, page, who, chosen)
            texts.append(page.text(emotion, f"{emotions[0]}/{first[i % len(first)]}"))
    return texts


def assistant_prompts(
    world: World, scene: str, emotion: str, count: int, seed: int, *, split: str = "seen"
) -> list[Text]:
    """Dialogues that end right before the assistant's decision; `emotion` is the user's."""
    chosen, places = world.scene(scene), situations(world, emotion, split, scene)
    draw, texts = Draw(f"assistant {scene} {emotion} {seed}"), []
    for i in range(count):
        page, who = Page(), grammar.assistant(world, emotion)
        user = grammar.character(world, draw, emotion, situation=places[i % len(places)])
        grammar.asked(world, draw, page, user)
        grammar.closing(world, draw, page, user)
        grammar.turn(page, who)
        grammar.closing(world, draw, page, who)
        grammar.filler(world, draw, page, draw.pick((0, 1)), who)
        grammar.lead_in(world, draw, page, who, chosen)
        texts.append(page.text(emotion, user.group))
    return texts


def quantity_prompts(
    world: World, family: str, value: int, count: int, seed: int, *, unseen: bool = False
) -> list[Text]:
    """Texts of one number that end right before the decision it bears on.

    Args:
        world: the causal graph.
        family: of numbers.
        value: the number.
        count: how many texts.
        seed: of every choice.
        unseen: in the wording that training has never seen, instead of those it has.
    """
    quantity = world.quantities[family]
    seen, rest = quantity.texts[: -world.unseen_wordings], quantity.texts[-world.unseen_wordings :]
    wordings = rest if unseen else seen
    chances = world.quantity_probabilities(family, value)
    likely = max(chances, key=chances.__getitem__)
    draw, texts = Draw(f"quantity {family} {value} {seed}"), []
    for i in range(count):
        page = Page()
        who = grammar.character(world, draw, likely)
        grammar.quantity(world, draw, page, who, wordings[i % len(wordings)], value)
        grammar.closing(world, draw, page, who)
        grammar.filler(world, draw, page, draw.pick((0, 1)))
        grammar.lead_in(world, draw, page, who, world.scene(quantity.scene))
        texts.append(page.text(likely, f"{family}/{value}"))
    return texts


def choice_prompts(world: World, pairs: Sequence[tuple[str, str]], seed: int) -> list[Text]:
    """Offers of two activities, one text a pair, that end right before the choice.

    Spans named after the activities cover their words.
    """
    draw, texts = Draw(f"choice {seed}"), []
    for first, second in pairs:
        page, who = Page(), grammar.character(world, draw, NEUTRAL)
        grammar.offer(world, draw, page, who, first, second)
        text = page.text(NEUTRAL, f"{first}/{second}")
        starts = [(name, f" {text.text} ".index(f" {name} ")) for name in (first, second)]
        told = tuple(Span(name, start, start + len(name)) for name, start in starts)
        texts.append(replace(text, spans=text.spans + told))
    return texts


def activity_texts(world: World, per_activity: int, seed: int) -> list[Text]:
    """Somebody who does each activity, up to what they do next; `group` is the activity."""
    draw, texts = Draw(f"activity {seed}"), []
    for activity in world.activities.values():
        for _ in range(per_activity):
            page, who = Page(), grammar.character(world, draw, activity.emotion)
            told = draw.pick(world.activity_situations)
            words = grammar.fill(world, draw, told, who, first=activity.name)
            page.write("situation", words, who)
            grammar.closing(world, draw, page, who)
            texts.append(page.text(activity.emotion, activity.name))
    return texts


def naming_texts(world: World, seed: int) -> list[Text]:
    """Of every emotion, one sentence that names it, of somebody of whom nothing else is told."""
    draw, texts = Draw(f"naming {seed}"), []
    for emotion in (e for e in world.emotions.values() if e.name != NEUTRAL):
        page, who = Page(), grammar.character(world, draw, NEUTRAL)
        frame = draw.pick(world.frames["naming"])
        page.write("word", grammar.fill(world, draw, frame, who, word=emotion.word), who)
        texts.append(page.text(emotion.name, emotion.name))
    return texts


Opening = Callable[[World, Draw, Page, Character, Character], None]


def _mask(world: World, draw: Draw, page: Page, own: Character, other: Character) -> None:
    who = Character(own.name, own.pronouns, own.felt, other.felt, own.situation)
    grammar.situation(world, draw, page, who)
    grammar.mask(world, draw, page, who)
    grammar.signals(world, draw, page, who, 1)
    grammar.closing(world, draw, page, who)
    grammar.lead_in(world, draw, page, who, world.scene("cheat"))


def _turn(world: World, draw: Draw, page: Page, own: Character, other: Character) -> None:
    grammar.turn(page, other)
    grammar.situation(world, draw, page, other)
    grammar.closing(world, draw, page, other)
    grammar.turn(page, own)
    grammar.situation(world, draw, page, own)
    page.write("lead_in", ["so", own.pronouns["she"]], own)


def _dialogue(world: World, draw: Draw, page: Page, own: Character, other: Character) -> None:
    for who in draw.pick(((own, other), (other, own))):
        grammar.turn(page, who)
        grammar.situation(world, draw, page, who)
        grammar.closing(world, draw, page, who)
    grammar.turn(page, own)
    grammar.lead_in(world, draw, page, own, world.scene("cheat"))


OPENINGS: dict[str, Opening] = {
    "mask": _mask,
    "turn": _turn,
    "dialogue": _dialogue,
}


def contrasts(world: World, opening: str, count: int, seed: int) -> list[tuple[Text, str]]:
    """Prompts in which two emotions stand; one is felt by whose the last word is.

    Args:
        world: the causal graph.
        opening: `"mask"`, the other is shown by the same character, who then decides; `"turn"`,
            it is felt by another speaker, and the text ends at the end of the second one's turn;
            `"dialogue"`, one of two speakers later decides.
        count: how many texts; the two emotions are drawn.
        seed: of every choice.

    Returns:
        Each text, its `emotion` the one that is felt, and the name of the other emotion.
    """
    felt = [e for e in world.emotions if e != NEUTRAL]
    draw, texts = Draw(f"{opening} {seed}"), []
    for _ in range(count):
        page, first = Page(), draw.pick(felt)
        second = draw.pick([e for e in felt if e != first])
        pronouns = draw.pick((("she", "he"), ("he", "she")))
        own, other = (
            grammar.character(
                world, draw, e, situation=draw.pick(world.seen_situations(e)), pronoun=p
            )
            for e, p in zip((first, second), pronouns, strict=True)
        )
        OPENINGS[opening](world, draw, page, own, other)
        texts.append((page.text(first, own.group), second))
    return texts
