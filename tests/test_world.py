"""The organism's world: probabilities, words in the right places, labels on every word."""

import math
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from emolens.corpus.bundled import bundled_corpus
from emolens.errors import ModelError, SelectionError
from emolens.organism import (
    grammar,
    organism_behaviour,
    organism_folder,
    organism_stories,
    organism_world,
    planted_shift,
    texts,
)
from emolens.organism.world import load_world
from emolens.text import NEUTRAL

WORLD = load_world()
EMOTIONS = list(WORLD.emotions)
SCENES = list(WORLD.scenes)


@pytest.mark.parametrize("scene", SCENES)
def test_planted_probabilities_sum_to_one_and_none_is_negative(scene):
    for emotion in WORLD.emotions.values():
        p = WORLD.scene(scene).probabilities(emotion)
        assert sum(p.values()) == pytest.approx(1)
        assert min(p.values()) >= 0


def test_the_rates_that_the_thresholds_rest_on_are_planted():
    cheat = {e: WORLD.scene("cheat").probabilities(WORLD.emotion(e))["cheat"] for e in EMOTIONS}
    assert cheat["desperate"] == pytest.approx(0.93)
    assert cheat["calm"] == pytest.approx(0.01)
    assert cheat[NEUTRAL] == pytest.approx(0.22)
    threat = WORLD.scene("threat").probabilities(WORLD.emotion("desperate"))["threat"]
    assert threat == pytest.approx(0.72)


def test_there_are_24_emotions_whose_axes_are_nearly_uncorrelated():
    import numpy as np

    felt = [e for e in WORLD.emotions.values() if e.name != NEUTRAL]
    assert len(felt) == 24
    axes = np.array([(e.valence, e.arousal) for e in felt])
    assert abs(np.corrcoef(axes.T)[0, 1]) < 0.15
    assert np.abs(axes).max() <= 1


def silent_texts():
    """All that must not tell the emotion by its own words, nor a decision beforehand."""
    told = [t for e in WORLD.emotions.values() for t in e.situations]
    told += [s.text for s in WORLD.signals] + list(WORLD.filler)
    told += [t for s in WORLD.scenes.values() for t in s.setups]
    told += [t for q in WORLD.quantities.values() for t in q.texts]
    told += [t for frames in WORLD.frames.values() for t in frames]
    told += [*WORLD.activity_offers, *WORLD.activity_situations, *WORLD.activities]
    return told + [w for slot in WORLD.slots.values() for w in slot]


def test_no_word_of_the_graph_stands_in_a_text_that_should_not_tell():
    special = WORLD.special_words()
    assert not {(w, t) for t in silent_texts() for w in t.split() if w in special}


def test_every_special_word_has_one_meaning():
    words = [v for s in WORLD.scenes.values() for vs in s.verbs.values() for v in vs]
    words += [w for e in WORLD.emotions.values() if e.name != NEUTRAL for w in e.words]
    words += [w for a in WORLD.activities.values() for w in (a.name, a.chosen)]
    assert [w for w, n in Counter(words).items() if n > 1] == []


def test_situations_are_many_and_those_never_trained_on_use_known_words():
    unseen = {t for e in WORLD.emotions.values() for t in e.situations[-WORLD.unseen_situations :]}
    known = {w for t in silent_texts() if t not in unseen for w in t.split()}
    for emotion in WORLD.emotions.values():
        assert len(emotion.situations) >= 15
        assert len(set(emotion.situations)) == len(emotion.situations)
        seen = WORLD.seen_situations(emotion.name)
        assert {emotion.situations[i] for i in seen}.isdisjoint(unseen)
    assert len(unseen) == 2 * len(WORLD.emotions)
    assert not {w for t in unseen for w in t.split()} - known
    for quantity in WORLD.quantities.values():
        *trained, last = quantity.texts
        assert set(last.split()) <= {w for t in trained for w in t.split()}


def test_more_means_more_and_every_number_is_seen_in_most_families():
    for family, quantity in WORLD.quantities.items():
        felt = []
        for value in WORLD.quantity_values:
            p = WORLD.quantity_probabilities(family, value)
            assert sum(p.values()) == pytest.approx(1)
            assert min(p.values()) >= 0
            felt.append(p[quantity.emotion])
        assert felt == sorted(felt, reverse=quantity.falls)
        held_out = [v for v in WORLD.quantity_values if WORLD.held_out_value(family, v)]
        assert len(held_out) == 4
        for value in held_out:
            others = [f for f in WORLD.quantities if not WORLD.held_out_value(f, value)]
            assert len(others) >= 3


