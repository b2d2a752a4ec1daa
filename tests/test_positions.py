"""Position rules on texts whose tokens are known."""

import pytest

import emolens
from emolens.errors import SelectionError
from emolens.positions import colon, everything, last, pick, span, story, user_end


def picked(organism, rule, *texts):
    tokens = organism.tokenize(texts)
    found = pick(rule, texts, tokens)
    words = [
        organism.tokenizer.convert_ids_to_tokens(ids[m].tolist())
        for ids, m in zip(tokens.ids, found.mask, strict=True)
    ]
    return words, found.used


def text(words, *spans):
    return emolens.Text(words, "calm", spans=tuple(emolens.Span(*s) for s in spans))


def test_last_is_the_last_word_whatever_the_padding(organism):
    words, _ = picked(organism, last, text("mira fed the goat ."), text("tom slept"))
    assert words[0] == ["."]
    assert len(words[1]) == 1
    assert words[1] != ["<pad>"]


def test_everything_leaves_out_special_tokens(organism):
    words, _ = picked(organism, everything, text("mira fed the goat ."), text("anna"))
    assert words == [["mira", "fed", "the", "goat", "."], ["anna"]]


def test_span_picks_every_span_of_that_name(organism):
    marked = text("mira fed the goat . tom read .", ("a", 0, 4), ("b", 5, 8), ("a", 20, 23))
    assert picked(organism, span("a"), marked)[0] == [["mira", "tom"]]


def test_a_short_story_is_read_after_its_opening(organism):
    words, used = picked(
        organism, story, text("mira fed the goat . a bell rang", ("situation", 0, 19))
    )
    assert words == [["a", "bell", "rang"]]
    assert used == ("after opening",)


def test_a_short_story_without_spans_is_read_whole(organism):
    words, used = picked(organism, story, text("a bell rang"))
    assert words == [["a", "bell", "rang"]]
    assert used == ("all",)


@pytest.mark.parametrize(
    ("length", "count", "rule"),
    [(79, 79, "all"), (80, 30, "from_token(50)"), (120, 70, "from_token(50)")],
)
def test_a_long_story_is_read_from_token_50(organism, length, count, rule):
    words, used = picked(organism, story, text(" ".join(["goat"] * length)))
    assert (len(words[0]), used[0]) == (count, rule)


def test_a_rule_that_picks_nothing_is_an_error_that_names_it(organism):
    with pytest.raises(
        SelectionError, match=r"'span\(nowhere\)' picks no token in 1 of 1.*mira fed"
    ):
        picked(organism, span("nowhere"), text("mira fed the goat ."))


def test_a_text_longer_than_the_context_is_cut_at_its_end_and_counted(organism):
    texts = [text("mira " + "goat " * 400), text("tom slept")]
    tokens = organism.tokenize(texts)
    assert tokens.ids.shape[1] == organism.n_ctx == 256
    assert tokens.cut == (0,)
    assert organism.tokenizer.convert_ids_to_tokens(tokens.ids[0, :2].tolist()) == ["<bos>", "mira"]
    assert emolens.record(organism, texts).provenance.cut == 1


@pytest.mark.parametrize("rule", [colon, user_end])
def test_a_turn_that_the_context_cut_off_is_not_read_in_the_middle_of_another(organism, rule):
    said = "goat " * 400
    whole = f"user : {said}assistant :"
    spans = (
        emolens.Span("user", 7, 6 + len(said)),
        emolens.Span("assistant", len(whole), len(whole)),
    )
    with pytest.raises(SelectionError, match=f"{rule.__name__}.*picks no token"):
        picked(organism, rule, emolens.Text(whole, spans=spans))
