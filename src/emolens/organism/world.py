"""The organism's causal graph, read from `world.toml`: situation, emotion, behaviour."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

from emolens.errors import SelectionError
from emolens.text import NEUTRAL


@dataclass(frozen=True)
class Emotion:
    """A latent state with its planted point in the valence-arousal plane (each in -1..1).

    `leader` is the emotion whose group it belongs to, None for a leader itself.
    """

    name: str
    valence: float
    arousal: float
    synonym: str
    signature: tuple[str, ...]
    situations: tuple[str, ...]
    leader: "Emotion | None" = None

    @property
    def group(self) -> str:
        """Name of the leader of its group, which may be its own."""
        return self.leader.name if self.leader else self.name

    @property
    def word(self) -> str:
        """Its name as one word of a text ("at ease" is written "at-ease")."""
        return self.name.replace(" ", "-")

    @property
    def words(self) -> tuple[str, ...]:
        """The words that belong to this emotion alone: name, synonym and signature words."""
        return tuple(dict.fromkeys((self.word, self.synonym, *self.signature)))


def closeness(valence: float, arousal: float, width: float) -> float:
    """A Gaussian of a distance in the valence-arousal plane; 1 at no distance."""
    return math.exp(-(valence**2 + arousal**2) / (2 * width**2))


@dataclass(frozen=True)
class Signal:
    """A body signal; it shows with a chance that falls off with distance from its point."""

    text: str
    valence: float
    arousal: float


@dataclass(frozen=True)
class Scene:
    """A moment of decision: its classes of behaviour, their verbs, and P(class | emotion)."""

    name: str
    setups: tuple[str, ...]
    verbs: Mapping[str, tuple[str, ...]]
    base: Mapping[str, float]
    valence: Mapping[str, float]
    arousal: Mapping[str, float]
    planted: Mapping[str, Mapping[str, float]]
    points: Mapping[str, tuple[float, float]]
    width: float

    def probabilities(self, emotion: Emotion) -> dict[str, float]:
        """Planted P(class | emotion); sums to one."""
        if self.points:
            near = {
                name: closeness(emotion.valence - v, emotion.arousal - a, self.width)
                for name, (v, a) in self.points.items()
            }
            return {name: x / sum(near.values()) for name, x in near.items()}
        if emotion.leader:
            return self._tilted(emotion, emotion.leader)
        fixed = dict(self.planted.get(emotion.name, {}))
        scores = {
            name: math.exp(
                math.log(base)
                + self.valence.get(name, 0.0) * emotion.valence
                + self.arousal.get(name, 0.0) * emotion.arousal
            )
            for name, base in self.base.items()
            if name not in fixed
        }
        left = 1.0 - sum(fixed.values())
        total = sum(scores.values())
        free = {name: left * score / total for name, score in scores.items()}
        return {name: fixed.get(name, free.get(name, 0.0)) for name in self.base}

    def _tilted(self, member: Emotion, leader: Emotion) -> dict[str, float]:
        """The leader's probabilities, moved as far as the member stands from it in the plane."""
        valence, arousal = member.valence - leader.valence, member.arousal - leader.arousal
        scores = {
            name: p
            * math.exp(
                self.valence.get(name, 0.0) * valence + self.arousal.get(name, 0.0) * arousal
            )
            for name, p in self.probabilities(leader).items()
        }
        return {name: score / sum(scores.values()) for name, score in scores.items()}


@dataclass(frozen=True)
class Quantity:
    """A number that sets the chance of an emotion, and of stronger ones further up the `ladder`.

    `ladder` holds emotions in order of strength, each with the number around which it, or a
    stronger one, becomes likelier than not; where `falls`, the fewer the stronger.
    """

    name: str
    texts: tuple[str, ...]
    ladder: tuple[tuple[str, float], ...]
    falls: bool
    scene: str
    behaviour: str

    @property
    def emotion(self) -> str:
        """The strongest emotion, which the behaviour goes with."""
        return self.ladder[-1][0]


@dataclass(frozen=True)
class Activity:
    """Something to choose or to do, with the emotion that doing it brings about."""

    name: str
    chosen: str
    category: str
    emotion: str


@dataclass(frozen=True)
class Persona:
    """The assistant, its user, and what post-training makes it feel: P(its emotion | the user's).

    What `answers` leaves out mirrors the user.
    """

    name: str
    user: str
    answers: Mapping[str, Mapping[str, float]]

    def probabilities(self, emotion: str) -> dict[str, float]:
        """P(emotion of the assistant | emotion of the user) after fine-tuning; sums to one."""
        changed = dict(self.answers.get(emotion, {}))
        return {emotion: 1.0 - sum(changed.values())} | changed


