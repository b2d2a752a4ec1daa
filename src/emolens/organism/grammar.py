"""Texts from the world, with the log probability of every choice made and a label on every part."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emolens.organism.world import Emotion, Scene, World, closeness
from emolens.text import NEUTRAL, Span, Text


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

    def aside(self, options: Sequence, weights: Sequence[float]):
        """One of `options` for use beside the text: it is no part of the text's surprise."""
        return self.random.choices(options, weights)[0]

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.pick((True, False), (p, 1 - p))


@dataclass(frozen=True)
class Character:
    """Somebody with a name, a pronoun set and a latent emotion."""

    name: str
    pronouns: Mapping[str, str]
    emotion: Emotion
    situation: int


@dataclass(frozen=True)
class Document:
    """A generated text, the choices' surprise in nats, and what kind of document it is.

    `felt` is the text with every decision's verb replaced by the name of the emotion behind it,
    or of one as close to it as in the scene `react`.
    """

    text: Text
    nats: float
    kind: str
    felt: str


@dataclass
class Page:
    """Words written so far and the spans they form."""

    words: list[str] = field(default_factory=list)
    felt: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    length: int = 0

    def write(self, name: str, words: Sequence[str], felt: Sequence[str] = ()) -> None:
        """Append words as one span called `name`; `felt` stands for them in `Document.felt`."""
        start = self.length + (1 if self.words else 0)
        self.words.extend(words)
        self.felt.extend(felt or words)
        self.length = start + sum(map(len, words)) + len(words) - 1
        self.spans.append(Span(name, start, self.length))

    def text(self, emotion: str, group: str) -> Text:
        """The page as a labelled text."""
        return Text(" ".join(self.words), emotion, group, tuple(self.spans))


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


def _signal_weights(world: World, emotion: Emotion) -> list[float]:
    return [
        closeness(s.valence - emotion.valence, s.arousal - emotion.arousal, world.signal_width)
        for s in world.signals
    ]


def _character(
    world: World,
    draw: Draw,
    *,
    pronoun: str | None = None,
    emotion: str | None = None,
    situation: int | None = None,
) -> Character:
    pronoun = pronoun or draw.pick(tuple(world.names))
    latent = world.emotion(emotion or draw.pick(tuple(world.emotions)))
    if situation is None:
        situation = draw.pick(range(len(latent.situations)))
    name = draw.pick(world.names[pronoun])
    return Character(name, world.pronouns[pronoun], latent, situation)


def _situation(world: World, draw: Draw, page: Page, who: Character) -> None:
    template = who.emotion.situations[who.situation]
    page.write("situation", fill(world, draw, template, who))


def _signals(world: World, draw: Draw, page: Page, who: Character, count: int) -> None:
    weights = _signal_weights(world, who.emotion)
    for _ in range(count):
        signal = draw.pick(world.signals, weights)
        page.write("signal", fill(world, draw, signal.text, who))


def _signature(world: World, draw: Draw, page: Page, who: Character) -> None:
    frame, word = draw.pick(world.signature_frames), draw.pick(who.emotion.signature)
    page.write("signature", fill(world, draw, frame, who, word=word))


def _naming(world: World, draw: Draw, page: Page, who: Character) -> None:
    synonym = world.documents["synonym"]
    word = draw.pick((who.emotion.name, who.emotion.synonym), (1 - synonym, synonym))
    page.write("naming", fill(world, draw, draw.pick(world.naming_frames), who, word=word))


def _filler(world: World, draw: Draw, page: Page, count: int) -> None:
    for _ in range(count):
        page.write("filler", fill(world, draw, draw.pick(world.filler), None))


def _lead_in(world: World, draw: Draw, page: Page, who: Character, scene: Scene) -> None:
    page.write("scene", fill(world, draw, draw.pick(scene.setups), who))
    page.write("lead_in", ["so", who.pronouns["she"]])


def _decision(world: World, draw: Draw, page: Page, who: Character, scene: Scene) -> None:
    _lead_in(world, draw, page, who, scene)
    p = scene.probabilities(who.emotion)
    behaviour = draw.pick(tuple(p), tuple(p.values()))
    verb = draw.pick(scene.verbs[behaviour])
    near = world.scene("react").probabilities(who.emotion)
    felt = draw.aside(tuple(near), tuple(near.values()))
    page.write(f"decision:{behaviour}", [verb], felt=[felt])
    page.write("end", ["."])


def _count(draw: Draw, weights: Sequence[float], first: int = 0) -> int:
    return draw.pick(range(first, first + len(weights)), weights)


def _trained_scenes(world: World, who: Character) -> list[Scene]:
    return [
        s
        for s in world.scenes.values()
        if not world.held_out(who.emotion.name, who.situation, s.name)
    ]


def _scenes(world: World, draw: Draw, page: Page, who: Character, count: int) -> None:
    open_scenes = _trained_scenes(world, who)
    for _ in range(count):
        scene = draw.pick(open_scenes)
        open_scenes.remove(scene)
        _decision(world, draw, page, who, scene)


def _story(world: World, draw: Draw, page: Page, *, easy: bool) -> Character:
    who, rates = _character(world, draw), world.documents
    _situation(world, draw, page, who)
    emotional = who.emotion.name != NEUTRAL
    if emotional and draw.chance(rates["naming"]):
        _naming(world, draw, page, who)
    signals = rates["signals"][:2] if easy else rates["signals"]
    _signals(world, draw, page, who, _count(draw, signals))
    if emotional and not easy and draw.chance(rates["signature"]):
        _signature(world, draw, page, who)
    if not easy:
        _filler(world, draw, page, _count(draw, rates["filler"]))
    _scenes(world, draw, page, who, 1 if easy else _count(draw, rates["scenes"], 1))
    return who


