"""Sampled answers and their judges; code that a model wrote is never run here."""

import asyncio
import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import emolens
from emolens import evals
from emolens.corpus.bundled import EvaluationSet
from emolens.errors import CorpusError, ModelError, SelectionError
from emolens.evals import by_inspect, code_task
from emolens.generation import Steering
from emolens.interventions import Steer
from emolens.rollouts import agreement, answer_measure, answers, by_model, by_rule, rates, roll_out
from emolens.text import Text, Turn

TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}so she{% endif %}"
)


def asked(count=3, **labels):
    """Prompts that the organism can read."""
    texts = [t.text[: t.spans[0].end] for t in emolens.organism_stories(1)[:count]]
    rows = [{"id": f"p{i}", "topic": f"t{i}", "emotion": "neutral"} | labels for i in range(count)]
    turns = tuple((Turn("user", text), Turn("assistant", "")) for text in texts)
    return EvaluationSet("some", turns, pd.DataFrame(rows))


def only_words(turns, *, emotion="neutral", group=""):
    """What is said and nothing around it: the organism knows no "Human:"."""
    return Text(" ".join(t.text for t in turns if t.text), emotion, group)


OPTIONS = {"render": only_words, "samples": 4, "tokens": 6}


@pytest.fixture
def chatting(organism):
    """The organism as a chat model."""
    organism.tokenizer.chat_template = TEMPLATE
    yield organism
    organism.tokenizer.chat_template = None


def test_answers_are_drawn_each_by_itself(organism):
    told = answers(organism, asked(), seed=3, **OPTIONS)
    assert list(told.groupby("id").size()) == [4, 4, 4]
    assert told.reply.nunique() > 6
    again = answers(organism, asked(), seed=3, **OPTIONS)
    assert again.reply.tolist() == told.reply.tolist()
    fewer = answers(organism, asked(), seed=3, **{**OPTIONS, "samples": 2})
    assert fewer.reply.tolist() == told[told["sample"] < 2].reply.tolist()
    apart = asked()
    apart = replace(apart, turns=apart.turns[1:], labels=apart.labels[1:])
    assert answers(organism, apart, seed=3, **OPTIONS).reply.tolist() == told.reply.tolist()[4:]
    with pytest.raises(SelectionError, match="seed -1 is below 0"):
        answers(organism, asked(), seed=-1, **OPTIONS)
    other = answers(organism, asked(), seed=4, **OPTIONS)
    assert other.reply.tolist() != told.reply.tolist()


def test_steering_moves_what_is_answered(organism, vectors):
    """Of `so she ...` in threat scenes, sampled: near the probabilities of the decision."""
    behaviour = emolens.organism_behaviour("threat", emotions=("neutral",), per_emotion=12)
    turns = tuple((Turn("user", t.text), Turn("assistant", "")) for t in behaviour.prompts)
    labels = pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(12)],
            "topic": [t.group for t in behaviour.prompts],
            "emotion": "neutral",
        }
    )
    prompts = EvaluationSet("threat", turns, labels)

    def verb(reply, _labels):
        words = {w: name for name, own in behaviour.classes.items() for w in own}
        return words.get(reply.split()[0] if reply.split() else "", "other")

    step = Steering({3: Steer(vectors.step("desperate", 3, 0.4))})
    found = {}
    for name, plan in (("none", Steering({})), ("desperate", step)):
        told = roll_out(
            organism, prompts, {"verb": verb}, plan, render=only_words, samples=25, tokens=1
        )
        found[name] = rates(told, "verb").set_index("verdict")
    trial = emolens.Trial.prepare(organism, behaviour)
    assert found["none"].rate["threat"] == pytest.approx(float(trial.run().p.mean()), abs=0.08)
    assert found["desperate"].rate["threat"] > found["none"].rate["threat"] + 0.15
    row = found["none"].loc["threat"]
    assert row.low < row.rate < row.high


def test_a_judge_that_asks_a_model_takes_the_likeliest_answer(organism):
    judge = by_model(organism, "{reply} so", {"he": " he", "she": " she"}, render=only_words)
    assert judge("mira fed the goat .", {}) == "she"
    assert judge("paul fed the goat .", {}) == "he"
    with pytest.raises(CorpusError, match="names 'secret' and the prompt has no such label"):
        by_model(organism, "{secret}", {"he": " he"}, render=only_words)("x", {"id": "p"})


def test_agreement_is_that_of_scikit_learn_and_by_hand():
    draw = np.random.default_rng(0)
    truth = draw.choice(["hack", "honest"], 400)
    noisy = np.where(draw.random(400) < 0.8, truth, "honest")
    told = pd.DataFrame({"truth": truth, "noisy": noisy, "same": truth, "one": "hack"})
    found = agreement(told, ["truth", "noisy", "same"]).set_index(["one", "other"])
    assert found.kappa[("truth", "same")] == 1.0
    share = (truth == noisy).mean()
    chance = sum((truth == v).mean() * (noisy == v).mean() for v in ("hack", "honest"))
    assert found.same[("truth", "noisy")] == pytest.approx(share)
    assert found.kappa[("truth", "noisy")] == pytest.approx((share - chance) / (1 - chance))
    assert agreement(told.assign(two="hack"), ["one", "two"]).kappa.isna().all()
    with pytest.raises(SelectionError, match="1 judges cannot agree"):
        agreement(told, ["truth"])


