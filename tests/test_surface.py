"""The public surface, the command line's help, and what an import costs."""

import json
import subprocess
import sys

import pytest
from jaxtyping import TypeCheckError

import emolens
from emolens.controls import random_directions

PUBLIC = [
    "Ablate",
    "Activations",
    "AskAgain",
    "At",
    "Behaviour",
    "Clamp",
    "Contest",
    "Corpus",
    "Dialogues",
    "Directions",
    "EmolensError",
    "EmotionVectors",
    "EvaluationSet",
    "Guard",
    "Hold",
    "HookedModel",
    "Log",
    "Monitor",
    "Pairs",
    "Patch",
    "Plan",
    "Regulate",
    "Site",
    "Span",
    "Steer",
    "Steering",
    "Stop",
    "Study",
    "Sweep",
    "Text",
    "TokenStore",
    "Trial",
    "Turn",
    "ablate_layers",
    "acted",
    "against_random",
    "agreement",
    "answer_measure",
    "answers",
    "apart_from",
    "attribute",
    "best_layer",
    "bundled_corpus",
    "bundled_dialogues",
    "bundled_materials",
    "by_inspect",
    "by_model",
    "by_rule",
    "by_sentiment",
    "by_words",
    "calibrate",
    "chat",
    "circumplex",
    "cluster_agreement",
    "clusters",
    "code_task",
    "compare",
    "compare_models",
    "concat_activations",
    "contest",
    "control_vectors",
    "correlations",
    "decide_options",
    "decision_measure",
    "divergence",
    "dose_curves",
    "dose_ladder",
    "dose_response",
    "erase",
    "evaluation_set",
    "evoking_words",
    "fading",
    "felt_and_shown",
    "find_readers",
    "find_writers",
    "fit_vectors",
    "from_step",
    "generate",
    "guard_effect",
    "hooked",
    "inspect_model",
    "judge",
    "judge_reply",
    "lda_vectors",
    "learning_curve",
    "lens",
    "load",
    "load_behaviour",
    "load_corpus",
    "load_dialogues",
    "load_directions",
    "load_gguf",
    "load_norms",
    "load_sweep",
    "load_vectors",
    "logistic_vectors",
    "logit_lens",
    "measure_cost",
    "natural_units",
    "never",
    "occluded",
    "on_ray",
    "open_store",
    "option_logprobs",
    "organism_activities",
    "organism_behaviour",
    "organism_contest",
    "organism_corpus",
    "organism_dialogues",
    "organism_folder",
    "organism_genders",
    "organism_materials",
    "organism_neutral",
    "organism_pairs",
    "organism_steps",
    "organism_stories",
    "organism_told_stories",
    "organism_turns",
    "organism_world",
    "other_speaker",
    "over_tasks",
    "paired_vectors",
    "paper_experiments",
    "patch_components",
    "patch_layers",
    "patch_positions",
    "path_view",
    "perplexity_cost",
    "plain",
    "planted_groups",
    "planted_norms",
    "planted_ratings",
    "preference_steering",
    "present_speaker",
    "pressed_against_dry",
    "pressing_words",
    "pressure",
    "prevent_shift",
    "probe_depth",
    "probe_layers",
    "processes",
    "pull_vectors",
    "push_vectors",
    "pushes",
    "question_cost",
    "random_regulation",
    "rates",
    "ratings",
    "read_out",
    "reading",
    "record",
    "record_at",
    "record_generated",
    "record_masked",
    "record_speakers",
    "regulation",
    "remove",
    "reproduce",
    "roll_out",
    "rsa",
    "run_changed",
    "run_experiments",
    "save_gguf",
    "score_corpus",
    "share_along",
    "shuffled",
    "side_effects",
    "similarity",
    "specificity",
    "steering_specs",
    "store_tokens",
    "strength_window",
    "text_baseline",
    "throughout",
    "to_repeng",
    "to_steering_vectors",
    "token_logprobs",
    "top_windows",
    "trace",
    "trade_offs",
    "train_steered",
    "two_thirds",
    "umap_plane",
    "usual_costs",
    "vader_valence",
    "vector_reliability",
    "word_ranks",
]


def test_the_public_list_is_grown_on_purpose():
    assert sorted(emolens.__all__) == sorted(["__version__", *PUBLIC])


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_documented_and_no_module(name):
    thing = getattr(emolens, name)
    assert callable(thing)
    assert len(thing.__doc__) > 40


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'hangry'"):
        _ = emolens.hangry


def test_importing_emolens_loads_nothing_heavy():
    code = (
        "import sys, json, emolens; print(json.dumps([m for m in "
        "('transformer_lens', 'transformers', 'sklearn', 'altair', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Find emotion directions"),
        (["reproduce"], "Out: report.html with a verdict on each of the paper"),
        (["compare"], "two or more folders of results"),
        (["score-corpus"], "The same command goes on after a stop"),
        (["calibrate"], "Out: report.html, calibration.json"),
        (["serve"], "page shows readouts token by token"),
        (["chat"], "Ctrl-C stops a reply, Ctrl-D ends"),
        (["geometry"], "none of which holds a value of your norms"),
        (["organism", "train"], "Out: a Hugging Face folder"),
        (["organism", "finetune"], "Out: a Hugging Face folder"),
        (["organism", "check"], "exit status is 1 if a threshold is missed"),
    ],
)
def test_help_says_what_goes_in_and_what_comes_out(words, said):
    from typer.testing import CliRunner

    from emolens.cli import app

    shown = CliRunner().invoke(app, [*words, "--help"]).output
    assert said in " ".join(shown.replace("│", " ").split())


def test_types_and_shapes_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError):
        random_directions("three", 8, 0)
