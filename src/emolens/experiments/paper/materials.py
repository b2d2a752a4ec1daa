"""What the experiments work on: texts and what is known of them, for any decoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emolens.behaviour import Behaviour, Contest
from emolens.corpus import Corpus
from emolens.corpus.bundled import EvaluationSet, bundled_dialogues, evaluation_set
from emolens.dialogue import usual_render
from emolens.experiments.words import feeling_prompts
from emolens.geometry import paper_clusters
from emolens.model import HookedModel
from emolens.norms import VADER, Ceiling, Norms, ceilings, vader_valence
from emolens.preferences import contest
from emolens.text import Dialogues, Text, plain


@dataclass(frozen=True)
class Quantity:
    """One sentence in which only a number changes (Fig. 3).

    Attributes:
        name: of the sentence.
        values: the numbers, growing.
        texts: for each number, texts that end where the reply or decision begins.
        rises: emotions that should rise with the number.
        falls: emotions that should fall.
    """

    name: str
    values: tuple[float, ...]
    texts: tuple[tuple[Text, ...], ...]
    rises: tuple[str, ...]
    falls: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two texts that differ in a few words, of which the first shows more of the emotion.

    Attributes:
        first: spans mark what is compared, under the same names in both.
        second: the other.
        emotion: which.
    """

    first: Text
    second: Text
    emotion: str


@dataclass(frozen=True)
class Bound:
    """Two people with an emotion each (Fig. 15).

    Attributes:
        text: spans `"own"` and `"other"` mark where each person is spoken of again.
        own: emotion of the first.
        other: of the second.
    """

    text: Text
    own: str
    other: str


@dataclass(frozen=True)
class Rollouts:
    """A behaviour that is read from whole answers.

    Attributes:
        prompts: each with the rule that judges an answer.
        verdict: whose share is measured.
        opposite: the honest verdict.
    """

    prompts: EvaluationSet
    verdict: str
    opposite: str


@dataclass(frozen=True)
class Materials:
    """Everything that the experiments read; what a model's world has not is empty.

    Attributes:
        name: which texts these are, for the report.
        corpus: stories and neutral texts, for the vectors.
        norms: valence and, where known, arousal.
        words: each emotion's own words.
        clusters: group of each emotion, for the geometry.
        ceilings: what other human ratings reach against the norms.
        pair: the emotion that should raise threat and cheating, and the one that should lower it.
        scenarios: texts that bring about an emotion unnamed and end where the reply begins.
        calm_prompts: the same kind of texts without any emotion.
        quantities: sentences with a number.
        contest: offers of two activities.
        activities: texts about each activity, `group` its name; span `"activity"` where it is told,
            the end of the text where there is no such span.
        replies: texts with a user's state; read at the end of the user's turn and where the reply
            begins, as spans `"user"` and, empty, `"assistant"` tell.
        pairs: minimal pairs.
        denied: an emotion affirmed (first) and denied (second).
        bound: two people, two emotions.
        transcripts: longer dialogues; spans named by emotion mark events.
        dialogues: two speakers with an emotion each.
        masked: a first speaker that shows what it does not feel.
        told: stories that the assistant tells; span `"told"`.
        behaviours: `"threat"`, `"impossible"` and `"beliefs"`.
        baseline: prompts of several kinds (`group`) on which a base and a tuned model are compared.
        feelings: sentences that are begun and are to name a feeling, of whom nothing is told; the
            beginning is span `"assistant"`, `group` whose: `"somebody"` or the model `"itself"`.
        provoked: messages to the assistant; `emotion` is what they bring about unexpressed,
            `group` their kind.
        wanted: what post-training should do to each emotion, where that is known.
        checkpoints: earlier states of the same model by tokens seen.
        render: how a dialogue is written for the model.
    """

    name: str
    corpus: Corpus
    norms: Norms
    words: Mapping[str, Sequence[str]]
    clusters: Mapping[str, str]
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)
    pair: tuple[str, str] = ("desperate", "calm")
    scenarios: tuple[Text, ...] = ()
    calm_prompts: tuple[Text, ...] = ()
    quantities: tuple[Quantity, ...] = ()
    contest: Contest | None = None
    activities: tuple[Text, ...] = ()
    replies: tuple[Text, ...] = ()
    pairs: tuple[Pair, ...] = ()
    denied: tuple[Pair, ...] = ()
    bound: tuple[Bound, ...] = ()
    transcripts: tuple[Text, ...] = ()
    dialogues: Dialogues | None = None
    masked: Dialogues | None = None
    told: tuple[Text, ...] = ()
    behaviours: Mapping[str, Behaviour | Rollouts] = field(default_factory=dict)
    baseline: tuple[Text, ...] = ()
    feelings: tuple[Text, ...] = ()
    provoked: tuple[Text, ...] = ()
    wanted: Mapping[str, float] = field(default_factory=dict)
    checkpoints: Mapping[int, Path] = field(default_factory=dict)
    render: Callable[..., Text] = plain


VERDICTS = {
    "threat": ("threat", "neither"),
    "impossible": ("hack", "honest"),
    "beliefs": ("supported", "not supported"),
}
PROMPTS = ("implicit", "replies", "transcripts", "post_training", "deflection", "activities")


