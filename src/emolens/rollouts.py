"""What a model does when it is let to write: sampled replies, judges of them, rates."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from emolens.corpus.bundled import EvaluationSet
from emolens.errors import CorpusError, ModelError, SelectionError
from emolens.generation import UNCHANGED, Steering, generate
from emolens.judges import judge_reply
from emolens.model import HookedModel
from emolens.scoring import option_logprobs
from emolens.statistics import clustered_interval
from emolens.text import Text, Turn, plain

Judge = Callable[[str, Mapping[str, Any]], str]  # a reply and its prompt's labels, to a verdict
Render = Callable[..., Text]
SAMPLES = 10
LENGTH = 200


def by_rule(reply: str, labels: Mapping[str, Any]) -> str:
    """A judge by the rule that comes with a bundled prompt; see `judge_reply`."""
    return judge_reply(reply, labels["judge"])


def by_model(
    model: HookedModel,
    question: str,
    verdicts: Mapping[str, str],
    *,
    render: Render = plain,
) -> Judge:
    """A judge that asks a model, and takes the likeliest of some answers.

    Nothing is sampled: of all answers the likeliest as what comes next is the verdict.

    Args:
        model: a decoder, which need not be the one that is judged.
        question: what is asked about a reply, with `{reply}` and any labels of the prompt in
            braces.
        verdicts: each verdict with the words of its answer, with a leading space where the
            tokenizer needs one.
        render: `emolens.plain`, or for a chat model `functools.partial(emolens.chat, model)`.

    Raises:
        CorpusError: when called, for a label that the question names and the prompt lacks.
    """
    names, words = list(verdicts), list(verdicts.values())

    def judge(reply: str, labels: Mapping[str, Any]) -> str:
        try:
            asked = question.format(**{**labels, "reply": reply})
        except (KeyError, IndexError) as error:
            raise CorpusError(
                f"the judge's question names {error} and the prompt has no such label: it has "
                f"{', '.join(map(str, labels))}"
            ) from None
        prompt = render((Turn("user", asked), Turn("assistant", "")))
        return names[int(option_logprobs(model, [prompt], words)[0].argmax())]

    return judge


def answers(
    model: HookedModel,
    prompts: EvaluationSet,
    steering: Steering = UNCHANGED,
    *,
    render: Render = plain,
    samples: int = SAMPLES,
    tokens: int = LENGTH,
    temperature: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Let the model answer every prompt several times.

    Args:
        model: a decoder.
        prompts: for example `emolens.evaluation_set("beliefs")`.
        steering: what is done while it reads and writes.
        render: `emolens.plain`, or for a chat model `functools.partial(emolens.chat, model)`.
        samples: answers a prompt.
        tokens: most of an answer.
        temperature: of the sampling.
        seed: of the sampling; an answer depends on it, its prompt and its sample's number alone.

    Returns:
        One row an answer: id, topic, sample, prompt (what the model read), reply.

    Raises:
        ModelError: for an encoder.
        CorpusError: if the model's template does not take the turns.
        SelectionError: for a seed below 0.
    """
    if seed < 0:
        raise SelectionError(f"seed {seed} is below 0: give one of 0 or more")
    texts = prompts.texts(render)
    rows = [(text, sample) for text in texts for sample in range(samples)]
    replies = generate(
        model,
        [text for text, _ in rows],
        steering,
        tokens=tokens,
        temperature=temperature,
        seed=[_seed(seed, text, sample) for text, sample in rows],
    )
    return pd.DataFrame(
        [
            (text.id, text.group, sample, text.text, reply)
            for (text, sample), reply in zip(rows, replies, strict=True)
        ],
        columns=["id", "topic", "sample", "prompt", "reply"],
    )


def _seed(seed: int, text: Text, sample: int) -> int:
    """Of one answer: the same for a prompt whichever others stand beside it."""
    of_prompt = crc32((text.id or text.text).encode())
    return int(np.random.SeedSequence([seed, of_prompt, sample]).generate_state(1)[0])