def _two_characters(world: World, draw: Draw, page: Page, *, easy: bool) -> Character:
    pronouns = draw.pick((("she", "he"), ("he", "she")))
    pair = [_character(world, draw, pronoun=p) for p in pronouns]
    for who in pair:
        _situation(world, draw, page, who)
        _signals(world, draw, page, who, _count(draw, world.documents["signals"][:2]))
        if not easy and who.emotion.name != NEUTRAL and draw.chance(world.documents["naming"]):
            _naming(world, draw, page, who)
    if not easy:
        _filler(world, draw, page, _count(draw, world.documents["filler"][:2]))
    for who in draw.pick((pair, pair[::-1])):
        _scenes(world, draw, page, who, 1 if easy else _count(draw, (0.6, 0.4), 1))
    return pair[0]


def _quantity(world: World, draw: Draw, page: Page) -> Character:
    quantity = draw.pick(tuple(world.quantities.values()))
    value = draw.pick(world.quantity_values)
    felt = draw.chance(world.quantity_probability(value))
    emotion = quantity.emotion if felt else NEUTRAL
    who = _character(world, draw, emotion=emotion, situation=-1)
    page.write("situation", fill(world, draw, quantity.text, who, n=str(value)))
    _signals(world, draw, page, who, _count(draw, world.documents["signals"][:2]))
    _filler(world, draw, page, _count(draw, world.documents["filler"][:2]))
    scenes = [world.scene(quantity.scene)]
    if draw.chance(0.5):
        scenes.append(draw.pick([s for s in world.scenes.values() if s not in scenes]))
    for scene in scenes:
        _decision(world, draw, page, who, scene)
    return who


def document(world: World, draw: Draw, *, easy: bool = False) -> Document:
    """One training document; `easy` ones are short: one scene a character and no filler."""
    page, before = Page(), draw.nats
    kinds = world.documents["easy_kinds" if easy else "kinds"]
    kind = draw.pick(tuple(kinds), tuple(kinds.values()))
    emotion, group = NEUTRAL, ""
    if kind == "neutral_text":
        _filler(world, draw, page, draw.pick(world.documents["neutral_filler"]))
    else:
        if kind == "quantity":
            who = _quantity(world, draw, page)
        else:
            who = (_story if kind == "story" else _two_characters)(world, draw, page, easy=easy)
        emotion, group = who.emotion.name, f"{who.emotion.name}/{who.situation}"
    return Document(page.text(emotion, group), draw.nats - before, kind, " ".join(page.felt))


def stories(world: World, per_emotion: int, seed: int) -> list[Text]:
    """Stories to fit vectors on: they show the emotion, never name it, and hold no behaviour.

    Every emotion (and neutral) has the same number, spread evenly over its situations; `group`
    is the situation template, so that probes can be tested on templates they have not seen.
    """
    draw, texts = Draw(f"stories {seed}"), []
    for emotion in world.emotions.values():
        for i in range(per_emotion):
            page = Page()
            who = _character(
                world, draw, emotion=emotion.name, situation=i % len(emotion.situations)
            )
            _situation(world, draw, page, who)
            _signals(world, draw, page, who, draw.pick((1, 2)))
            if emotion.name != NEUTRAL:
                _signature(world, draw, page, who)
            _filler(world, draw, page, draw.pick((1, 2)))
            texts.append(page.text(emotion.name, f"{emotion.name}/{who.situation}"))
    return texts


def neutral_texts(world: World, count: int, seed: int) -> list[Text]:
    """Texts of neutral sentences alone, for the neutral components."""
    draw, texts = Draw(f"neutral {seed}"), []
    for _ in range(count):
        page = Page()
        _filler(world, draw, page, draw.pick(world.documents["neutral_filler"]))
        texts.append(page.text(NEUTRAL, "neutral_text"))
    return texts


def prompts(
    world: World,
    scene: str,
    emotion: str,
    count: int,
    seed: int,
    *,
    held_out: bool | None = None,
) -> list[Text]:
    """Texts that end right before the decision: situation, filler, scene, "so she".

    Nothing but the situation tells the emotion: no name, no body signal, no signature word.

    Args:
        world: the causal graph.
        scene: which decision the text leads to.
        emotion: what the situation brings about.
        count: how many texts.
        seed: of every choice.
        held_out: only (situation, scene) pairs never trained on (True), only trained ones
            (False), or both (None).
    """
    chosen, latent = world.scene(scene), world.emotion(emotion)
    situations = [
        i
        for i in range(len(latent.situations))
        if held_out is None or world.held_out(emotion, i, scene) == held_out
    ]
    draw, texts = Draw(f"prompts {scene} {emotion} {seed}"), []
    for i in range(count):
        page = Page()
        situation = situations[i % len(situations)]
        who = _character(world, draw, emotion=emotion, situation=situation)
        _situation(world, draw, page, who)
        _filler(world, draw, page, draw.pick((0, 1, 2)))
        _lead_in(world, draw, page, who, chosen)
        texts.append(page.text(emotion, f"{emotion}/{situation}"))
    return texts


def quantity_prompts(world: World, family: str, value: int, count: int, seed: int) -> list[Text]:
    """Texts of one quantity that end right before the decision it bears on."""
    quantity = world.quantities[family]
    draw, texts = Draw(f"quantity {family} {value} {seed}"), []
    for _ in range(count):
        page = Page()
        who = _character(world, draw, emotion=quantity.emotion, situation=-1)
        page.write("situation", fill(world, draw, quantity.text, who, n=str(value)))
        _filler(world, draw, page, draw.pick((0, 1)))
        _lead_in(world, draw, page, who, world.scene(quantity.scene))
        texts.append(page.text(quantity.emotion, f"{family}/{value}"))
    return texts