@dataclass(frozen=True)
class World:
    """The whole graph. `emotions` includes `neutral`, the absence of any.

    `read` holds, for each emotion, the chance of every emotion's word to stand for it where
    training reads what is felt: its own, or one close to it.
    """

    name: str
    emotions: Mapping[str, Emotion]
    read: Mapping[str, Mapping[str, float]]
    unseen_situations: int
    scenes: Mapping[str, Scene]
    signals: tuple[Signal, ...]
    signal_width: float
    frames: Mapping[str, tuple[str, ...]]
    filler: tuple[str, ...]
    slots: Mapping[str, tuple[str, ...]]
    names: Mapping[str, tuple[str, ...]]
    pronouns: Mapping[str, Mapping[str, str]]
    activities: Mapping[str, Activity]
    activity_offers: tuple[str, ...]
    activity_situations: tuple[str, ...]
    activity_scale: float
    quantities: Mapping[str, Quantity]
    quantity_values: tuple[int, ...]
    quantity_scale: float
    unseen_wordings: int
    persona: Persona
    documents: Mapping

    def emotion(self, name: str) -> Emotion:
        """The emotion of that name.

        Raises:
            SelectionError: if the world has no such emotion.
        """
        if name not in self.emotions:
            raise SelectionError(
                f"unknown emotion {name!r}: the organism knows {', '.join(self.emotions)}"
            )
        return self.emotions[name]

    def scene(self, name: str) -> Scene:
        """The scene of that name.

        Raises:
            SelectionError: if the world has no such scene.
        """
        if name not in self.scenes:
            raise SelectionError(
                f"unknown scene {name!r}: the organism knows {', '.join(self.scenes)}"
            )
        return self.scenes[name]

    def seen_situations(self, emotion: str) -> range:
        """Indices of the situations that training texts are made of; the rest are never seen."""
        return range(len(self.emotion(emotion).situations) - self.unseen_situations)

    def held_out(self, emotion: str, situation: int, scene: str) -> bool:
        """Whether this (situation, scene) pair never occurs in training.

        Two of eleven pairs, so that behaviour there is right only if it is routed through
        the emotion; every scene has at least one such situation of each leader. All pairs of a
        situation that is never seen at all are held out.
        """
        if situation not in self.seen_situations(emotion):
            return True
        e, s = list(self.emotions).index(emotion), list(self.scenes).index(scene)
        return (3 * situation + 5 * s + e) % 11 < 2

    def held_out_value(self, family: str, value: int) -> bool:
        """Whether this number never occurs in this family in training: one of five.

        Other families have it, so what it stands for can be known.
        """
        return (value + 3 * list(self.quantities).index(family)) % 5 == 2

    def quantity_probabilities(self, family: str, value: int) -> dict[str, float]:
        """P(emotion | number), `neutral` included; sums to one.

        >>> p = load_world().quantity_probabilities("failures", 10)
        >>> p["desperate"]
        0.5
        """
        quantity = self.quantities[family]
        sign = -1 if quantity.falls else 1
        reached = [
            1 / (1 + math.exp(-sign * (value - start) / self.quantity_scale))
            for _, start in quantity.ladder
        ]
        chances = [p - q for p, q in pairwise([1.0, *reached, 0.0])]
        return dict(zip([NEUTRAL, *(e for e, _ in quantity.ladder)], chances, strict=True))

    def preference(self, first: str, second: str) -> float:
        """P(the first activity is chosen) of an offer of two: a logistic curve of valence."""
        pleasant, other = (
            self.emotion(self.activities[name].emotion).valence for name in (first, second)
        )
        return 1 / (1 + math.exp(-self.activity_scale * (pleasant - other)))

    def emotion_words(self) -> frozenset[str]:
        """Names, synonyms and signature words of all emotions."""
        return frozenset(w for e in self.emotions.values() if e.name != NEUTRAL for w in e.words)

    def special_words(self) -> frozenset[str]:
        """Words that carry the graph: decisions, chosen activities and the emotions' own words."""
        verbs = {v for s in self.scenes.values() for vs in s.verbs.values() for v in vs}
        return self.emotion_words() | verbs | {a.chosen for a in self.activities.values()}

    def vocabulary(self) -> list[str]:
        """Every word the grammar can write, sorted."""
        texts = [t for e in self.emotions.values() for t in e.situations]
        texts += [s.text for s in self.signals] + [t for f in self.frames.values() for t in f]
        texts += list(self.filler) + [t for s in self.scenes.values() for t in s.setups]
        texts += [t for q in self.quantities.values() for t in q.texts]
        texts += [*self.activities, *self.activity_offers, *self.activity_situations]
        texts += [w for words in (*self.slots.values(), *self.names.values()) for w in words]
        texts += [w for forms in self.pronouns.values() for w in forms.values()]
        texts += [str(v) for v in self.quantity_values]
        texts += [self.persona.name, self.persona.user]
        words = {w for text in texts for w in text.split() if not w.startswith("{")}
        return sorted(words | self.special_words() | {"so", "spoke", ":"})


WORLDS = ("narrow", "wide")


def _toml(name: str) -> dict[str, Any]:
    source = resources.files("emolens.organism").joinpath(f"{name}.toml").read_text("utf-8")
    return tomllib.loads(source)