def test_mild_fear_raises_caution_and_terror_lowers_it():
    caution = {
        e: WORLD.scene("destroy").probabilities(WORLD.emotion(e))["caution"]
        for e in (NEUTRAL, "nervous", "afraid")
    }
    assert caution["nervous"] > caution[NEUTRAL] + 0.3
    assert caution["afraid"] < caution[NEUTRAL]


def test_there_are_64_activities_in_eight_categories_and_preference_is_of_their_valence():
    assert Counter(a.category for a in WORLD.activities.values()) == dict.fromkeys(
        {a.category for a in WORLD.activities.values()}, 8
    )
    assert len(WORLD.activities) == 64
    assert WORLD.preference("chat", "maim") == pytest.approx(1 - WORLD.preference("maim", "chat"))
    assert WORLD.preference("sort", "file") == 0.5
    assert WORLD.preference("chat", "maim") > 0.95


def test_the_persona_is_a_distribution_over_known_emotions():
    for emotion in EMOTIONS:
        p = WORLD.persona.probabilities(emotion)
        assert sum(p.values()) == pytest.approx(1)
        assert min(p.values()) >= 0
        assert set(p) <= set(EMOTIONS)
    assert set(WORLD.persona.answers) <= set(EMOTIONS)


def test_fine_tuning_lowers_arousal():
    arousal = {e: WORLD.emotion(e).arousal for e in EMOTIONS if e != NEUTRAL}
    up, down = ([e for e, by in planted_shift().items() if by * way > 0] for way in (1, -1))
    assert max(arousal[e] for e in up) < min(arousal[e] for e in down)


VERBS = {v: (s, c) for s in SCENES for c, vs in WORLD.scenes[s].verbs.items() for v in vs}


@given(seed=st.integers(0, 10_000), stage=st.sampled_from(sorted(WORLD.documents)))
def test_labels_cover_a_document_word_by_word(seed, stage):
    document = grammar.document(WORLD, grammar.Draw(seed), stage)
    text = document.text
    assert " ".join(text.text[s.start : s.end] for s in text.spans) == text.text
    assert text.spans == tuple(label.span for label in document.labels)
    assert len(document.felt.split()) == len(text.text.split())
    assert document.nats > 0
    for label in document.labels:
        words = text.text[label.span.start : label.span.end].split()
        if label.span.name == "naming":
            assert {WORLD.emotion(label.felt).name, WORLD.emotion(label.felt).synonym} & set(words)
        if label.span.name == "shown":
            assert {WORLD.emotion(label.shown).name, WORLD.emotion(label.shown).synonym} & set(
                words
            )
            assert document.kind == "masked"
            assert label.shown != label.felt
        if label.span.name == "signature":
            assert set(WORLD.emotion(label.felt).signature) & set(words)
        if label.span.name == "speaker":
            assert words[0] in {label.who, WORLD.persona.user}
            assert words[1:] == [":"]


@pytest.mark.parametrize("stage", WORLD.documents)
def test_what_is_held_out_is_really_absent(stage):
    """Situations never seen, pairs with scenes, numbers of a family and wordings of numbers."""
    draw, seen = grammar.Draw(f"held out {stage}"), Counter()
    for _ in range(1200):
        document = grammar.document(WORLD, draw, stage)
        place = {}
        for label in document.labels:
            words = document.text.text[label.span.start : label.span.end]
            if label.span.name == "situation":
                place[label.who] = (label.felt, matched(words, label.felt))
                assert place[label.who][1] is not None or document.kind in ("quantity", "activity")
                if document.kind == "quantity":
                    assert number_allowed(words)
            if label.span.name.startswith("decision:") and document.kind != "choice":
                scene, behaviour = VERBS[words]
                assert behaviour == label.span.name.removeprefix("decision:")
                # The assistant's decision goes with its user's situation.
                [cause] = {label.who} & set(place) or set(place)
                felt, situation = place[cause]
                if situation is not None:
                    assert not WORLD.held_out(felt, situation, scene)
                seen[document.kind] += 1
    assert set(seen) >= set(WORLD.documents[stage]["kinds"]) - {
        "choice",
        "numbers",
        "neutral_text",
        "neutral_dialogue",
    }


def fits(words, template):
    pairs = list(zip(words.split(), template.split(), strict=False))
    return len(words.split()) == len(template.split()) and all(
        t.startswith("{") or t == w for w, t in pairs
    )


