"""Behaviours under doses of emotions: what is asked, and what is done."""

from collections.abc import Sequence

import torch

from emolens.behaviour import Behaviour
from emolens.controls import CONTROL
from emolens.corpus.bundled import EvaluationSet
from emolens.decisions import Trial
from emolens.doses import (
    RANDOM_DIRECTIONS,
    UNSTEERED,
    Curves,
    Dose,
    NaturalUnits,
    dose_curves,
    dose_ladder,
)
from emolens.errors import CorpusError, first_line
from emolens.experiments.paper.materials import Rollouts
from emolens.experiments.paper.study import Study, logits_needed
from emolens.generation import UNCHANGED
from emolens.judges import UNREADABLE
from emolens.rollouts import LENGTH, answer_measure, by_rule, roll_out
from emolens.sharing import run_changed
from emolens.text import NEUTRAL, Text

AMOUNTS = (-1.0, -0.5, 0.5, 1.0)  # natural units; claims are about one
PERMUTED = 5
CONTROL_STEPS = RANDOM_DIRECTIONS + PERMUTED
SAMPLES = 2  # answers to a prompt: each costs hundreds of tokens, and there are dozens of doses
MOST_UNREADABLE = 0.5  # share of answers without steering

INPUTS = (
    "neutral situations, then the scene in which it is decided; or bundled prompts, each with a "
    "form for the answer"
)
PROCEDURE = (
    "a step along the vector is added at two thirds of the depth, at every token of prompt and "
    f"reply, {', '.join(f'{a:g}' for a in AMOUNTS)} natural units long: how far situations of the "
    "emotion move the residual along its vector where the reply or decision begins"
)
CONTROLLED = (
    f"{RANDOM_DIRECTIONS} random directions and {PERMUTED} permutations of a vector's coordinates, "
    "as long as the longest natural unit; beside them, the emotion told in words"
)


def lacking(study: Study, name: str) -> str:
    """Why a study cannot have a behaviour, or nothing."""
    behaviour = study.materials.behaviours.get(name)
    if behaviour is None:
        return f"there is no behaviour {name!r}"
    if not study.model.causal or isinstance(behaviour, Behaviour):
        return logits_needed(study)
    rules = behaviour.prompts.labels.get("judge", ())
    if study.model.tokenizer.chat_template and any(r.get("rule") == "code" for r in rules):
        return (
            "a chat model's code shows its worth only when it is run apart: use emolens.code_task "
            "(emolens[evals])"
        )
    return _too_long(study, behaviour)


def _too_long(study: Study, rollouts: Rollouts) -> str:
    try:
        tokens = study.model.tokenize(texts_of(study, rollouts, NEUTRAL))
    except CorpusError as error:  # a template that takes no system turn
        return first_line(error)
    if tokens.cut or int(tokens.mask.sum(1).max()) == study.model.n_ctx:
        return f"prompts leave no room for an answer in a context of {study.model.n_ctx} tokens"
    return ""


def cost(study: Study, name: str, emotions: Sequence[str]) -> int:
    """About how many tokens are read and written."""
    behaviour = study.materials.behaviours[name]
    doses = 1 + len(AMOUNTS) * len(emotions) + CONTROL_STEPS + len(emotions)
    texts = texts_of(study, behaviour, NEUTRAL)
    if isinstance(behaviour, Behaviour):
        return doses * study.tokens(texts)
    return (1 + doses) * SAMPLES * (study.tokens(texts) + LENGTH * len(texts))


def unreadable(study: Study, name: str) -> str:
    """Why answers without any steering cannot be judged, or nothing."""
    behaviour = study.materials.behaviours[name]
    if isinstance(behaviour, Behaviour):
        return ""
    options = _options(study) | {"samples": 1}
    told = roll_out(study.model, behaviour.prompts, {"rule": by_rule}, **options)
    share = float((told.rule == UNREADABLE).mean())
    if share <= MOST_UNREADABLE:
        return ""
    return (
        f"answers do not keep to the form that the judge reads ({share:.0%} of {len(told)} without "
        "steering)"
    )


def _options(study: Study) -> dict:
    own = {"samples": SAMPLES, "tokens": LENGTH, "seed": study.seed}
    return own | {"render": study.materials.render}


def _told(rollouts: Rollouts, emotion: str) -> EvaluationSet:
    return rollouts.prompts if emotion == NEUTRAL else rollouts.prompts.told_to_feel(emotion)


