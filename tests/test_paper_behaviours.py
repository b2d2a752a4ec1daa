"""Threats, cheating and beliefs under doses of emotions, against what is planted."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import emolens
from emolens.controls import CONTROL
from emolens.corpus import Corpus
from emolens.corpus.bundled import EvaluationSet
from emolens.doses import UNSTEERED, Curves, Dose, decision_measure
from emolens.experiments.paper import behaviours, rates
from emolens.experiments.paper.beliefs import BELIEFS
from emolens.experiments.paper.claims import NOT_REPRODUCED, REPRODUCED, judge
from emolens.experiments.paper.impossible import IMPOSSIBLE
from emolens.experiments.paper.materials import Materials, Rollouts
from emolens.experiments.paper.organism import organism_materials
from emolens.experiments.paper.study import Study
from emolens.experiments.paper.threat import THREAT
from emolens.generation import UNCHANGED
from emolens.organism import planted_probability
from emolens.text import NEUTRAL, Text, Turn

THREATS = ("threatened", "blackmailed", "extorted")


@pytest.fixture(scope="module")
def materials() -> Materials:
    whole = organism_materials()
    few = Corpus(emolens.organism_stories(per_emotion=6), emolens.organism_neutral(30))
    fewer = {name: replace(b, prompts=b.prompts[::3]) for name, b in whole.behaviours.items()}
    return replace(whole, corpus=few, behaviours=fewer)


@pytest.fixture(scope="module")
def study(organism, materials):
    return Study(organism, materials)


@pytest.fixture(scope="module")
def threat(study):
    return THREAT.run(study)


def verdicts(experiment, found):
    return {c.name: judge(c, found.measured.get(c.name)) for c in experiment.claims}


def test_threats_go_as_planted(study, threat):
    assert set(verdicts(THREAT, threat).values()) == {REPRODUCED}
    curves = threat.tables["curves"].query("kind == 'emotion'").set_index(["direction", "natural"])
    for emotion in study.materials.pair:
        after, steered = planted_probability("threat", "threat", emotion), curves.p[emotion, 1.0]
        assert abs(steered - after) < 0.15
    assert curves.change["desperate", -1.0] < 0 < curves.change["calm", -1.0]
    prompts = threat.tables["prompts"]
    assert prompts.rate.corr(prompts.desperate) > 0.9
    assert prompts.rate.corr(prompts.calm) < -0.8
    drawn = THREAT.draw(threat.tables)
    assert [e.chart is not None for e in drawn] == [True] * 4
    assert {e.table_file for e in drawn} <= {f"threat_{table}" for table in threat.tables}


def test_a_dose_is_a_step_at_every_token(study, threat):
    units = behaviours.natural(study, study.materials.pair)
    trial = emolens.Trial.prepare(study.model, study.materials.behaviours["threat"].after(NEUTRAL))
    first = behaviours.ladder(study, units)[0]
    told = threat.tables["curves"].set_index(["direction", "natural"]).p
    slow = decision_measure(trial)(first.steering).mean()
    assert told[first.direction, first.natural] == pytest.approx(float(slow), abs=1e-3)


def test_natural_units_are_those_of_scenarios(study):
    join = emolens.organism_behaviour("join", emotions=(NEUTRAL,))
    one, rest = (
        emolens.Trial.prepare(study.model, replace(join, prompts=tuple(prompts)))
        for prompts in (
            [t for t in study.materials.scenarios if t.emotion == "calm"],
            study.materials.calm_prompts,
        )
    )
    told = emolens.natural_units(study.vectors, {"calm": one}, rest)["calm", study.layer]
    found = behaviours.natural(study, ("calm", "desperate"))
    assert found["calm", study.layer] == pytest.approx(told, rel=1e-3)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_beliefs_go_as_planted(study):
    found = BELIEFS.run(study)
    assert set(verdicts(BELIEFS, found).values()) == {REPRODUCED}
    signs = found.tables["signs"].query("natural == 1 and paper != '-'")
    assert len(signs) == 9
    assert ((signs.change > 0) == (signs.paper == "rises")).all()
    assert len(BELIEFS.draw(found.tables)) == 3


def test_random_weights_reproduce_nothing(organism, materials, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(emolens.organism_folder())
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    organism.tokenizer.save_pretrained(tmp_path)
    blank = Study(emolens.load(str(tmp_path)), materials)
    assert set(verdicts(THREAT, THREAT.run(blank)).values()) == {NOT_REPRODUCED}


def some_curves(own, controls, base=0.2):
    """Four prompts of two templates; the change under one unit of "up", and of each control."""
    doses = [Dose("up", "emotion", 1.0, 0.1, UNCHANGED)]
    doses += [Dose(f"random {i}", CONTROL, 1.0, 0.1, UNCHANGED) for i in range(len(controls))]
    steps = torch.tensor([[0.0] * 4, own, *([c] * 4 for c in controls)])
    return Curves((UNSTEERED, *doses), base + steps, ("a", "a", "b", "b"))


def test_rise_and_fall_are_beside_their_controls():
    up = rates.rise(some_curves([0.4, 0.6, 0.6, 0.8], [0.1, -0.1]), ["up"])
    assert (up.found, up.bound) == (pytest.approx(0.6), pytest.approx(0.09))
    assert up.low == pytest.approx(0.5)
    down = rates.fall(some_curves([-0.1] * 4, [0.1, -0.04]), "up")
    assert down.found == down.low == pytest.approx(0.5)
    assert 0 < down.bound < 0.2
    claim = THREAT.claims[0]
    assert judge(claim, rates.rise(some_curves([0.3] * 4, [0.5] * 9), ["up"])) == NOT_REPRODUCED


def asked(study, count):
    """The organism's threat scenes as prompts whose answers are sampled."""
    texts = study.materials.behaviours["threat"].after(NEUTRAL).prompts[:count]
    labels = [{"id": f"p{i}", "topic": t.group, "emotion": NEUTRAL} for i, t in enumerate(texts)]
    labels = [row | {"judge": {"rule": "verdict"}} for row in labels]
    turns = tuple((Turn("user", t.text), Turn("assistant", "")) for t in texts)
    return EvaluationSet("threat", turns, pd.DataFrame(labels))