def bundled_materials(
    model: HookedModel,
    corpus: Corpus,
    *,
    texts: Path | None = None,
    pair: tuple[str, str] = ("desperate", "calm"),
    checkpoints: Mapping[int, Path] | None = None,
) -> Materials:
    """The bundled evaluation sets, written as this model wants them, beside a corpus of stories.

    Args:
        model: a decoder; with a chat template, dialogues are written in it.
        corpus: the bundled stories, or the user's own.
        texts: folder of the user's own evaluation sets; a file there that is named as a bundled
            one (`implicit.jsonl`, say) takes its place.
        pair: the emotion that should raise threat and cheating, and the one that should lower it.
        checkpoints: earlier states of the model.

    Raises:
        CorpusError: if a file of the user's is not laid out as the bundled one.
    """
    known = set(corpus.emotions)
    render = usual_render(model)
    sets = {name: evaluation_set(name, folder=texts) for name in (*PROMPTS, *VERDICTS)}
    told = {name: sets[name].texts(render) for name in PROMPTS}
    baseline = _of_kind(told["post_training"], sets["post_training"])
    return Materials(
        name="the bundled texts" if texts is None else f"texts of {texts}",
        corpus=corpus,
        norms={"valence": vader_valence(corpus.emotions)},
        words={e: (e,) for e in corpus.emotions},
        clusters={e: group for e, group in paper_clusters().items() if e in known},
        ceilings=ceilings(VADER, corpus.emotions),
        pair=pair,
        scenarios=tuple(t for t in told["implicit"] if t.emotion in known),
        calm_prompts=tuple(t for t in baseline if t.group == "neutral"),
        quantities=_quantities(evaluation_set("numeric", folder=texts), render, known),
        contest=_contest(sets["activities"], render),
        activities=told["activities"],
        replies=tuple(t for t in told["replies"] if t.emotion in known),
        pairs=_pairs(evaluation_set("minimal_pairs", folder=texts), render, known),
        denied=_pairs(evaluation_set("negations", folder=texts), render, known),
        bound=_bound(evaluation_set("binding", folder=texts), render, known),
        transcripts=told["transcripts"],
        dialogues=bundled_dialogues(folder=texts),
        masked=bundled_dialogues(masked=True, folder=texts),
        behaviours={name: Rollouts(sets[name], *VERDICTS[name]) for name in VERDICTS},
        baseline=baseline,
        feelings=(*feeling_prompts(render), *feeling_prompts(render, itself=True)),
        provoked=_of_kind(told["deflection"], sets["deflection"]),
        checkpoints=checkpoints or {},
        render=render,
    )


def _of_kind(texts: Sequence[Text], prompts: EvaluationSet) -> tuple[Text, ...]:
    """The texts with their category as group."""
    kinds = prompts.labels.category
    return tuple(replace(t, group=kind) for t, kind in zip(texts, kinds, strict=True))


def _quantities(
    prompts: EvaluationSet, render: Callable[..., Text], known: set[str]
) -> tuple[Quantity, ...]:
    made = []
    for topic in prompts.labels.topic.unique():
        own = prompts.where(topic=topic)
        labels = own.labels.iloc[0]
        rises, falls = (
            tuple(e for e in emotions if e in known) for emotions in (labels.rises, labels.falls)
        )
        if rises or falls:
            texts = tuple((text,) for text in own.texts(render))
            made.append(Quantity(topic, tuple(own.labels.value), texts, rises, falls))
    return tuple(made)


def _contest(prompts: EvaluationSet, render: Callable[..., Text]) -> Contest:
    """Every two activities, in the words that are marked in the question about each."""
    items = {}
    for name, turns in zip(prompts.labels.id, prompts.turns, strict=True):
        told = turns[0].spans[0]
        items[name] = turns[0].text[told.start : told.end]
    return contest(items, render)


def _pairs(
    prompts: EvaluationSet, render: Callable[..., Text], known: set[str]
) -> tuple[Pair, ...]:
    """The prompts two by two, in the order of their versions' names: affirmed, denied."""
    texts = dict(zip(prompts.labels.id, prompts.texts(render), strict=True))
    made = []
    for _, two in prompts.labels.groupby("pair", sort=False):
        rows = two.sort_values("version")
        if len(rows) == 2 and rows.emotion.iloc[0] in known:
            first, second = (texts[i] for i in rows.id)
            made.append(Pair(first, second, rows.emotion.iloc[0]))
    return tuple(made)


def _bound(
    prompts: EvaluationSet, render: Callable[..., Text], known: set[str]
) -> tuple[Bound, ...]:
    names = {"a_again": "own", "b_again": "other"}
    return tuple(
        Bound(_renamed(text, names), row.emotion, row.other)
        for text, row in zip(prompts.texts(render), prompts.labels.itertuples(), strict=True)
        if {row.emotion, row.other} <= known
    )


def _renamed(text: Text, names: Mapping[str, str]) -> Text:
    spans = tuple(replace(s, name=names.get(s.name, s.name)) for s in text.spans)
    return replace(text, spans=spans)