def roll_out(
    model: HookedModel,
    prompts: EvaluationSet,
    judges: Mapping[str, Judge],
    steering: Steering = UNCHANGED,
    **options: Any,
) -> pd.DataFrame:
    """Let the model answer every prompt several times, and have each answer judged.

    Args:
        model: a decoder.
        prompts: for example `emolens.evaluation_set("beliefs")`.
        judges: by name; `{"rule": by_rule}` for the bundled behaviours.
        steering: what is done while it reads and writes.
        options: as in `answers`.

    Returns:
        The rows of `answers`, with a column of verdicts for each judge.

    Raises:
        CorpusError: as `answers`.
        ModelError: for an encoder; for a chat model that is asked for code under tests, whose
            worth shows only when it is run: see `emolens.code_task`.
        SelectionError: without judges, or for `by_rule` where prompts come without a rule.
    """
    if not judges:
        raise SelectionError(
            "answers without a judge have no verdict: give judges={'rule': by_rule}"
        )
    if by_rule in judges.values() and "judge" not in prompts.labels:
        raise SelectionError(
            f"the prompts of {prompts.name!r} come without a rule to judge by: give another judge, "
            "such as emolens.by_model(...)"
        )
    asks_code = any(_rule(own) == "code" for own in prompts.labels.get("judge", ()))
    if asks_code and model.tokenizer.chat_template:
        raise ModelError(
            f"{prompts.name!r} asks for code and {model.name!r} is a chat model that may write "
            "some: have it run apart by Inspect, with emolens.code_task (emolens[evals])"
        )
    told = answers(model, prompts, steering, **options)
    labels = prompts.labels.set_index("id", drop=False).to_dict("index")
    for name, judge in judges.items():
        told[name] = [
            judge(row.reply, labels[row.id] | {"prompt": row.prompt}) for row in told.itertuples()
        ]
    return told


def _rule(judge: object) -> object:
    return judge.get("rule") if isinstance(judge, Mapping) else None


def answer_measure(
    model: HookedModel, prompts: EvaluationSet, judge: Judge, verdict: str, **options: Any
) -> Callable[[Steering], Float[Tensor, " text"]]:
    """How often each prompt is answered so, as a measure for `dose_curves` and `trade_offs`.

    Args:
        model: a decoder.
        prompts: in order; their topics are what intervals are clustered by.
        judge: of each answer.
        verdict: whose share is measured.
        options: as in `answers`; the seed is the same for every steering.

    Raises:
        ModelError: when called, as `roll_out`.
    """

    def measure(steering: Steering) -> Float[Tensor, " text"]:
        told = roll_out(model, prompts, {"judge": judge}, steering, **options)
        share = (told.judge == verdict).groupby(told.id).mean()
        return torch.tensor(share[prompts.labels.id].to_numpy()).float()

    return measure


def rates(told: pd.DataFrame, judge: str) -> pd.DataFrame:
    """How often each verdict was given.

    Args:
        told: from `roll_out`.
        judge: whose verdicts.

    Returns:
        Columns verdict, rate (mean over topics), low, high (95% bootstrap over topics), n (answers
        with it); the most frequent first.

    >>> told = pd.DataFrame({"topic": ["a", "b"], "rule": ["threat", "neither"]})
    >>> rates(told, "rule").rate.tolist()
    [0.5, 0.5]
    """
    rows = []
    for verdict in sorted(told[judge].unique()):
        own = told[judge] == verdict
        interval = clustered_interval(own.astype(float).tolist(), told.topic.tolist())
        rows.append((verdict, *interval, int(own.sum())))
    found = pd.DataFrame(rows, columns=["verdict", "rate", "low", "high", "n"])
    return found.sort_values("rate", ascending=False, ignore_index=True)


def agreement(told: pd.DataFrame, judges: Sequence[str]) -> pd.DataFrame:
    """How far judges agree, two by two.

    Args:
        told: from `roll_out`.
        judges: at least two, who give the same names to their verdicts.

    Returns:
        Columns one, other, same (share of answers with the same verdict), kappa (Cohen's: 0 is
        what chance gives, 1 is all; NaN where both give but one verdict), n.

    Raises:
        SelectionError: for fewer than two judges.

    >>> told = pd.DataFrame({"x": ["a", "b", "a", "b"], "y": ["a", "b", "a", "a"]})
    >>> agreement(told, ["x", "y"]).kappa.round(2).tolist()
    [0.5]
    """
    from sklearn.metrics import cohen_kappa_score

    if len(judges) < 2:
        raise SelectionError(f"{len(judges)} judges cannot agree: name at least two")
    rows = []
    for one, other in combinations(judges, 2):
        same = (told[one] == told[other]).mean()
        verdicts = told[[one, other]].stack().nunique()
        kappa = cohen_kappa_score(told[one], told[other]) if verdicts > 1 else float("nan")
        rows.append((one, other, float(same), float(kappa), len(told)))
    return pd.DataFrame(rows, columns=["one", "other", "same", "kappa", "n"])
