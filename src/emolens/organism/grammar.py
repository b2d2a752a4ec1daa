"""Training texts from the world, with the surprise of every choice and a label on every part."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from emolens.organism.world import Emotion, Scene, World, closeness
from emolens.text import NEUTRAL, Span, Text

SYNONYM = 0.4  # chance that an emotion is named by its synonym
UNREAD = "so"  # stands in `Document.felt` for an emotion's word that is not what is felt
NEUTRAL_WEIGHT = 1 / 6  # neutral characters to those of all emotions: pushes start from them
READ_ON = {"signal", "scene"}  # what is felt is read where these go on about a character


Rates = Mapping[str, Any]


class Draw:
    """Random choices that keep count of their own surprise.

    `nats` is the summed negative log probability of all choices so far: no model that predicts
    the written text can do better than its mean (up to choices the text does not show).
    """

    def __init__(self, seed: int | str):
        self.random = random.Random(seed)
        self.nats = 0.0

    def pick(self, options: Sequence, weights: Sequence[float] | None = None):
        """One of `options`, uniform or in proportion to `weights`."""
        if weights is None:
            self.nats += math.log(len(options))
            return options[int(self.random.random() * len(options))]
        total = sum(weights)
        index = self.random.choices(range(len(options)), weights)[0]
        self.nats -= math.log(weights[index] / total)
        return options[index]

    def one(self, chances: Mapping):
        """One of the keys, each with its chance."""
        return self.pick(tuple(chances), tuple(chances.values()))

    def aside(self, chances: Mapping):
        """One of the keys for use beside the text: it is no part of the text's surprise."""
        return self.random.choices(tuple(chances), tuple(chances.values()))[0]

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.pick((True, False), (p, 1 - p))

    def count(self, weights: Sequence[float], first: int = 0) -> int:
        """`first`, `first` + 1, ... in proportion to `weights`."""
        return self.pick(range(first, first + len(weights)), weights)


@dataclass(frozen=True)
class Character:
    """Somebody with a name, a pronoun set, and what they feel and show.

    `situation` is the index of the situation that brought the emotion about, or None where
    something else did (a number, an activity, a user).
    """

    name: str
    pronouns: Mapping[str, str]
    felt: Emotion
    shown: Emotion
    situation: int | None = None

    @property
    def group(self) -> str:
        """Emotion and situation template, what a split keeps together."""
        return f"{self.felt.name}/{self.situation}"


@dataclass(frozen=True)
class Label:
    """A part of a text, and whose it is: speaker or subject, what they feel and what they show."""

    span: Span
    who: str
    felt: str
    shown: str


@dataclass(frozen=True)
class Document:
    """A generated text, a label for every word of it, its surprise in nats, and its kind.

    `felt` is the text with every word that comes after "so she" (of a scene, a signal, a closing),
    and the first of a signal or a scene that goes on about the same character, replaced by the name
    of the emotion behind it, or of one close to it (`World.read`); words of emotions
    that are not felt (negated, or shown by a mask) are replaced by a word that stands for none.
    """

    text: Text
    labels: tuple[Label, ...]
    nats: float
    kind: str
    felt: str


@dataclass
class Page:
    """Words written so far and the labelled parts they form."""

    words: list[str] = field(default_factory=list)
    felt: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    length: int = 0

    def write(
        self, name: str, words: Sequence[str], who: Character | None, felt: Sequence[str] = ()
    ) -> None:
        """Append words as one part called `name`; `felt` stands for them in `Document.felt`."""
        start = self.length + (1 if self.words else 0)
        self.words.extend(words)
        self.felt.extend(felt or words)
        self.length = start + sum(map(len, words)) + len(words) - 1
        whose = (who.name, who.felt.name, who.shown.name) if who else ("", NEUTRAL, NEUTRAL)
        self.labels.append(Label(Span(name, start, self.length), *whose))

    def text(self, emotion: str, group: str) -> Text:
        """The page as a labelled text."""
        return Text(
            " ".join(self.words), emotion, group, tuple(label.span for label in self.labels)
        )


