"""Where a text is read: numbers, replies, what follows a few words, two people."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import emolens
from emolens.experiments.paper.binding import BINDING
from emolens.experiments.paper.claims import judge
from emolens.experiments.paper.context import CONTEXT
from emolens.experiments.paper.differences import by_token, shared
from emolens.experiments.paper.materials import Bound, Pair
from emolens.experiments.paper.numbers import NUMBERS, rank_correlations
from emolens.experiments.paper.organism import organism_materials
from emolens.experiments.paper.replies import REPLIES
from emolens.experiments.paper.study import Study
from emolens.text import Span


@pytest.fixture(scope="module")
def materials():
    made = organism_materials(speaker="assistant")
    fewer = [replace(q, texts=tuple(t[:2] for t in q.texts)) for q in made.quantities]
    return replace(made, quantities=tuple(fewer), replies=made.replies[::2], bound=made.bound[:40])


@pytest.fixture(scope="module")
def assistant(materials):
    """The tuned organism, whose assistant feels otherwise than its user."""
    model = emolens.load("organism-assistant")
    few = replace(
        materials.corpus,
        stories=tuple(emolens.organism_stories(per_emotion=10)),
        neutral=tuple(emolens.organism_neutral(60)),
    )
    return Study(model, replace(materials, corpus=few))


@pytest.fixture(scope="module")
def study(organism, vectors, materials):
    return known(Study(organism, materials), vectors)


def known(study, vectors):
    study.__dict__["vectors"] = vectors
    return study


def changed(study, **materials):
    """The same model and vectors with other texts."""
    return known(Study(study.model, replace(study.materials, **materials)), study.vectors)


def verdicts(experiment, found):
    return {
        c.name: judge(c, found.measured[c.name])
        for c in experiment.claims
        if c.name in found.measured
    }


@pytest.mark.parametrize("experiment", [NUMBERS, REPLIES, CONTEXT, BINDING], ids=lambda e: e.name)
def test_planted_effects_are_found_and_drawn(study, assistant, experiment):
    its = assistant if experiment is REPLIES else study
    found = experiment.run(its)
    assert set(verdicts(experiment, found).values()) == {"reproduced"}
    assert experiment.lacks(its) == ""
    exhibits = experiment.draw(found.tables)
    assert all(not e.table.empty for e in exhibits)
    assert exhibits[0].chart is not None


@pytest.mark.parametrize("experiment", [NUMBERS, REPLIES, CONTEXT, BINDING], ids=lambda e: e.name)
def test_vectors_that_mean_nothing_reproduce_nothing(study, vectors, experiment):
    random = torch.randn(vectors.vectors.shape, generator=torch.Generator().manual_seed(3))
    blind = known(Study(study.model, study.materials), replace(vectors, vectors=random))
    assert set(verdicts(experiment, experiment.run(blind)).values()) == {"not reproduced"}


def test_scaling_the_numbers_changes_nothing_and_turning_them_round_turns_the_sign(study):
    quantities = study.materials.quantities
    turned = [replace(q, rises=q.falls, falls=q.rises) for q in quantities]
    scaled = [replace(q, values=tuple(10 * v for v in q.values)) for q in quantities]
    own, other, same = (
        NUMBERS.run(changed(study, quantities=tuple(q))) for q in (quantities, turned, scaled)
    )
    assert other.measured["rho"].found == pytest.approx(-own.measured["rho"].found)
    assert same.measured == own.measured


def test_a_text_that_does_not_change_has_no_rank_correlation():
    rng = np.random.default_rng(0)
    x, columns = rng.normal(size=9), rng.normal(size=(9, 3))
    columns[:, 1] = 2.0
    expected = [np.corrcoef(x.argsort().argsort(), c.argsort().argsort())[0, 1] for c in columns.T]
    found = rank_correlations(x, columns)
    assert found[1] == 0
    assert found[[0, 2]] == pytest.approx([expected[0], expected[2]])


def test_pairs_the_other_way_round_lose_what_they_gained(study):
    turned = [Pair(p.second, p.first, p.emotion) for p in study.materials.pairs]
    own = CONTEXT.run(study).measured
    other = CONTEXT.run(changed(study, pairs=tuple(turned))).measured
    assert other["pairs"].found == pytest.approx(1 - own["pairs"].found)
    assert other["pairs_late"].found == pytest.approx(-own["pairs_late"].found, rel=1e-3)


def marked(text, name="word"):
    """The first pronoun after the situation, where the organism holds what is felt."""
    start = text.text.index("so ", text.spans[0].end) + 3
    return replace(text, spans=(Span(name, start, start + 2),))


def test_what_is_denied_is_judged_by_its_own_emotion(study):
    pairs = [Pair(marked(p.first), marked(p.second), p.emotion) for p in study.materials.pairs]
    found = CONTEXT.run(changed(study, pairs=(), denied=tuple(pairs)))
    assert verdicts(CONTEXT, found) == {"denied": "reproduced", "denied_late": "reproduced"}
    assert set(found.left_out) == {"pairs", "pairs_late"}
    names = [p.emotion for p in pairs]
    others = [replace(p, emotion=e) for p, e in zip(pairs, names[7:] + names[:7], strict=True)]
    found = CONTEXT.run(changed(study, pairs=(), denied=tuple(others)))
    assert set(verdicts(CONTEXT, found).values()) == {"not reproduced"}


def test_the_words_after_a_change_are_the_same_in_both(study):
    pair = study.materials.pairs[0]
    words = []
    for text in (pair.first, pair.second):
        tokens = study.model.tokenize([text])
        words.append(tokens.ids[shared([text], tokens).mask].tolist())
    assert words[0] == words[1]
    table = by_token(study, pair)
    assert len(table) == study.model.n_layers * (len(words[0]) + 1)


def test_the_other_persons_mentions_count_for_the_other_person(study):
    def swapped(bound):
        end = bound.text.text.rindex("so ")
        text = replace(bound.text, spans=(Span("other", end, len(bound.text.text)),))
        return Bound(text, bound.other, bound.own)

    same = changed(study, bound=tuple(swapped(b) for b in study.materials.bound))
    own = BINDING.run(study).measured["own"]
    assert BINDING.run(same).measured["own"].found == pytest.approx(own.found)


def test_a_reply_is_read_by_the_model_that_wrote_it_and_shuffled_messages_say_nothing(study):
    found = REPLIES.run(study)
    points = found.tables["points"]
    assert len(points) == len(study.materials.replies) * points.emotion.nunique()
    r = found.tables["r"].set_index("places").r
    for name, (a, b) in {
        "begin of reply, reply": ("begins", "reply"),
        "user's end, reply": ("user", "reply"),
    }.items():
        assert r[name] == pytest.approx(np.corrcoef(points[a], points[b])[0, 1], abs=1e-4)
    one = [study.materials.replies[0]] * 6
    alike = changed(study, replies=tuple(one))
    assert verdicts(REPLIES, REPLIES.run(alike)) == {"lead": "not reproduced"}


def test_nothing_is_asked_of_texts_that_are_not_there(organism, materials):
    bare = Study(
        organism, replace(materials, quantities=(), replies=(), pairs=(), denied=(), bound=())
    )
    for experiment in (NUMBERS, REPLIES, CONTEXT, BINDING):
        assert experiment.lacks(bare)


def test_a_base_organism_has_no_messages_since_its_assistant_mirrors_the_user(organism):
    assert "another state" in REPLIES.lacks(Study(organism, organism_materials()))