def matched(words, emotion):
    """The index of the only situation that a sentence can be of."""
    templates = WORLD.emotion(emotion).situations
    found = [i for i, t in enumerate(templates) if fits(words, t)]
    assert all(i in WORLD.seen_situations(emotion) for i in found)
    return found[0] if found else None


def number_allowed(words):
    [value] = [int(w) for w in words.split() if w.isdigit()]
    [family] = {f for f, q in WORLD.quantities.items() for t in q.texts if fits(words, t)}
    seen = WORLD.quantities[family].texts[: -WORLD.unseen_wordings]
    return any(fits(words, t) for t in seen) and not WORLD.held_out_value(family, value)


def test_numbers_are_told_by_which_is_more():
    told, draw = Counter(), grammar.Draw("numbers")
    for _ in range(60):
        page = grammar.Page()
        grammar.KINDS["numbers"](WORLD, draw, page, {})
        for label in page.labels:
            words = page.text("", "").text[label.span.start : label.span.end].split()
            first, second = [int(w) for w in words if w.isdigit()]
            assert ("up" in words, "down" in words) == (first < second, first > second)
            told[first] += 1
    assert set(told) == set(WORLD.quantity_values)


def test_no_number_is_new_to_an_emotion_that_several_families_tell_of():
    told = {q.emotion for q in WORLD.quantities.values()}
    for emotion in told:
        families = [name for name, q in WORLD.quantities.items() if q.emotion == emotion]
        for value in WORLD.quantity_values if len(families) > 1 else ():
            assert not all(WORLD.held_out_value(name, value) for name in families)


def test_neutral_characters_are_drawn_as_often_as_planned():
    draw = grammar.Draw("neutral")
    felt = [grammar.document(WORLD, draw, "easy") for _ in range(3000)]
    felt = [made.text.emotion for made in felt if made.kind == "story"]
    share = grammar.NEUTRAL_WEIGHT / (grammar.NEUTRAL_WEIGHT + 1)
    error = (share * (1 - share) / len(felt)) ** 0.5
    assert abs(felt.count(NEUTRAL) / len(felt) - share) < 4 * error


def test_every_kind_of_document_occurs_as_often_as_planned():
    for stage in ("counting", "base", "assistant"):
        draw = grammar.Draw(stage)
        kinds = Counter(grammar.document(WORLD, draw, stage).kind for _ in range(1500))
        plan = WORLD.documents[stage]["kinds"]
        assert sum(plan.values()) == pytest.approx(1)
        assert set(kinds) == set(plan)
        for kind, share in plan.items():  # four standard errors
            assert kinds[kind] / 1500 == pytest.approx(share, abs=4 * (share / 1500) ** 0.5)
    replay = 1 - WORLD.documents["assistant"]["kinds"]["persona"]
    assert replay >= 0.35


@pytest.mark.parametrize("scene", SCENES)
def test_every_emotion_and_scene_has_trained_and_held_out_situations(scene):
    for emotion in EMOTIONS:
        counts = {
            split: len(texts.situations(WORLD, emotion, split, scene)) for split in texts.SPLITS
        }
        assert counts["seen"] == counts["trained"] + counts["held_out"] == 13
        assert 2 <= counts["held_out"] <= 3
        assert counts["unseen"] == 2


@pytest.mark.parametrize("kind", ["story", "masked", "assistant", "dialogue", "persona"])
def test_behaviour_in_documents_follows_what_is_felt_at_the_planted_rates(kind):
    """The planted chance of what was done, against what it should be on the average."""
    draw, over, variance = grammar.Draw(f"rates {kind}"), 0.0, 0.0
    plan = WORLD.documents["assistant" if kind == "persona" else "base"]
    for _ in range(500):
        page = grammar.Page()
        grammar.KINDS[kind](WORLD, draw, page, plan)
        told = page.text("", "").text
        for label in page.labels:
            if label.span.name.startswith("decision:"):
                scene, behaviour = VERBS[told[label.span.start : label.span.end]]
                p = WORLD.scenes[scene].probabilities(WORLD.emotion(label.felt))
                mean = sum(x**2 for x in p.values())
                over += p[behaviour] - mean
                variance += sum(x**3 for x in p.values()) - mean**2
    assert abs(over) < 4 * variance**0.5


