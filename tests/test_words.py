"""Own words under steering: a planted vocabulary, and directions of nothing."""

import pytest

import emolens
from emolens.errors import SelectionError
from emolens.experiments.words import feeling_prompts, own_word_counts, own_words
from emolens.positions import everything
from emolens.text import Text
from tests.written import TOLD, pointing

PROMPTS = [Text("word3 word4"), Text("word5 word6 word7")]


def test_a_vector_that_is_read_out_as_its_word_raises_that_word_most(written):
    """The hand-written network reads `TOLD` out as word10, and its negative as word11."""
    vectors = pointing(written, TOLD)
    renamed = vectors.__class__(**{**vars(vectors), "emotions": ("word10", "word11")})
    found = own_words(
        written,
        renamed,
        layers=[2],
        emotions=("word10", "word11"),
        prompts=PROMPTS,
        positions=everything,
        control_count=10,
    )
    counts = own_word_counts(found).set_index("kind")
    assert counts.rises_most["emotion"] == 2
    assert counts.matching["emotion"] > 0 > counts.other["emotion"]
    assert counts.rises_most["random"] < 2
    assert list(counts["of"]) == [2, 2, 2]
    own = found[(found.kind == "emotion") & (found.direction == found.word)]
    assert bool(own.most.all())


def test_in_the_organism_vectors_say_their_words(organism, vectors):
    prompts = [Text(t.text) for t in emolens.organism_neutral(4)]
    emotions = ("happy", "calm", "desperate", "angry", "sad", "afraid")
    found = own_words(
        organism,
        vectors,
        layers=[4],
        emotions=emotions,
        prompts=prompts,
        positions=everything,
        control_count=4,
    )
    counts = own_word_counts(found).set_index("kind")
    assert counts.rises_most["emotion"] >= 4
    assert counts.rises_most["random"] <= 3
    assert counts.matching["emotion"] > counts.other["emotion"] + 0.5


def test_the_default_prompts_end_where_the_feeling_is_to_be_named():
    for text in feeling_prompts():
        assert text.text.endswith("Assistant: He feels")
        assert text.spans[-1].name == "assistant"


def test_one_word_cannot_rise_most(organism, vectors):
    with pytest.raises(SelectionError, match="1 emotions have no word to compare"):
        own_words(organism, vectors, layers=[3], emotions=("happy",))