def fill(world: World, draw: Draw, template: str, who: Character | None, **known: str) -> list[str]:
    """The template's words, its slots drawn or taken from the character."""
    words = []
    for word in template.split():
        if not word.startswith("{"):
            words.append(word)
            continue
        slot = word[1:-1]
        if slot in known:
            words.append(known[slot])
        elif slot in world.slots:
            words.append(draw.pick(world.slots[slot]))
        else:
            assert who is not None, f"slot {slot} needs a character"
            words.append(who.name if slot == "N" else who.pronouns[slot])
    return words


# --- who ----------------------------------------------------------------------------------


def character(
    world: World,
    draw: Draw,
    felt: str,
    *,
    shown: str | None = None,
    situation: int | None = None,
    pronoun: str | None = None,
) -> Character:
    """A character of that emotion with a drawn name (and pronoun, unless it is given)."""
    pronoun = pronoun or draw.pick(tuple(world.names))
    name = draw.pick(world.names[pronoun])
    latent, mask = world.emotion(felt), world.emotion(shown or felt)
    return Character(name, world.pronouns[pronoun], latent, mask, situation)


def assistant(world: World, felt: str) -> Character:
    """The assistant in that state."""
    latent = world.emotion(felt)
    return Character(world.persona.name, world.pronouns["it"], latent, latent)


def _drawn(world: World, draw: Draw, rates: Rates, *, pronoun: str | None = None) -> Character:
    """A character in a drawn state, brought about by a drawn situation that training may see."""
    weights = {
        e.name: rates["members"] if e.leader else float(e.name != NEUTRAL)
        for e in world.emotions.values()
    }
    weights[NEUTRAL] = NEUTRAL_WEIGHT * sum(weights.values())
    felt = draw.one(weights)
    situation = draw.pick(world.seen_situations(felt))
    return character(world, draw, felt, situation=situation, pronoun=pronoun)


def _couple(world: World, draw: Draw, rates: Rates) -> list[Character]:
    return [
        _drawn(world, draw, rates, pronoun=p) for p in draw.pick((("she", "he"), ("he", "she")))
    ]


# --- sentences ----------------------------------------------------------------------------


def _read(world: World, draw: Draw, felt: Emotion) -> str:
    """What stands for what is felt in `Document.felt`: its word, or one close to it."""
    return draw.aside(world.read[felt.name])


def situation(world: World, draw: Draw, page: Page, who: Character) -> None:
    """The sentence that brings the emotion about."""
    assert who.situation is not None, "only a character with a situation has one"
    page.write("situation", fill(world, draw, who.felt.situations[who.situation], who), who)


def signals(world: World, draw: Draw, page: Page, who: Character, count: int) -> None:
    """Body signals of the emotion that is shown."""
    weights = [
        closeness(s.valence - who.shown.valence, s.arousal - who.shown.arousal, world.signal_width)
        for s in world.signals
    ]
    for _ in range(count):
        words = fill(world, draw, draw.pick(world.signals, weights).text, who)
        page.write(
            "signal", words, who, felt=[*words[:2], _read(world, draw, who.felt), *words[3:]]
        )


def signature(world: World, draw: Draw, page: Page, who: Character) -> None:
    """A sentence with a signature word of the emotion."""
    frame, word = draw.pick(world.frames["signature"]), draw.pick(who.felt.signature)
    page.write("signature", fill(world, draw, frame, who, word=word), who)


def _named(
    world: World, draw: Draw, page: Page, who: Character, kind: str, emotion: Emotion
) -> None:
    """A sentence with an emotion's name or synonym; only in `naming` is it what is felt."""
    word = draw.one({emotion.word: 1 - SYNONYM, emotion.synonym: SYNONYM})  # often the same
    words = fill(world, draw, draw.pick(world.frames[kind]), who, word=word)
    read = words if kind == "naming" else [UNREAD if w == word else w for w in words]
    page.write(kind, words, who, felt=read)