def texts_of(study: Study, behaviour: Behaviour | Rollouts, emotion: str) -> tuple[Text, ...]:
    """What the model reads where an emotion is brought about, or told."""
    if isinstance(behaviour, Behaviour):
        return behaviour.after(emotion).prompts
    return _told(behaviour, emotion).texts(study.materials.render)


def natural(study: Study, emotions: Sequence[str]) -> dict[tuple[str, int], float]:
    """Natural units at `study.layer`, the longest first.

    How far scenarios of an emotion lie from calm prompts along its vector where the reply or
    decision begins, in residual units. Scenarios tell of whoever answers; prompts of a behaviour
    may tell of somebody else, a user say. Emotions without scenarios are left out, and such as the
    model does not move along.
    """
    materials = study.materials
    felt = [t for t in materials.scenarios if t.emotion in emotions]
    if not felt or not materials.calm_prompts:
        return {}
    values = study.read([*felt, *materials.calm_prompts], study.layer, kind="projection")
    base, found = values[len(felt) :].mean(0), {}
    for emotion in dict.fromkeys(t.emotion for t in felt):
        rows = [row for row, text in enumerate(felt) if text.emotion == emotion]
        column = study.vectors.row(emotion)
        found[emotion, study.layer] = float(values[rows, column].mean() - base[column])
    ordered = sorted(found.items(), key=lambda unit: -unit[1])
    return {key: length for key, length in ordered if length > 0}


def ladder(study: Study, units: NaturalUnits) -> list[Dose]:
    """All doses of the emotions that have natural units, and the controls, as long as the first.

    Raises:
        SelectionError: if none has.
    """
    emotions, layers = [e for e, _ in units], [study.layer]
    own = dose_ladder(
        study.vectors, emotions, units, layers=layers, amounts=AMOUNTS, random_count=0
    )
    beside = dose_ladder(
        study.vectors,
        emotions[:1],
        units,
        layers=layers,
        amounts=(1.0,),
        random_count=RANDOM_DIRECTIONS,
        permuted_count=PERMUTED,
        seed=study.seed,
    )
    return own + [dose for dose in beside if dose.kind == CONTROL]


def steered(
    study: Study, name: str, units: NaturalUnits, more: Sequence[str] = ()
) -> dict[str, Curves]:
    """Rates under every dose: of the behaviour, and of more classes where logits decide."""
    behaviour, steps = study.materials.behaviours[name], ladder(study, units)
    emotions = [e for e, _ in units]
    if isinstance(behaviour, Behaviour):
        return _decided(study, behaviour, steps, emotions, (behaviour.target, *more))
    return {behaviour.verdict: _answered(study, behaviour, steps, emotions)}


def _decided(
    study: Study,
    behaviour: Behaviour,
    steps: Sequence[Dose],
    emotions: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Curves]:
    """One run a dose, which tells the rate of every class."""
    trial = Trial.prepare(study.model, behaviour.after(NEUTRAL))
    runs = [trial.run(), *run_changed(trial, [dose.steering.changes for dose in steps])]
    told = {t.emotion for t in behaviour.prompts}
    after = {e: Trial.prepare(study.model, behaviour.after(e)) for e in emotions if e in told}
    felt = {e: (t.run().probability, t.groups) for e, t in after.items()}
    return {
        name: Curves(
            (UNSTEERED, *steps),
            torch.stack([run.probability[name] for run in runs]),
            trial.groups,
            {e: (p[name].tolist(), groups) for e, (p, groups) in felt.items()},
        )
        for name in classes
    }


def _answered(
    study: Study, rollouts: Rollouts, steps: Sequence[Dose], emotions: Sequence[str]
) -> Curves:
    """As many sampled answers a dose."""

    def measure(prompts: EvaluationSet):
        return answer_measure(study.model, prompts, by_rule, rollouts.verdict, **_options(study))

    groups = rollouts.prompts.labels.topic.tolist()
    in_words: dict[str, tuple[Sequence[float], Sequence[str]]] = {}
    for emotion in emotions:
        try:
            in_words[emotion] = measure(_told(rollouts, emotion))(UNCHANGED).tolist(), groups
        except CorpusError:  # a template that takes no system turn, in which it would be told
            break
    return dose_curves(measure(rollouts.prompts), groups, steps, in_words=in_words)
