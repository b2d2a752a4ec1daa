"""The story end to end: the main job on the organism, on a user's texts, and on an encoder."""

import dataclasses
import json
import sys

import pandas as pd
import pytest

import emolens
from emolens.cli import main
from emolens.errors import CorpusError
from emolens.experiments.report import write_reproduction
from emolens.experiments.reproduce import Inputs, corpus_inputs, reproduce
from emolens.organism import organism_stories, planted_norms
from emolens.vectors import load_vectors


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The command a newcomer types, on two layers so that it takes seconds."""
    out = tmp_path_factory.mktemp("main-job")
    patch = pytest.MonkeyPatch()
    words = ["reproduce", "--experiments", "main", "--out", str(out), "--layers", "2-4"]
    patch.setattr(sys, "argv", ["emolens", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    patch.undo()
    assert stop.value.code in (0, None)
    return out


def test_it_leaves_report_summary_tables_and_vectors(outcome):
    assert {p.name for p in outcome.iterdir()} == {
        "report.html",
        "summary.json",
        "tables",
        "vectors.safetensors",
    }
    names = {p.stem for p in (outcome / "tables").iterdir()}
    assert names == {
        "probes",
        "probe_depth",
        "text_baseline",
        "logit_lens",
        "similarity",
        "principal_components",
        "correlations",
        "circumplex",
        "behaviour",
        "steering",
        "ablation",
        "attribution",
        "reliability",
        "learning_curve",
    }
    for name in names:
        csv = pd.read_csv(outcome / "tables" / f"{name}.csv")
        parquet = pd.read_parquet(outcome / "tables" / f"{name}.parquet")
        assert len(csv) == len(parquet) > 0
    assert load_vectors(outcome / "vectors.safetensors").layers == (2, 3, 4)


def test_the_summary_has_its_keys_and_the_effects_have_their_signs(outcome):
    found = json.loads((outcome / "summary.json").read_text())
    assert found["schema"] == 1
    reliable = found["reliability"]
    assert 0.5 < reliable["split_half"] < reliable["ceiling"] < 1
    assert 0.5 < reliable["self_cosine"] < 1
    assert len(found["probe_accuracy_by_layer"]) == 3
    assert min(found["probe_accuracy_by_layer"]) > 0.5
    best = found["probe_depth"]
    assert best["depth"] == pytest.approx((best["layer"] + 1) / 6)  # of the model, not of the run
    assert best["accuracy"] > 0.9
    p, steered = found["p_cheat"], found["steered_p_cheat"]
    assert p["desperate"] > p["neutral"] > p["calm"]
    for unit in ("norm_0.5", "norm_1.0", "natural_0.5", "natural_1.0"):
        assert len(steered["random"][unit]) == 20
        assert steered["desperate"][unit] > max(steered["random"][unit])
    assert steered["calm"]["norm_1.0"] < min(steered["random"]["norm_1.0"])
    removed = found["ablation_excess_removed"]
    assert removed["desperate"] > 0.2 > abs(removed["random"])
    assert found["circumplex_r2"]["valence"] > 0.8
    assert found["attribution_vs_exact_r"] > 0.95
    assert found["model"] == "organism"
    assert {"seconds", "versions", "best_layer"} < set(found)


def test_the_report_has_every_part(outcome):
    page = (outcome / "report.html").read_text("utf-8")
    for part in (
        "Where the emotion can be read",
        "What the vectors say",
        "Steering",
        "Ablation",
        "Attribution",
    ):
        assert part in page
    assert "Not applicable" not in page


def test_saved_vectors_give_the_same_numbers_again(outcome, organism):
    vectors = load_vectors(outcome / "vectors.safetensors")
    stories = emolens.record(organism, emolens.organism_stories(), layers=[2, 3, 4])
    neutral = emolens.record(organism, emolens.organism_neutral(), layers=[2, 3, 4])
    again = emolens.fit_vectors(stories, neutral)
    assert (again.vectors - vectors.vectors).abs().max() < 1e-6


def few_stories():
    keep = ("calm", "desperate", "happy", "sad", "angry")
    return tuple(t for t in organism_stories(9) if t.emotion in keep)


def test_a_users_corpus_without_a_behaviour_gives_the_reading_half(organism):
    corpus = emolens.Corpus(few_stories(), emolens.organism_neutral(20))
    done = reproduce(organism, corpus_inputs(corpus, None), layers=[3])
    assert set(done.not_applicable) == {"behaviour", "steering", "ablation", "attribution"}
    assert "no behaviour was given" in done.not_applicable["steering"]
    assert "logit_lens" in done.tables
    assert done.summary["norm_words"] == {"valence": 5}
    assert "p_cheat" not in done.summary


def test_of_vectors_that_are_passed_in_it_is_not_told_what_the_stories_would_give(
    organism, tmp_path
):
    corpus = emolens.Corpus(few_stories(), emolens.organism_neutral(20))
    stories, neutral = (emolens.record(organism, t) for t in (corpus.stories, corpus.neutral))
    fitted = emolens.fit_vectors(stories, neutral)
    done = reproduce(organism, corpus_inputs(corpus, None), layers=[3], vectors=fitted)
    assert "passed in" in done.not_applicable["reliability"]
    assert "reliability" not in done.tables
    assert done.vectors.layers == (3,)
    assert set(done.tables["circumplex"].layer) == {3}
    write_reproduction(done, tmp_path / "report.html")
    assert "Would other stories" not in (tmp_path / "report.html").read_text()


def test_an_encoder_gets_no_numbers_from_logits_it_does_not_have(organism):
    encoder = dataclasses.replace(organism, causal=False)
    inputs = Inputs(
        emolens.Corpus(few_stories(), emolens.organism_neutral(20)),
        planted_norms(),
        {},
        emolens.organism_behaviour(per_emotion=9),
    )
    done = reproduce(encoder, inputs, layers=[3])
    assert {"logit lens", "behaviour", "steering", "ablation", "attribution"} == set(
        done.not_applicable
    )
    assert all("encoder" in why for why in done.not_applicable.values())
    assert not {"logit_lens", "steering", "ablation", "attribution"} & set(done.tables)
    assert "not applicable: steering" in repr(done)


@pytest.mark.parametrize("words", ["yes", [], [1], {"yes": 1}])
def test_a_class_that_is_no_list_of_words_is_one_line(words, tmp_path):
    raw = {"name": "b", "target": "a", "classes": {"a": words, "b": ["no"]}, "prompts": []}
    (tmp_path / "b.json").write_text(json.dumps(raw))
    with pytest.raises(CorpusError, match="a class is a list of words"):
        emolens.load_behaviour(tmp_path / "b.json")


def test_a_behaviour_from_a_file_gives_the_causal_half_on_any_decoder(organism, tmp_path):
    behaviour = emolens.organism_behaviour("threat", per_emotion=9)
    prompts = [{"text": t.text, "emotion": t.emotion, "group": t.group} for t in behaviour.prompts]
    raw = {"name": "threat", "target": "threat", "prompts": prompts}
    raw["classes"] = {k: list(v) for k, v in behaviour.classes.items()}
    (tmp_path / "threat.json").write_text(json.dumps(raw))
    read = emolens.load_behaviour(tmp_path / "threat.json")
    ours = emolens.Trial.prepare(organism, behaviour).run().p
    theirs = emolens.Trial.prepare(organism, read).run().p
    assert (ours - theirs).abs().max() == 0
    corpus = emolens.Corpus(few_stories(), emolens.organism_neutral(20))
    done = reproduce(organism, corpus_inputs(corpus, read), layers=[4])
    assert done.not_applicable == {}
    assert done.summary["p_threat"]["desperate"] > done.summary["p_threat"]["calm"]
    assert set(done.summary["steered_p_threat"]) == {"desperate", "calm", "random"}