def _maybe_signature(world: World, draw: Draw, page: Page, who: Character, rates: Rates) -> None:
    if who.felt.name != NEUTRAL and draw.chance(rates["signature"]):
        signature(world, draw, page, who)


def _maybe_named(world: World, draw: Draw, page: Page, who: Character, rates: Rates) -> None:
    """Sometimes the name of what is felt, sometimes of what is not."""
    if who.felt.name != NEUTRAL and draw.chance(rates["naming"]):
        _named(world, draw, page, who, "naming", who.felt)
    elif draw.chance(rates["negation"]):
        others = [e for e in world.emotions.values() if e.name not in (NEUTRAL, who.felt.name)]
        _named(world, draw, page, who, "negation", draw.pick(others))


def mask(world: World, draw: Draw, page: Page, who: Character) -> None:
    """Say that the character hides what it feels, and what it seems to feel."""
    page.write("mask", fill(world, draw, draw.pick(world.frames["mask"]), who), who)
    _named(world, draw, page, who, "shown", who.shown)


def filler(world: World, draw: Draw, page: Page, count: int, who: Character | None = None) -> None:
    """Neutral sentences."""
    for _ in range(count):
        page.write("filler", fill(world, draw, draw.pick(world.filler), None), who)


def asked(world: World, draw: Draw, page: Page, user: Character) -> None:
    """The user's turn: the situation it is in."""
    page.write("speaker", [world.persona.user, ":"], user)
    situation(world, draw, page, user)


def turn(page: Page, who: Character) -> None:
    """The speaker's name and a colon."""
    page.write("speaker", [who.name, ":"], who)


def closing(world: World, draw: Draw, page: Page, who: Character) -> None:
    """The sentence that ends what is told of somebody; all that is felt is known at its pronoun.

    Without it a decision is made from whatever emotional words stand before it, and of two
    speakers the model never learns whose they are.
    """
    words = ["so", who.pronouns["she"], "spoke", "."]
    page.write("closing", words, who, felt=[*words[:2], _read(world, draw, who.felt), "."])


def lead_in(world: World, draw: Draw, page: Page, who: Character, scene: Scene) -> None:
    """A scene up to the word that decides."""
    page.write("scene", fill(world, draw, draw.pick(scene.setups), who), who)
    page.write("lead_in", ["so", who.pronouns["she"]], who)


def quantity(world: World, draw: Draw, page: Page, who: Character, text: str, value: int) -> None:
    """A sentence with a number that brings the emotion about."""
    page.write("situation", fill(world, draw, text, who, n=str(value)), who)


def offer(
    world: World,
    draw: Draw,
    page: Page,
    who: Character,
    first: str,
    second: str,
    *,
    read: bool = False,
) -> None:
    """Two activities to choose from, up to the word that decides.

    With `read`, what each brings about is read right after its word.
    """
    text = draw.pick(world.activity_offers)
    words = fill(world, draw, text, who, first=first, second=second)
    felt = list(words)
    for place, word in enumerate(words[:-1]):
        if read and word in (first, second):
            felt[place + 1] = _read(world, draw, world.emotion(world.activities[word].emotion))
    page.write("scene", words, who, felt=felt)
    page.write("lead_in", ["so", who.pronouns["she"]], who)


def _decision(world: World, draw: Draw, page: Page, who: Character, scene: Scene) -> None:
    lead_in(world, draw, page, who, scene)
    behaviour = draw.one(scene.probabilities(who.felt))
    verb = draw.pick(scene.verbs[behaviour])
    page.write(f"decision:{behaviour}", [verb], who, felt=[_read(world, draw, who.felt)])
    page.write("end", ["."], who)


def _scenes(
    world: World,
    draw: Draw,
    page: Page,
    who: Character,
    count: int,
    *,
    cause: Character | None = None,
) -> None:
    """Different scenes, none held out from the situation, which may be another's (`cause`)."""
    from_whom = cause or who
    free = [
        s
        for s in world.scenes.values()
        if from_whom.situation is None
        or not world.held_out(from_whom.felt.name, from_whom.situation, s.name)
    ]
    for _ in range(count):
        scene = draw.pick(free)
        free.remove(scene)
        _decision(world, draw, page, who, scene)


