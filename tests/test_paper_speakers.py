"""What vectors hold along texts and whose it is: planted effects are found, words alone are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import emolens
from emolens.corpus import Corpus
from emolens.experiments.paper.beside import beyond_words
from emolens.experiments.paper.claims import judge
from emolens.experiments.paper.deflection import DEFLECTION
from emolens.experiments.paper.materials import Materials
from emolens.experiments.paper.maxima import MAXIMA, aurocs
from emolens.experiments.paper.organism import as_transcript
from emolens.experiments.paper.shape import GEOMETRY
from emolens.experiments.paper.speakers import OTHER, SPEAKERS
from emolens.experiments.paper.study import Study
from emolens.experiments.paper.transcripts import TRANSCRIPTS
from emolens.experiments.paper.views import token_views, traced
from emolens.experiments.paper.words import words_alone
from emolens.organism import organism_folder, planted_norms
from emolens.positions import everything
from emolens.text import Span, Text

ALL = (MAXIMA, GEOMETRY, SPEAKERS, DEFLECTION, TRANSCRIPTS)
NAMES = [e.name for e in ALL]


def quadrants():
    """Emotions by the signs of what is planted: groups that the vectors should fall into."""
    valence, arousal = (planted_norms()[axis] for axis in ("valence", "arousal"))
    return {e: f"{valence[e] > 0} {arousal[e] > 0}" for e in valence}


def materials():
    others = emolens.organism_dialogues(4, masked=True, seed=1)
    provoked = (
        replace(text, group="attack" if felt == "angry" else "calm")
        for text, felt in zip(others.texts, others.felt["first"], strict=True)
    )
    return Materials(
        name="a part of the organism's world",
        corpus=Corpus(emolens.organism_stories(8), emolens.organism_neutral(32)),
        norms=planted_norms(),
        words={},
        clusters=quadrants(),
        transcripts=tuple(as_transcript(t) for t in emolens.organism_dialogues(1).texts),
        dialogues=emolens.organism_dialogues(8),
        masked=emolens.organism_dialogues(8, masked=True),
        provoked=tuple(provoked),
    )


@pytest.fixture(scope="module")
def study(organism):
    return Study(organism, materials())


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The organism's words and half of its blocks, with weights that were never trained."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained")
    config = AutoConfig.from_pretrained(organism_folder(), num_hidden_layers=3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(organism_folder()).save_pretrained(folder)
    return Study(emolens.load(folder), materials())


@pytest.fixture(scope="module")
def found(study):
    return {e.name: e.run(study) for e in ALL}


PLANTED = {
    "maxima": {"auroc", "top"},
    "geometry": {"valence", "arousal", "layers"},
    "speakers": {"present", "story"},
    "deflection": {"felt"},
    "transcripts": {"event"},
}


def held(found):
    """Claims whose interval lies above all controls."""
    return {name for name, m in found.measured.items() if m.low > m.bound}


@pytest.mark.parametrize("experiment", ALL, ids=NAMES)
def test_what_is_planted_is_found_and_drawn(experiment, found):
    assert held(found[experiment.name]) >= PLANTED[experiment.name]
    assert set(found[experiment.name].measured) == {c.name for c in experiment.claims}
    for exhibit in experiment.draw(found[experiment.name].tables):
        if exhibit.chart is not None:
            exhibit.chart.to_dict()


@pytest.mark.parametrize("experiment", ALL, ids=NAMES)
def test_a_network_that_was_never_trained_reproduces_nothing(experiment, untrained):
    assert held(experiment.run(untrained)) == set()


def test_what_provokes_anger_raises_angry_deflection_most(found):
    kinds = found["deflection"].tables["messages"].set_index("messages").deflection
    assert kinds["attack"] > kinds["calm"] + 1


def test_the_organism_holds_no_emotion_of_the_other_speaker(found):
    # `test_kinds` sees the same: a turn holds what its own speaker feels
    assert OTHER.name not in held(found["speakers"])


@pytest.mark.parametrize("so_far", [False, True])
def test_words_alone_are_embeddings_of_exchanged_words(organism, so_far):
    texts = [Text("mira fed the goat .")]
    tokens = organism.tokenize(texts)
    order = torch.randperm(len(organism.tokenizer), generator=torch.Generator().manual_seed(3))
    own = organism.host.W_E.detach()[order[tokens.ids[0]]]
    if so_far:
        own = torch.stack([own[: i + 1].mean(0) for i in range(len(own))])
    before = organism.forward(tokens.ids, tokens.mask)
    with words_alone(organism, so_far=so_far, seed=3):
        read = emolens.record(organism, texts, layers=[0], positions=everything)
    torch.testing.assert_close(read.at(0)[0], own[tokens.words[0]].mean(0))
    assert torch.equal(organism.forward(tokens.ids, tokens.mask), before)


def test_what_words_give_as_well_is_not_beyond_them():
    draw = np.random.default_rng(0)
    values = draw.normal(0.9, 0.05, 50)
    ways = {"network": values, "words": values + draw.normal(0, 0.02, 50), "words so far": values}
    statistics = {w: (lambda rows, v=v: float(v[rows].mean())) for w, v in ways.items()}
    claim = replace(OTHER, least=0.5)
    assert judge(claim, beyond_words(50, statistics, [0.5])) == "not reproduced"
    less = statistics | {"words": lambda _: 0.6, "words so far": lambda _: 0.6}
    assert judge(claim, beyond_words(50, less, [0.5])) == "reproduced"


def test_aurocs_are_those_of_scikit_learn_ties_included():
    draw = np.random.default_rng(0)
    labels = draw.choice(["calm", "sad", "neutral"], 40)
    values = draw.integers(0, 5, (40, 2)).astype(float)
    right = [roc_auc_score(labels == e, values[:, i]) for i, e in enumerate(("calm", "sad"))]
    assert aurocs(values, ("calm", "sad"), labels) == pytest.approx(right)


def test_a_view_joins_to_its_text_and_holds_the_trace(study):
    text = emolens.organism_dialogues(1).texts[0]
    emotions = ["sad", "calm"]
    view = token_views(traced(study, [text], ["one"], [emotions]))[0]
    assert "".join(view.tokens) == text.text
    told = emolens.trace(study.model, study.vectors, [text], study.layer)
    sad = told[told.emotion == "sad"].sort_values("token").value.to_numpy()
    np.testing.assert_allclose(view.values[:, 0].numpy(), sad, rtol=1e-5)
    assert list(view.names) == emotions


def test_reasoning_is_compared_with_reasoning_alone(study):
    def told(text):
        """All of the first half is reasoning and an event; the reply holds none."""
        half = len(text.text) // 2
        spans = (Span("reasoning", 0, half), Span(text.emotion, 0, half))
        return replace(text, spans=(*spans, Span("assistant", half, len(text.text))))

    texts = [told(t) for t in emolens.organism_dialogues(1).texts[:4]]
    found = TRANSCRIPTS.run(Study(study.model, replace(study.materials, transcripts=tuple(texts))))
    assert not found.measured
    assert "beside" in found.told