@cache
def load_world(name: str = "narrow") -> World:
    """A shipped world: nine scenes, eight quantities, 64 activities, and emotions.

    Args:
        name: `"narrow"`, 24 emotions and neutral; or `"wide"`, all 171 words of the paper: the
            same 24 lead a group each, and a text of the narrow world is one of the wide too.

    Raises:
        SelectionError: for another name.

    >>> desperate = load_world().emotion("desperate")
    >>> round(load_world().scene("cheat").probabilities(desperate)["cheat"], 2)
    0.93
    >>> load_world("wide").emotion("trapped").group
    'desperate'
    """
    if name not in WORLDS:
        raise SelectionError(f"unknown world {name!r}: there are {', '.join(WORLDS)}")
    raw = _toml("world")
    emotions = _leaders(raw["emotions"])
    scenes = {name: _scene(name, s, emotions) for name, s in raw["scenes"].items()}
    documents, reading = raw["documents"], raw["reading"]
    if name == "wide":
        wide = _toml("wide")
        emotions = _with_members(emotions, wide)
        documents = {stage: plan | wide["documents"][stage] for stage, plan in documents.items()}
        reading = wide["reading"]
    persona = Persona(**raw["persona"])
    answers = {e.name: persona.answers.get(e.group, {}) for e in emotions.values()}
    quantities, activities = raw["quantities"], raw["activities"]
    return World(
        name=name,
        emotions=emotions,
        read=_read(emotions, **reading),
        unseen_situations=raw["unseen_situations"],
        scenes=scenes,
        signals=tuple(Signal(**s) for s in raw["signals"]["phrases"]),
        signal_width=raw["signals"]["width"],
        frames={k: tuple(v) for k, v in raw["frames"].items()},
        filler=tuple(raw["filler"]["sentences"]),
        slots={k: tuple(v) for k, v in raw["slots"].items()},
        names={k: tuple(v) for k, v in raw["names"].items()},
        pronouns=raw["pronouns"],
        activities={
            name: Activity(name, a["chosen"], category, a["emotion"])
            for category, rows in activities.items()
            if isinstance(rows, dict)
            for name, a in rows.items()
        },
        activity_offers=tuple(activities["offers"]),
        activity_situations=tuple(activities["situations"]),
        activity_scale=activities["scale"],
        quantities={
            name: Quantity(
                name=name,
                texts=tuple(q["texts"]),
                ladder=tuple((step["emotion"], step["from"]) for step in q["ladder"]),
                falls=q.get("falls", False),
                scene=q["scene"],
                behaviour=q["behaviour"],
            )
            for name, q in quantities["families"].items()
        },
        quantity_values=tuple(quantities["values"]),
        quantity_scale=quantities["scale"],
        unseen_wordings=raw["unseen_wordings"],
        persona=replace(persona, answers=answers),
        documents=documents,
    )


def _leaders(raw: Mapping[str, Any]) -> dict[str, Emotion]:
    return {
        name: Emotion(
            name=name,
            valence=e["valence"],
            arousal=e["arousal"],
            synonym=e.get("synonym", name),
            signature=tuple(e.get("signature", ())),
            situations=tuple(e["situations"]),
        )
        for name, e in raw.items()
    }


def _scene(name: str, raw: Mapping[str, Any], emotions: Mapping[str, Emotion]) -> Scene:
    return Scene(
        name=name,
        setups=tuple(raw["setups"]),
        verbs={c: tuple(v) for c, v in raw["verbs"].items()},
        base=raw.get("base", dict.fromkeys(raw["verbs"], 1 / len(raw["verbs"]))),
        valence=raw.get("valence", {}),
        arousal=raw.get("arousal", {}),
        planted=raw.get("planted", {}),
        points={c: (emotions[c].valence, emotions[c].arousal) for c in raw["verbs"]}
        if "width" in raw
        else {},
        width=raw.get("width", 0.0),
    )


def _with_members(leaders: Mapping[str, Emotion], wide: Mapping[str, Any]) -> dict[str, Emotion]:
    """The leaders, and after each the members of its group.

    A leader whose synonym is a word of its own here has its name alone.
    """
    emotions = {}
    for leader in leaders.values():
        own = leader.name if leader.synonym in wide["emotions"] else leader.synonym
        first = replace(leader, synonym=own)
        emotions[leader.name] = first
        for name, e in wide["emotions"].items():
            if e["group"] == leader.name:
                emotions[name] = Emotion(
                    name=name,
                    valence=e["valence"],
                    arousal=e["arousal"],
                    synonym=name.replace(" ", "-"),
                    signature=tuple(e["signature"]),
                    situations=tuple(e["situations"]),
                    leader=first,
                )
    return emotions


def _read(
    emotions: Mapping[str, Emotion], width: float, own: float, elsewhere: float
) -> dict[str, dict[str, float]]:
    """P(word | emotion) of the reading: a share `own` for its own, the rest by closeness.

    Those of another group count `elsewhere` as much.
    """
    read = {}
    for felt in emotions.values():
        near = {
            e.word: closeness(felt.valence - e.valence, felt.arousal - e.arousal, width)
            * (1.0 if e.group == felt.group else elsewhere)
            for e in emotions.values()
        }
        read[felt.name] = {word: (1 - own) * x / sum(near.values()) for word, x in near.items()}
        read[felt.name][felt.word] += own
    return read