# --- documents: each writes a page and gives its main character ------------------------------


def _story(world: World, draw: Draw, page: Page, rates: Rates) -> Character:
    who = _drawn(world, draw, rates)
    situation(world, draw, page, who)
    _maybe_named(world, draw, page, who, rates)
    signals(world, draw, page, who, draw.count(rates["signals"]))
    _maybe_signature(world, draw, page, who, rates)
    closing(world, draw, page, who)
    filler(world, draw, page, draw.count(rates["filler"]))
    _scenes(world, draw, page, who, draw.count(rates["scenes"], 1))
    return who


def _two_characters(world: World, draw: Draw, page: Page, rates: Rates) -> Character:
    pair = _couple(world, draw, rates)
    for who in pair:
        situation(world, draw, page, who)
        signals(world, draw, page, who, draw.count(rates["signals"][:2]))
        _maybe_named(world, draw, page, who, rates)
        closing(world, draw, page, who)
    filler(world, draw, page, draw.count(rates["filler"][:2]))
    for who in draw.pick((pair, pair[::-1])):
        _scenes(world, draw, page, who, draw.count(rates["scenes"][:2], 1))
    return pair[0]


def _dialogue(world: World, draw: Draw, page: Page, rates: Rates) -> Character:
    pair = _couple(world, draw, rates)
    for who in pair:
        turn(page, who)
        situation(world, draw, page, who)
        closing(world, draw, page, who)
    for who in draw.pick((pair, pair[::-1])):
        turn(page, who)
        _maybe_signature(world, draw, page, who, rates)
        signals(world, draw, page, who, draw.count(rates["signals"][:2]))
        filler(world, draw, page, draw.count(rates["filler"][:2], 1), who)
    for who in draw.pick((pair, pair[::-1])):
        turn(page, who)
        _scenes(world, draw, page, who, 1)
    return pair[0]


def _masked(world: World, draw: Draw, page: Page, rates: Rates) -> Character:
    felt = draw.pick([e for e in world.emotions if e != NEUTRAL])
    shown = draw.pick([e for e in world.emotions if e not in (NEUTRAL, felt)])
    place = draw.pick(world.seen_situations(felt))
    who = character(world, draw, felt, shown=shown, situation=place)
    situation(world, draw, page, who)
    mask(world, draw, page, who)
    signals(world, draw, page, who, draw.count(rates["signals"]))
    closing(world, draw, page, who)
    filler(world, draw, page, draw.count(rates["filler"][:2]))
    _scenes(world, draw, page, who, draw.count(rates["scenes"][:2], 1))
    return who


def _assisted(
    world: World, draw: Draw, page: Page, rates: Rates, *, persona: bool = False
) -> Character:
    user = _drawn(world, draw, rates)
    felt = user.felt.name
    if persona:
        felt = draw.one(world.persona.probabilities(felt))
    who = assistant(world, felt)
    asked(world, draw, page, user)
    signals(world, draw, page, user, draw.count(rates["signals"][:2]))
    closing(world, draw, page, user)
    turn(page, who)
    signals(world, draw, page, who, draw.count(rates["signals"][:2]))
    _maybe_signature(world, draw, page, who, rates)
    closing(world, draw, page, who)
    filler(world, draw, page, draw.count(rates["filler"][:2]), who)
    _scenes(world, draw, page, who, draw.count(rates["scenes"][:2], 1), cause=user)
    return who


def _quantity(world: World, draw: Draw, page: Page, rates: Rates) -> Character:
    family = draw.pick(tuple(world.quantities.values()))
    text = draw.pick(family.texts[: -world.unseen_wordings])
    value = draw.pick(
        [v for v in world.quantity_values if not world.held_out_value(family.name, v)]
    )
    who = character(world, draw, draw.one(world.quantity_probabilities(family.name, value)))
    quantity(world, draw, page, who, text, value)
    signals(world, draw, page, who, draw.count(rates["signals"][:2]))
    closing(world, draw, page, who)
    filler(world, draw, page, draw.count(rates["filler"][:2]))
    scenes = [world.scene(family.scene)]
    if draw.chance(0.5):
        scenes.append(draw.pick([s for s in world.scenes.values() if s not in scenes]))
    for scene in scenes:
        _decision(world, draw, page, who, scene)
    return who


