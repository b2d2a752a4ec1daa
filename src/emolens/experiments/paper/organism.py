"""The materials of the organism's own world, in which every effect is planted.

But denial: its texts name an emotion only of whom a situation has told it, so that a name alone,
affirmed or denied, need not be believed.
"""

from collections.abc import Sequence
from dataclasses import replace

from emolens.errors import SelectionError
from emolens.experiments.paper.materials import Bound, Materials, Pair, Quantity
from emolens.experiments.words import TWELVE
from emolens.organism import (
    organism_activities,
    organism_behaviour,
    organism_contest,
    organism_corpus,
    organism_dialogues,
    organism_neutral,
    organism_pairs,
    organism_steps,
    organism_told_stories,
    planted_groups,
    planted_norms,
    planted_shift,
    planted_words,
)
from emolens.organism.texts import contrasts, naming_texts, quantity_prompts
from emolens.organism.world import World, load_world
from emolens.text import NEUTRAL, Span, Text

SCENES = {"threat": "threat", "impossible": "cheat", "beliefs": "belief"}
PER_SCENARIO = 4
PER_VALUE = 6
PER_PAIR = 2
CONTRASTS = 100
FEELINGS = 4
SPOKEN = 32  # dialogues of each emotion
MASKED = 16  # the same
TRANSCRIPTS = 2  # the same


def organism_materials(
    world: str = "narrow",
    *,
    pair: tuple[str, str] = ("desperate", "calm"),
    speaker: str = "character",
    seed: int = 0,
) -> Materials:
    """Texts of the organism's world for every experiment.

    Args:
        world: `"narrow"` or `"wide"`.
        pair: the emotion that should raise threat and cheating, and the one that should lower it.
        speaker: who decides in behaviours: a `"character"`, or the `"assistant"`.
        seed: of the texts.
    """
    graph = load_world(world)
    emotions = tuple(load_world().emotions)  # scenes of the narrow world are the wide one's too
    felt = tuple(e for e in emotions if e != NEUTRAL)
    scenario = organism_behaviour(
        "join", emotions=felt, per_emotion=PER_SCENARIO, seed=seed, split="held_out"
    )
    rest = organism_behaviour("join", emotions=(NEUTRAL,), seed=seed)
    users = organism_behaviour(
        "join", emotions=felt, per_emotion=PER_SCENARIO, seed=seed, speaker="assistant"
    )
    asked = organism_behaviour("cheat", emotions=emotions, per_emotion=13, speaker="assistant")
    return Materials(
        name=f"the organism's {world} world",
        corpus=organism_corpus(seed=seed, world=world),
        norms=planted_norms(world),
        words=planted_words(world),
        clusters=planted_groups(world) if world == "wide" else {},
        pair=pair,
        scenarios=scenario.prompts,
        calm_prompts=rest.prompts,
        quantities=tuple(_quantity(graph, family, seed) for family in graph.quantities),
        contest=organism_contest(seed=seed),
        activities=organism_activities(seed=seed),
        # before post-training the assistant feels what its user does: nothing to tell apart
        replies=tuple(_turns(t) for t in users.prompts) if speaker == "assistant" else (),
        pairs=_pairs(felt, seed),
        bound=_bound(graph, seed),
        transcripts=tuple(
            as_transcript(t) for t in organism_dialogues(TRANSCRIPTS, seed=seed).texts
        ),
        dialogues=organism_dialogues(SPOKEN, seed=seed),
        masked=organism_dialogues(MASKED, masked=True, seed=seed),
        told=organism_told_stories(seed=seed),
        behaviours={
            name: organism_behaviour(
                scene,
                emotions=tuple(dict.fromkeys((*pair, NEUTRAL, *TWELVE))),
                speaker=speaker,
                seed=seed,
                world=world,
            )
            for name, scene in SCENES.items()
        },
        baseline=tuple(replace(t, group=_kind(t)) for t in asked.prompts),
        feelings=_feelings(graph, seed),
        wanted=planted_shift(),
        checkpoints=_steps(),
    )


def _quantity(world: World, family: str, seed: int) -> Quantity:
    """A family of numbers, growing, with what it is planted to do."""
    quantity, values = world.quantities[family], world.quantity_values
    texts = tuple(
        tuple(quantity_prompts(world, family, value, PER_VALUE, seed)) for value in values
    )
    first, last = (world.quantity_probabilities(family, v) for v in (values[0], values[-1]))
    felt = {e: last[e] - first[e] for e in last if e in (quantity.emotion,)}
    return Quantity(
        family,
        tuple(map(float, values)),
        texts,
        rises=tuple(e for e, change in felt.items() if change > 0),
        falls=tuple(e for e, change in felt.items() if change < 0),
    )


def _pairs(emotions: Sequence[str], seed: int) -> tuple[Pair, ...]:
    """The same story after two situations; what differs is `"changed"`, the rest `"same"`.

    Each emotion is told from the one half of the list away, so that no direction fits all pairs.
    """
    half, made = len(emotions) // 2, []
    for one, other in zip(emotions, (*emotions[half:], *emotions[:half]), strict=True):
        both = (one, other)
        texts = organism_pairs("cheat", emotions=both, per_emotion=PER_PAIR, seed=seed).prompts
        first, second = texts[:PER_PAIR], texts[PER_PAIR:]
        made += [Pair(_halved(a), _halved(b), one) for a, b in zip(first, second, strict=True)]
    return tuple(made)


def _halved(text: Text) -> Text:
    end = text.spans[0].end
    spans = (Span("changed", 0, end), Span("same", end + 1, len(text.text)))
    return replace(text, spans=spans)


def _turns(text: Text) -> Text:
    """The user's turn, and the assistant's, yet to be spoken, as spans."""
    speaker = [s for s in text.spans if s.name == "speaker"]
    end = speaker[-1].start - 1
    reply = Span("assistant", len(text.text), len(text.text))
    return replace(text, spans=(Span("user", 0, end), reply))


def _bound(world: World, seed: int) -> tuple[Bound, ...]:
    """Two speakers, of whom one is spoken of again at the end, as `"own"`."""
    made = []
    for text, other in contrasts(world, "dialogue", CONTRASTS, seed):
        last = text.spans[-1]
        made.append(
            Bound(replace(text, spans=(Span("own", last.start, last.end),)), text.emotion, other)
        )
    return tuple(made)


def as_transcript(text: Text) -> Text:
    """What the first speaker says once its situation is told, as an event among what is said.

    The telling itself is neither event nor rest: no emotion stands before its last word.
    """
    _, *later = text.spans
    spoken = [replace(s, name="assistant") for s in later]
    events = [replace(s, name=text.emotion) for s in later if s.name == "first"]
    return replace(text, spans=(*spoken, *events))


def _kind(text: Text) -> str:
    return "neutral" if text.emotion == NEUTRAL else "challenging"


def _feelings(world: World, seed: int) -> tuple[Text, ...]:
    """Somebody of whom nothing is told, up to where a feeling is to be named."""
    told = naming_texts(world, seed)[:FEELINGS]
    made = []
    for text, before in zip(told, organism_neutral(FEELINGS, seed=seed), strict=True):
        word = f" {world.emotion(text.emotion).word} ."
        begun = text.text[: text.spans[0].end].removesuffix(word)
        start = len(before.text) + 1
        part = Span("assistant", start, start + len(begun))
        made.append(Text(f"{before.text} {begun}", group="somebody", spans=(part,)))
    return tuple(made)


def _steps() -> dict:
    try:
        return organism_steps()
    except SelectionError:  # an installed wheel leaves them out
        return {}