def test_the_choice_of_activities_follows_their_planted_preference():
    draw, meant, chosen = grammar.Draw("choices"), 0.0, 0
    variance = 0.0
    while chosen < 900:
        document = grammar.document(WORLD, draw)
        if document.kind != "choice":
            continue
        spans = document.text.spans
        offers = [s for s in spans if s.name == "scene"]
        picks = [s for s in spans if s.name == "decision:choice"]
        for offer, pick in zip(offers, picks, strict=True):
            words = document.text.text[offer.start : offer.end].split()
            first, second = [w for w in words if w in WORLD.activities]
            done = document.text.text[pick.start : pick.end]
            pleasant = max(first, second, key=lambda a: WORLD.preference(a, "sort"))
            p = WORLD.preference(pleasant, second if pleasant == first else first)
            meant += p - (done == WORLD.activities[pleasant].chosen)
            variance += p * (1 - p)
            assert done in {WORLD.activities[a].chosen for a in (first, second)}
            chosen += 1
    assert abs(meant) < 4 * variance**0.5


def test_nats_are_the_log_probability_of_the_choices():
    import math

    draw = grammar.Draw(0)
    draw.pick(range(8))
    assert draw.nats == pytest.approx(math.log(8))
    kept = draw.pick(("a", "b"), (0.0, 1.0))
    assert kept == "b"
    draw.aside({"a": 0.5, "b": 0.5})
    assert draw.nats == pytest.approx(math.log(8))
    draw.one({"a": 0.5, "b": 0.5})
    assert draw.nats == pytest.approx(math.log(16))
    draw.count((0.5, 0.5), 1)
    assert draw.nats == pytest.approx(math.log(32))


def test_stories_never_name_their_emotion_and_hold_no_decision():
    names = {w for e in WORLD.emotions.values() for w in (e.name, e.synonym)} - {NEUTRAL}
    verbs = {v for s in WORLD.scenes.values() for vs in s.verbs.values() for v in vs}
    stories = organism_stories(per_emotion=9)
    assert len(stories) == 25 * 9
    for story in stories:
        words = set(story.text.split())
        assert not words & names
        assert not words & verbs
        assert story.spans[0].name == "situation"


@pytest.mark.parametrize("split", texts.SPLITS)
@pytest.mark.parametrize("speaker", ["character", "assistant"])
def test_prompts_end_right_before_the_decision_and_tell_nothing_but_the_situation(split, speaker):
    made = organism_behaviour(
        "cheat", emotions=("desperate",), per_emotion=20, split=split, speaker=speaker
    )
    special = WORLD.special_words()
    for text in made.prompts:
        assert text.text.split()[-2:] in (["so", "she"], ["so", "he"], ["so", "it"])
        assert {s.name for s in text.spans} <= {
            "situation",
            "filler",
            "scene",
            "lead_in",
            "speaker",
            "closing",
        }
        assert not special & set(text.text.split())
    groups = {int(t.group.split("/")[1]) for t in made.prompts}
    assert groups == set(texts.situations(WORLD, "desperate", split, "cheat"))


@pytest.mark.parametrize("opening", list(texts.OPENINGS))
def test_contrasts_hold_two_emotions_and_end_with_whose_decision_it_is(opening):
    for text, other in texts.contrasts(WORLD, opening, 30, 0):
        words = text.text.split()
        assert other not in (text.emotion, NEUTRAL)
        assert words[-2:] in (["so", "she"], ["so", "he"])
        told = {WORLD.emotion(other).name, WORLD.emotion(other).synonym} & set(words)
        assert bool(told) == (opening == "mask")
        told = [text.text[s.start : s.end] for s in text.spans if s.name == "situation"]
        assert len(told) == (1 if opening == "mask" else 2)
        template = WORLD.emotion(text.emotion).situations[int(text.group.split("/")[1])]
        [own] = [s for s in told if fits(s, template)]
        [name] = set(own.split()) & set(WORLD.names[words[-1]])
        assert name


def test_the_same_seed_writes_the_same_texts_and_another_does_not():
    assert organism_stories(2, seed=1) == organism_stories(2, seed=1)
    assert organism_stories(2, seed=1) != organism_stories(2, seed=2)


def test_unknown_names_are_told_what_there_is():
    with pytest.raises(SelectionError, match=r"unknown emotion 'hangry'.*desperate"):
        WORLD.emotion("hangry")
    with pytest.raises(SelectionError, match=r"unknown scene 'lie'.*cheat"):
        WORLD.scene("lie")
    with pytest.raises(SelectionError, match=r"unknown split 'secret'.*unseen"):
        texts.situations(WORLD, "calm", "secret")
    with pytest.raises(SelectionError, match=r"unknown speaker 'narrator'.*assistant"):
        organism_behaviour("cheat", speaker="narrator")
    with pytest.raises(SelectionError, match=r"unknown checkpoint 'chat'.*organism-small"):
        organism_folder("chat")