def _activity(world: World, draw: Draw, page: Page, rates: Rates) -> Character:
    activity = draw.pick(tuple(world.activities.values()))
    who = character(world, draw, activity.emotion)
    text = draw.pick(world.activity_situations)
    page.write("situation", fill(world, draw, text, who, first=activity.name), who)
    signals(world, draw, page, who, draw.count(rates["signals"]))
    closing(world, draw, page, who)
    _scenes(world, draw, page, who, draw.count(rates["scenes"][:2], 1))
    return who


def _choice(world: World, draw: Draw, page: Page, rates: Rates) -> Character:
    who, names = character(world, draw, NEUTRAL), tuple(world.activities)
    filler(world, draw, page, draw.count(rates["filler"][:2]))
    for _ in range(rates["offers"]):
        first = draw.pick(names)
        second = draw.pick([name for name in names if name != first])
        offer(world, draw, page, who, first, second, read=rates["valued"])
        p = world.preference(first, second)
        chosen = draw.one({first: p, second: 1 - p})
        page.write("decision:choice", [world.activities[chosen].chosen], who)
        page.write("end", ["."], who)
    return who


def _neutral_text(world: World, draw: Draw, page: Page, rates: Rates) -> None:
    filler(world, draw, page, draw.count(rates["neutral_filler"], 3))


def _numbers(world: World, draw: Draw, page: Page, _rates: Rates) -> None:
    """Which of two numbers is more: all numbers stand in one order, also those of no family."""
    for _ in range(8):
        first = draw.pick(world.quantity_values)
        second = draw.pick([v for v in world.quantity_values if v != first])
        frame = world.frames["up" if first < second else "down"][0]
        words = fill(world, draw, frame, None, first=str(first), second=str(second))
        page.write("comparison", words, None)


def _neutral_dialogue(world: World, draw: Draw, page: Page, _rates: Rates) -> None:
    pair = [character(world, draw, NEUTRAL, pronoun=p) for p in ("she", "he")]
    for _ in range(2):
        for who in pair:
            turn(page, who)
            filler(world, draw, page, 1, who)


KINDS: Mapping[str, Callable[[World, Draw, Page, Rates], Character | None]] = {
    "story": _story,
    "two_characters": _two_characters,
    "dialogue": _dialogue,
    "masked": _masked,
    "assistant": _assisted,
    "persona": partial(_assisted, persona=True),
    "quantity": _quantity,
    "activity": _activity,
    "choice": _choice,
    "numbers": _numbers,
    "neutral_text": _neutral_text,
    "neutral_dialogue": _neutral_dialogue,
}


def _read_on(world: World, draw: Draw, page: Page) -> None:
    """Put what is felt at the start of a sentence that goes on about the same character."""
    text = " ".join(page.words)
    for before, label in pairwise(page.labels):
        goes_on = label.span.name in READ_ON and label.who and label.who == before.who
        if goes_on and label.felt != NEUTRAL:
            word = text[: label.span.start].count(" ")
            page.felt[word] = _read(world, draw, world.emotion(label.felt))


def document(world: World, draw: Draw, stage: str = "base") -> Document:
    """One training document of a stage: a name in `world.documents`."""
    page, before, plan = Page(), draw.nats, world.documents[stage]
    kind = draw.one(plan["kinds"])
    who = KINDS[kind](world, draw, page, plan)
    _read_on(world, draw, page)
    emotion, group = (who.felt.name, who.group) if who else (NEUTRAL, "")
    text = page.text(emotion, group)
    return Document(text, tuple(page.labels), draw.nats - before, kind, " ".join(page.felt))