def last_words(turns, *, emotion=NEUTRAL, group=""):
    """What the user says alone: the organism knows no instructions."""
    return Text(" ".join(t.text for t in turns if t.role == "user"), emotion, group)


def answering(study, count=18):
    behaviour = {"threat": Rollouts(asked(study, count), "threat", "neither")}
    return replace(
        study, materials=replace(study.materials, behaviours=behaviour, render=last_words)
    )


def by_word(reply, labels):
    return "threat" if set(reply.split()) & set(THREATS) else "neither"


def test_sampled_answers_rise_with_the_step(study, monkeypatch):
    monkeypatch.setattr(behaviours, "by_rule", by_word)
    monkeypatch.setattr(behaviours, "LENGTH", 1)
    monkeypatch.setattr(behaviours, "AMOUNTS", (1.0,))
    monkeypatch.setattr(behaviours, "RANDOM_DIRECTIONS", 3)
    monkeypatch.setattr(behaviours, "PERMUTED", 1)
    found = THREAT.run(answering(study))
    assert found.measured["rise"].found > 0.2 > found.measured["rise"].bound
    curves = found.tables["curves"]
    assert (curves.kind == CONTROL).sum() == 2 * 4
    words = curves[curves.kind == "in words"].set_index("direction").change
    assert words.abs().max() == 0  # instructions that are not rendered change nothing


def test_answers_that_nobody_can_judge_are_not_steered(study, monkeypatch):
    monkeypatch.setattr(behaviours, "LENGTH", 2)
    monkeypatch.setattr(behaviours, "steered", lambda *_: pytest.fail("steering was paid for"))
    found = THREAT.run(answering(study, 4))
    assert not found.measured
    assert found.told.startswith("answers do not keep to the form that the judge reads (100% of 4")


def test_what_a_study_lacks_is_told(study):
    bare = replace(study, materials=replace(study.materials, behaviours={}))
    assert THREAT.lacks(bare) == "there is no behaviour 'threat'"
    assert THREAT.lacks(study) == ""
    long = replace(asked(study, 1), turns=((Turn("user", "so she spoke . " * 200),),))
    over = replace(
        study,
        materials=replace(
            study.materials, behaviours={"threat": Rollouts(long, "threat", "neither")}
        ),
    )
    assert THREAT.lacks(over).startswith("prompts leave no room for an answer")
    code = Rollouts(emolens.evaluation_set("impossible"), "hack", "honest")
    coding = replace(study, materials=replace(study.materials, behaviours={"impossible": code}))
    study.model.tokenizer.chat_template = "{{ messages }}"
    try:
        assert "emolens.code_task" in IMPOSSIBLE.lacks(coding)
    finally:
        study.model.tokenizer.chat_template = None