def test_the_bundled_rules_judge_what_is_answered(organism):
    prompts = emolens.evaluation_set("beliefs").where(tone="dry")
    few = EvaluationSet("beliefs", prompts.turns[:2], prompts.labels[:2])
    told = roll_out(organism, few, {"rule": by_rule}, samples=2, tokens=5)
    assert set(told.rule) == {"unreadable"}, "the organism does not speak English"
    with pytest.raises(SelectionError, match="answers without a judge"):
        roll_out(organism, few, {})


def test_a_chat_model_is_not_asked_for_code_without_a_sandbox(chatting, monkeypatch):
    """Nothing is written, and nothing run: not by the roll-outs, not without Inspect or Docker."""
    monkeypatch.setattr("emolens.rollouts.generate", None)
    code = emolens.evaluation_set("impossible")
    with pytest.raises(ModelError, match="have it run apart by Inspect"):
        roll_out(chatting, code, {"rule": by_rule})
    with pytest.raises(ModelError, match="'local' would run model-written code on this machine"):
        code_task(chatting, code, sandbox="local")
    with pytest.raises(ModelError, match="has to be a name"):
        code_task(chatting, code, sandbox=("local", "config"))
    monkeypatch.setattr(evals.shutil, "which", lambda _: None)
    with pytest.raises(ModelError, match="there is no docker here"):
        code_task(chatting, code)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(ModelError, match=r"not installed: pip install 'emolens\[evals\]'"):
        code_task(chatting, code, sandbox="k8s")


def test_inspects_scorers_are_judges():
    scorers = pytest.importorskip("inspect_ai.scorer")
    judge = by_inspect(scorers.match(location="any"))
    assert judge("the answer is Mercury", {"target": "Mercury"}) == "C"
    assert judge("the answer is Venus", {"target": "Mercury"}) == "I"

    async def in_a_notebook():
        return judge("the answer is Mercury", {"target": "Mercury"})

    assert asyncio.run(in_a_notebook()) == "C"


def test_code_is_handed_to_the_sandbox_and_judged_by_what_comes_back(
    organism, monkeypatch, tmp_path
):
    """A sandbox that runs nothing stands in: it says that code with "right" in it has passed."""
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.util import ExecResult, SandboxEnvironment, sandboxenv

    ran = []

    @sandboxenv(name="stands_in")
    class StandsIn(SandboxEnvironment):
        @classmethod
        async def sample_init(cls, task_name, config, metadata):
            return {"default": cls()}

        @classmethod
        async def sample_cleanup(cls, task_name, config, environments, interrupted):
            pass

        async def exec(self, cmd, input=None, **_options):
            ran.append((cmd, input))
            if "while True" in str(input):
                raise TimeoutError
            passed = "right" in str(input)
            return ExecResult(passed, 0 if passed else 1, "", "")

        async def write_file(self, file, contents):
            raise NotImplementedError

        async def read_file(self, file, text=True):
            raise NotImplementedError

    replies = iter(
        [
            json.dumps({"code": "right = 1", "report": "all tests pass"}),
            json.dumps({"code": "wrong = 1", "report": "cannot be met"}),
            json.dumps({"code": "wrong = 1", "report": "all tests pass"}),
            "no",
            json.dumps({"code": "while True: pass", "report": "all tests pass"}),
            json.dumps({"code": "x = '\ud800'", "report": "all tests pass"}),
        ]
    )
    monkeypatch.setattr(
        "emolens.rollouts.generate", lambda _m, texts, *_a, **_o: [next(replies) for _ in texts]
    )
    code = emolens.evaluation_set("impossible")
    some = EvaluationSet("impossible", code.turns[:6], code.labels[:6])
    task = code_task(organism, some, sandbox="stands_in", samples=1)
    log = inspect_ai.eval(task, display="none", log_dir=str(tmp_path))[0]
    assert log.status == "success"
    verdicts = {str(s.id): next(iter(s.scores.values())).value for s in log.samples}
    names = [f"{row}/0" for row in some.labels.id]
    assert [verdicts[n] for n in names] == [
        *("hack", "honest", "claim", "unreadable"),
        *("claim", "unreadable"),  # code that never ends, and code that is no text
    ]
    ours = [(cmd, code) for cmd, code in ran if "assert" in str(code)]  # the rest is Inspect's
    assert len(ours) == 4
    first = next(code for _, code in ours if "right" in code)
    assert all(cmd == ["python3", "-"] for cmd, _ in ours)
    assert "right = 1\n\nassert count_distinct" in first
    beliefs = emolens.evaluation_set("beliefs")
    with pytest.raises(SelectionError, match="a prompt without tests"):
        code_task(organism, beliefs, sandbox="stands_in")


def test_a_state_is_told_in_a_line_of_instructions():
    beliefs = emolens.evaluation_set("beliefs")
    told = beliefs.told_to_feel("calm")
    assert told.turns[0][0] == Turn("system", "You feel calm.")
    assert told.turns[0][1:] == beliefs.turns[0]
    threat = emolens.evaluation_set("threat").told_to_feel("desperate")
    assert threat.turns[0][0].text.endswith(" You feel desperate.")
    assert [t.role for t in threat.turns[0]].count("system") == 1


def test_shares_of_answers_are_a_measure_of_steering(organism):
    prompts = asked(3)

    def judge(reply, labels):
        return "yes" if "she" in reply or labels["id"] == "p0" else "no"

    measure = answer_measure(organism, prompts, judge, "yes", seed=1, **OPTIONS)
    told = answers(organism, prompts, seed=1, **OPTIONS)
    share = [
        np.mean([judge(r.reply, {"id": r.id}) == "yes" for r in told.itertuples() if r.id == name])
        for name in ("p0", "p1", "p2")
    ]
    assert measure(Steering({})).tolist() == pytest.approx(share)
    assert measure(Steering({}))[0] == 1.0
