"""Experiments are planned, kept, taken up again, and do not take each other down."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, strategies as st

import emolens
from emolens.errors import ArtefactError, SelectionError
from emolens.experiments import whole
from emolens.experiments.compare import compare_models
from emolens.experiments.paper.claims import Claim, Found, Measured, judge, overall
from emolens.experiments.paper.materials import Materials
from emolens.experiments.paper.running import plan, run_experiments
from emolens.experiments.paper.study import Experiment, Study
from emolens.experiments.parity import FIGURES, LEFT_OUT, TABLES, covered, parity_page
from emolens.report import Exhibit

CLAIM = Claim("r", "they go together", 0.6, paper=0.7, confidence="P")
MEASURED = Measured(0.8, 0.7, 0.9, 0.2)
numbers = st.floats(-2, 2)


def experiment(name, work, lacks=""):
    """An experiment that does `work` and nothing else."""
    return Experiment(
        name=name,
        title=name,
        figures="Fig. 1",
        inputs="none",
        procedure="none",
        readout="none",
        control="none",
        claims=(CLAIM,),
        lacks=lambda _: lacks,
        cost=lambda _: 1000,
        run=work,
        draw=lambda tables: [Exhibit(table=tables["t"], table_file=f"{name}_t")],
    )


def found(_study=None):
    return Found({"r": MEASURED}, {"t": pd.DataFrame({"x": [1, 2]})}, "seen")


@pytest.fixture
def study(organism):
    stories = emolens.organism_stories(2)
    corpus = emolens.Corpus(stories, emolens.organism_neutral(10))
    return Study(organism, Materials("a few", corpus, {}, {}, {}))


@given(numbers, numbers, numbers, numbers)
def test_a_verdict_never_gets_worse_with_more_found_or_less_in_the_controls(f, low, bound, more):
    order = ["not reproduced", "direction only", "reproduced"]
    own = order.index(judge(CLAIM, Measured(f, low, f, bound)))
    assert order.index(judge(CLAIM, Measured(f + abs(more), low, f, bound))) >= own
    assert order.index(judge(CLAIM, Measured(f, low, f, bound - abs(more)))) >= own


@pytest.mark.parametrize("broken", [{"low": float("nan")}, {"bound": float("nan")}])
def test_what_is_not_a_number_is_not_reproduced(broken):
    measured = {"found": 0.8, "low": 0.7, "high": 0.9, "bound": 0.2} | broken
    assert judge(CLAIM, Measured(**measured)) == "not reproduced"
    assert overall(["not reproduced"]) == "not reproduced"


def test_a_run_that_was_stopped_goes_on_and_does_nothing_twice(study, tmp_path):
    calls = []

    def counted(_):
        calls.append("one")
        return found()

    def killed(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiments(study, [experiment("one", counted), experiment("two", killed)], tmp_path)
    done = run_experiments(study, [experiment("one", counted), experiment("two", found)], tmp_path)
    assert calls == ["one"]
    assert done.fresh == ("two",)
    assert [o.verdict for o in done.outcomes] == ["reproduced"] * 2
    assert done.outcomes[0].found.told == "seen"
    assert done.outcomes[0].found.tables["t"].x.tolist() == [1, 2]


def test_what_fails_is_named_and_does_not_stop_the_others(study, tmp_path, capsys):
    def wrong(_):
        raise SelectionError("no such thing: take another")

    def bug(_):
        raise ZeroDivisionError("division by zero")

    parts = [experiment("a", wrong), experiment("b", bug), experiment("c", found)]
    done = run_experiments(study, parts, tmp_path)
    assert done.failed == ("a", "b")
    assert [o.verdict for o in done.outcomes] == ["failed", "failed", "reproduced"]
    assert "no such thing: take another" in repr(done)
    assert "ZeroDivisionError: division by zero" in repr(done)
    assert "test_running.py" in capsys.readouterr().err  # where a bug was is told
    again = run_experiments(study, [experiment("a", found), *parts[1:]], tmp_path)
    assert again.failed == ("b",)


def test_results_of_other_texts_or_seeds_are_not_taken_over(study, organism, tmp_path):
    run_experiments(study, [experiment("one", found)], tmp_path)
    assert run_experiments(study, [experiment("one", found)], tmp_path).fresh == ()
    other = Study(organism, study.materials, seed=1)
    assert run_experiments(other, [experiment("one", found)], tmp_path).fresh == ("one",)


@pytest.mark.parametrize("damage", ["cut", "list", "no numbers", "no table"])
def test_a_damaged_result_is_one_line(study, tmp_path, damage):
    run_experiments(study, [experiment("one", found)], tmp_path)
    file = tmp_path / "experiments" / "one.json"
    kept = json.loads(file.read_text())
    if damage == "no table":
        (tmp_path / "tables" / "one_t.parquet").unlink()
    else:
        texts = {"cut": "{", "list": "[]", "no numbers": json.dumps(kept | {"measured": {"r": {}}})}
        file.write_text(texts[damage])
    with pytest.raises(ArtefactError, match=r"one\.json is not readable .*: delete it"):
        run_experiments(study, [experiment("one", found)], tmp_path)


def test_results_on_other_prompts_are_not_taken_over(study, organism, tmp_path):
    run_experiments(study, [experiment("one", found)], tmp_path)
    other = replace(study.materials, scenarios=(emolens.Text("it rained ."),))
    again = run_experiments(Study(organism, other), [experiment("one", found)], tmp_path)
    assert again.fresh == ("one",)


def test_the_plan_tells_what_is_done_and_what_does_not_apply(study, tmp_path):
    parts = [experiment("one", found), experiment("two", found, "there is no base")]
    run_experiments(study, parts[:1], tmp_path)
    told = plan(study, [*parts, experiment("three", found)], tmp_path).set_index("experiment")
    assert told.state.tolist() == ["to do", "done", "there is no base", "to do"]
    assert told.tokens["three"] == 1000 > told.tokens["one"] == told.tokens["two"] == 0
    assert told.seconds["three"] > 0


def test_every_figure_of_the_paper_has_its_row():
    table = covered()
    assert len(table) == FIGURES + TABLES
    assert {part for part, names in table.items() if not names} == set(LEFT_OUT)
    page = parity_page(
        [{"model": "a|b<script>", "experiments": [{"name": "lens", "verdict": "reproduced"}]}]
    )
    assert page.count("\n| Fig. ") == FIGURES
    assert page.count("\n| Table ") == TABLES
    assert "| Table 1 | `lens` | reproduced |" in page
    assert "<script>" not in page
    assert "a_b_script_" in page


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory):
    """What the command leaves for two models of other width and depth."""
    from typer.testing import CliRunner

    from emolens.cli import app

    folders = []
    for name in ("organism", "organism-small"):
        out = tmp_path_factory.mktemp(name)
        words = ["reproduce", "--model", name, "--experiments", "lens", "--out", str(out)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        folders.append(out)
    return folders


def test_two_models_are_compared_without_scales(two_folders, tmp_path):
    done = compare_models(two_folders)
    assert done.verdicts.columns.tolist() == ["experiment", "organism", "organism-small"]
    assert done.alike.depth_a.between(0, 1).all()
    assert done.alike.depth_b.max() == 1
    assert done.alike.rho.max() > 0.8  # both were trained on one world
    done.save(tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["schema"] == 1
    assert "organism-small" in (tmp_path / "report.html").read_text("utf-8")
    assert "`lens`" in (tmp_path / "parity.md").read_text()


def test_a_card_of_results_says_what_it_is_of(two_folders):
    card = json.loads((two_folders[0] / "results.json").read_text())
    assert (card["schema"], card["model"], card["seed"]) == (1, "organism", 0)
    claim = card["experiments"][0]["claims"][0]
    assert {"paper", "found", "low", "high", "bound", "least", "verdict"} < set(claim)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', '{"schema": 1, "model": 3}'])
def test_a_folder_without_results_is_one_line(two_folders, tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ArtefactError, match="holds no results"):
        compare_models([two_folders[0], tmp_path])
    with pytest.raises(SelectionError, match="at least two"):
        compare_models(two_folders[:1])


def test_names_of_experiments_are_checked_before_anything_is_done():
    with pytest.raises(SelectionError, match="no experiment 'lense': there are lens,"):
        whole.parse_experiments("main,lense", given=False)
    with pytest.raises(SelectionError, match="main job alone, not with lens"):
        whole.parse_experiments("main,lens", given=True)
    assert whole.parse_experiments(None, given=True) == (True, ())