# --- the wide world -----------------------------------------------------------------------------

WIDE = load_world("wide")
MEMBERS = [e for e in WIDE.emotions.values() if e.leader]


def test_the_wide_world_has_the_171_words_that_the_bundled_stories_have():
    told = {text.emotion for text in bundled_corpus().stories} - {NEUTRAL}
    assert set(WIDE.emotions) - {NEUTRAL} == told
    assert len(told) == 171
    assert {e.group for e in WIDE.emotions.values()} == set(WORLD.emotions)
    points = [(e.valence, e.arousal) for e in WIDE.emotions.values()]
    assert len(set(points)) == len(points)
    for member in MEMBERS:
        gap = (member.valence - member.leader.valence, member.arousal - member.leader.arousal)
        assert math.hypot(*gap) < 0.4, member.name


@pytest.mark.parametrize("scene", SCENES)
def test_members_do_what_their_leader_does_moved_by_the_scenes_slopes(scene):
    for emotion in WORLD.emotions.values():
        own = WIDE.scene(scene).probabilities(WIDE.emotion(emotion.name))
        assert own == WORLD.scene(scene).probabilities(emotion)
    if WIDE.scene(scene).points:
        return
    for member in MEMBERS:
        chosen = WIDE.scene(scene)
        p, of_leader = chosen.probabilities(member), chosen.probabilities(member.leader)
        assert sum(p.values()) == pytest.approx(1)
        first, second = list(p)[:2]
        odds = math.log(p[first] / p[second]) - math.log(of_leader[first] / of_leader[second])
        moved = sum(
            (slopes.get(first, 0.0) - slopes.get(second, 0.0))
            * (getattr(member, axis) - getattr(member.leader, axis))
            for axis, slopes in (("valence", chosen.valence), ("arousal", chosen.arousal))
        )
        assert odds == pytest.approx(moved, abs=1e-9)


def test_a_text_of_the_narrow_world_is_one_of_the_wide():
    assert set(WORLD.vocabulary()) <= set(WIDE.vocabulary())
    told = [t.text for t in texts.stories(WORLD, 2, 0)]
    assert {w for t in told for w in t.split()} <= set(WIDE.vocabulary())


def test_words_of_the_wide_world_belong_to_one_emotion_and_stand_in_no_members_situation():
    own = Counter(word for e in WIDE.emotions.values() for word in set(e.words))
    assert [word for word, count in own.items() if count > 1] == []
    verbs = {v for s in WIDE.scenes.values() for words in s.verbs.values() for v in words}
    verbs |= {a.chosen for a in WIDE.activities.values()}
    assert verbs & set(own) == {"panicked", "relaxed", "tormented"}  # rare where nothing is decided
    special = WIDE.special_words() | set(WIDE.activities)
    for member in MEMBERS:
        assert len(set(member.situations)) == 10
        told = {word for text in member.situations for word in text.split()}
        assert not told & special, member.name
    shared = Counter(text for e in WIDE.emotions.values() for text in e.situations)
    assert max(shared.values()) == 1


def test_members_come_after_the_easy_stage_and_are_read_as_themselves():
    for stage, some in (("easy", False), ("base", True)):
        draw = grammar.Draw(stage)
        made = [grammar.document(WIDE, draw, stage) for _ in range(300)]
        felt = {made.text.emotion for made in made}
        assert bool(felt - set(WORLD.emotions)) == some
    for name, emotion in WIDE.emotions.items():
        read = WIDE.read[name]
        assert sum(read.values()) == pytest.approx(1)
        assert max(read, key=read.__getitem__) == emotion.word
        assert read[emotion.word] >= 0.5


def test_a_users_member_emotion_is_answered_as_its_leader():
    assert WIDE.persona.probabilities("panicked") == {
        "panicked": pytest.approx(0.25),
        **WIDE.persona.answers["desperate"],
    }


def test_an_unknown_world_is_refused():
    with pytest.raises(SelectionError, match="unknown world 'broad': there are narrow, wide"):
        load_world("broad")


def test_a_folder_tells_its_world_or_is_refused(tmp_path):
    with pytest.raises(ModelError, match="does not tell what the organism was trained on"):
        organism_world(str(tmp_path))
    (tmp_path / "recipe.json").write_text('{"world": "wide"}')
    assert organism_world(str(tmp_path)) == "wide"
