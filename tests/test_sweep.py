"""Sweeps: equal to plain hooks, never half done, and nothing done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pandas as pd
import pytest
import torch

import emolens
from emolens.corpus import Corpus
from emolens.decisions import Trial
from emolens.errors import ArtefactError, SelectionError
from emolens.interventions import At, Steer
from emolens.sites import Site
from emolens.steering import natural_units
from emolens.sweep.engines import Worker, local

SWEEP = emolens.Sweep(emotions=("desperate", "calm"), layers=(1, 4), strengths=(0.2, 0.5), random=6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The organism's vectors in a file, so that no test fits them again."""
    model = emolens.load("organism")
    stories = emolens.record(model, emolens.organism_stories(per_emotion=4))
    neutral = emolens.record(model, emolens.organism_neutral(20))
    file = tmp_path_factory.mktemp("vectors") / "vectors.safetensors"
    emolens.fit_vectors(stories, neutral).save(file)
    return str(file)


@pytest.fixture(scope="module")
def plan(saved):
    every = {"at": ("all", "decision"), "reach": ("layer", "onward")}
    return emolens.Plan.of(replace(SWEEP, vectors=saved, **every))


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    return plan.run(tmp_path_factory.mktemp("sweep"))


def test_every_cell_is_what_a_plain_hook_gives(plan, done):
    trial = plan.trial
    rows = done.table.set_index("cell")
    last = torch.arange(trial.tokens.ids.shape[1]) >= trial.final[:, None]
    for cell in random.Random(0).sample(plan.cells, 16):
        places = torch.ones_like(last) if cell.at == "all" else last
        change = {Site(k): At(places, Steer(step)) for k, step in cell.steps.items()}
        with emolens.hooked(trial.model, change):
            told = trial.run()
        found = rows.loc[cell.key]
        # two ways of batching in float32: rounding of the last digits of logits about 10
        torch.testing.assert_close(torch.tensor(found.p.to_numpy()), told.p, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            torch.tensor(found.logit_difference.to_numpy()),
            told.logit_difference,
            atol=1e-4,
            rtol=0,
        )


def test_a_step_onward_is_that_of_each_later_layer(plan):
    """An emotion's, a copy's and a control's are their vector there; a random one stays itself."""
    steps = {(c.push.layer, c.push.direction, c.push.strength): c.push.step for c in plan.cells}
    onward = [c for c in plan.cells if c.reach == "onward" and c.push.strength]
    assert {c.push.kind for c in onward} == {"desperate", "calm", "permuted", "random"}
    assert all(list(c.steps) == ([1, 4] if c.push.layer == 1 else [4]) for c in onward)
    norms = dict(zip(plan.vectors.layers, plan.vectors.residual_norm, strict=True))
    for cell in onward:
        for layer, step in cell.steps.items():
            if cell.push.kind == "random":
                wanted = cell.push.step * norms[layer] / norms[cell.push.layer]
            else:
                wanted = steps[layer, cell.push.direction, cell.push.strength]
            torch.testing.assert_close(step, wanted)
            length = cell.push.strength * float(norms[layer])
            assert float(step.norm()) == pytest.approx(length, rel=1e-4)


def test_a_control_of_the_same_name_is_not_what_an_emotion_goes_on_with(plan, tmp_path):
    own, file = plan.vectors, tmp_path / "controls.safetensors"
    replace(own, vectors=-own.vectors).save(file)
    asked = replace(plan.sweep, controls=str(file), reach=("onward",), at=("all",))
    found = emolens.Plan.of(asked, model=plan.trial.model).cells
    by = {(c.push.kind, c.push.direction, c.push.layer, c.push.strength): c.steps for c in found}
    for kind, sign in (("calm", 1), ("control", -1)):
        wanted = sign * own.step("calm", 4, 0.5)
        torch.testing.assert_close(by[kind, "calm", 1, 0.5][4], wanted)


def test_the_estimate_is_that_of_attribution(plan, done):
    vectors = plan.vectors.only((1, 4))
    told = emolens.attribute(plan.trial, vectors, strength=0.2).set_index(["emotion", "layer"])
    rows = done.table[(done.table["at"] == "all") & (done.table.strength == 0.2)]
    found = rows.groupby(["reach", "direction", "layer"]).estimate.mean()
    for emotion in ("desperate", "calm"):
        wanted = told.loc[emotion].gradient
        for layer in (1, 4):
            assert found["layer", emotion, layer] == pytest.approx(wanted[layer], abs=1e-4)
        assert found["onward", emotion, 1] == pytest.approx(wanted.sum(), abs=1e-4)


def test_strengths_are_also_told_in_natural_units(plan, done):
    """One unit is how far the emotion's situations move the stream along its vector."""
    model, whole = plan.trial.model, emolens.organism_behaviour()
    trials = {e: Trial.prepare(model, whole.after(e)) for e in ("desperate", "neutral")}
    unit = natural_units(plan.vectors, {"desperate": trials["desperate"]}, trials["neutral"])
    told = done.effects.set_index(["kind", "layer", "strength"]).natural
    norm = float(plan.vectors.residual_norm[4])
    for found in told["desperate", 4, 0.5]:
        assert found == pytest.approx(0.5 * norm / unit["desperate", 4], rel=1e-5)
    assert told["permuted", 4, 0.5].isna().all()


def test_a_behaviour_without_such_situations_has_no_natural_units(plan, saved, tmp_path):
    file = tmp_path / "behaviour.json"
    prompts = [{"text": t.text, "emotion": "neutral"} for t in plan.trial.behaviour.prompts[:4]]
    classes = {"cheat": ["cheated"], "admit": ["admitted"]}
    raw = {"name": "x", "target": "cheat", "classes": classes, "prompts": prompts}
    file.write_text(json.dumps(raw))
    asked = replace(SWEEP, vectors=saved, behaviour=str(file), layers=(4,), strengths=(0.5,))
    found = emolens.Plan.of(asked, model=plan.trial.model).run(tmp_path / "sweep")
    assert found.effects.natural.isna().all()
    assert "nan" in repr(found)


def test_a_small_step_at_the_decision_is_foretold(plan, tmp_path):
    small = emolens.Plan.of(
        replace(plan.sweep, at=("decision",), strengths=(0.02,)), model=plan.trial.model
    )
    told = small.run(tmp_path).effects
    assert told.estimate.corr(told.change) > 0.99


def test_a_stopped_sweep_goes_on_and_its_table_is_the_same(plan, done, tmp_path):
    ran = []

    def stopping(worker, todo):
        for task, found in local(worker, todo):
            if len(ran) == 2:
                raise KeyboardInterrupt
            ran.append(task.key)
            yield task, found

    with pytest.raises(KeyboardInterrupt):
        plan.run(tmp_path, engine=stopping)
    assert plan.explain(tmp_path).stored > 0
    again = []

    def watched(worker, todo):
        again.extend(task.key for task in todo)
        return local(worker, todo)

    found = plan.run(tmp_path, engine=watched)
    assert not set(again) & set(ran)
    pd.testing.assert_frame_equal(found.table, done.table, check_exact=True)


def test_a_wider_sweep_runs_what_is_new_alone(plan, saved, tmp_path):
    plan.run(tmp_path)
    wide = emolens.Plan.of(replace(plan.sweep, strengths=(0.2, 0.35, 0.5)), model=plan.trial.model)
    cost = wide.explain(tmp_path)
    assert cost.stored == len(plan.cells)
    found = wide.run(tmp_path)
    assert found.table.cell.nunique() == len(wide.cells)


def test_what_a_plan_says_is_what_it_runs(plan, tmp_path, monkeypatch):
    cost = plan.explain(tmp_path)
    seen = []
    run = Worker.run
    monkeypatch.setattr(
        Worker, "run", lambda self, task: seen.append(self.blocks(task)) or run(self, task)
    )
    plan.run(tmp_path)
    assert cost.cells == len(plan.cells) == 2 * 2 * (1 + 2 * 2 * (2 + 2 + 6))
    assert sum(seen) == cost.shared < cost.naive
    assert plan.explain(tmp_path).naive == 0


def test_other_prompts_or_words_are_other_cells(plan, saved):
    other = emolens.Plan.of(replace(plan.sweep, behaviour="threat"), model=plan.trial.model)
    assert not {cell.key for cell in other.cells} & {cell.key for cell in plan.cells}


def test_several_processes_give_the_same_table(plan, done, tmp_path):
    found = plan.run(tmp_path, engine=emolens.processes(["cpu", "cpu"]))
    assert (found.table.cell == done.table.cell).all()
    # another number of threads adds up in another order
    for name in ("p", "legal", "logit_difference", "estimate"):
        assert (found.table[name] - done.table[name]).abs().max() < 1e-4


RUN = """
import sys, emolens
plan = emolens.Plan.of(emolens.Sweep(**{fields!r}))
print("ready", flush=True)
plan.run({folder!r})
"""


def killed(fields, folder, after):
    """Run a sweep in a process of its own and kill it so long after it began to run.

    None: once it has stored something.
    """
    code = RUN.format(fields=fields, folder=str(folder))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
    )
    process.stdout.readline()
    while after is None and process.poll() is None:
        after = 0 if list((folder / "cells").glob("*.parquet")) else None
        time.sleep(0.001)
    time.sleep(after or 0)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def kills(saved, tmp_path, count, random_count, longest):
    fields = {
        "vectors": saved,
        "emotions": ("desperate", "calm"),
        "strengths": (0.2, 0.5),
        "random": random_count,
        "at": ("decision",),
    }
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plan = emolens.Plan.of(emolens.Sweep(**fields))
        began = time.perf_counter()
        undisturbed = plan.run(whole).table
        lasts = time.perf_counter() - began
        draw, kept, ends = random.Random(0), {}, []
        for number in range(count):
            after = draw.uniform(0, longest * lasts) if number else None
            ends.append(killed(fields, folder, after))
            files = {f: f.stat().st_ino for f in (folder / "cells").glob("*.parquet")}
            assert kept.items() <= files.items()  # none of the kept ones was written again
            kept = files
        found = plan.run(folder).table
    finally:
        torch.set_num_threads(threads)
    assert -signal.SIGKILL in ends
    assert kept  # some were killed after they had stored something
    assert kept.items() <= {f: f.stat().st_ino for f in (folder / "cells").glob("*")}.items()
    pd.testing.assert_frame_equal(found, undisturbed, check_exact=True)


def test_a_killed_sweep_ends_with_the_same_table(saved, tmp_path):
    kills(saved, tmp_path, count=2, random_count=20, longest=0.8)


@pytest.mark.slow
def test_a_sweep_killed_twenty_times_ends_with_the_same_table(saved, tmp_path):
    kills(saved, tmp_path, count=20, random_count=60, longest=1 / 3)


def test_a_process_that_is_killed_is_begun_again(plan, done, tmp_path):
    def losing(worker, todo):
        engine = emolens.processes(["cpu"])(worker, todo)
        yield next(engine)
        for child in children():
            os.kill(child, signal.SIGKILL)
        yield from engine

    found = plan.run(tmp_path, engine=losing)
    assert (found.table.cell == done.table.cell).all()
    assert (found.table.p - done.table.p).abs().max() < 1e-5


def children():
    """Worker processes of this one; the resource tracker is none."""
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children()]


@pytest.fixture
def ray(monkeypatch):
    """Ray on this machine, with two CPUs to give."""
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    found = pytest.importorskip("ray")
    found.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=80 * 2**20,
    )
    yield found
    found.shutdown()


@pytest.mark.slow
def test_rays_workers_give_the_same_table_and_a_lost_one_is_begun_again(plan, done, tmp_path, ray):
    def losing(worker, todo):
        engine = emolens.on_ray(2)(worker, todo)
        yield next(engine)
        found = subprocess.run(["pgrep", "-f", "ray::_Remote"], capture_output=True, text=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
        yield from engine

    found = plan.run(tmp_path, engine=losing)
    assert (found.table.cell == done.table.cell).all()
    for name in ("p", "legal", "logit_difference", "estimate"):
        assert (found.table[name] - done.table[name]).abs().max() < 1e-4


@pytest.mark.slow
def test_twenty_lost_workers_of_ray_change_nothing(saved, tmp_path, ray):
    fields = {"vectors": saved, "emotions": ("calm",), "strengths": (0.5,), "layers": (2, 4)}
    plan = emolens.Plan.of(emolens.Sweep(**fields, random=600))
    draw, lost, written = random.Random(0), [], []

    def lose():
        found = subprocess.run(["pgrep", "-f", "ray::_Remote"], capture_output=True, text=True)
        if found.stdout:
            with suppress(ProcessLookupError):
                os.kill(int(draw.choice(found.stdout.split())), signal.SIGKILL)
                lost.append(len(written))

    def losing(worker, todo):
        for found in emolens.on_ray(2)(worker, todo):
            written.append(found[0].key)
            if len(lost) < 20:
                threading.Timer(draw.uniform(0, 0.3), lose).start()
            yield found

    whole = plan.run(tmp_path / "whole").table
    table = plan.run(tmp_path / "lossy", engine=losing).table
    assert len(lost) >= 20
    assert max(lost) < len(written) - 1, "the last one came before the end"
    assert len(set(written)) == len(written), "a task was kept twice"
    assert (table.cell == whole.cell).all()
    for name in ("p", "legal", "logit_difference", "estimate"):
        assert (table[name] - whole[name]).abs().max() < 1e-4


def test_no_effect_is_told_without_random_steps(done):
    alone = replace(done, table=done.table[done.table.kind != "random"])
    with pytest.raises(SelectionError, match="random"):
        repr(alone)


def test_a_report_says_what_is_least_possible(done, tmp_path):
    from emolens.experiments.sweep import save

    assert f"p is at least {2 / 7:.4f}" in repr(done)
    save(done, tmp_path)
    assert "crossed out" in (tmp_path / "report.html").read_text().lower()
    told = pd.read_parquet(tmp_path / "tables" / "effects.parquet")
    # places, reaches, layers, strengths, halves, directions
    assert len(told) == 2 * 2 * 2 * 2 * 2 * (2 + 2)


def test_permuted_copies_are_as_long_and_no_copy_of_the_direction(plan):
    steps = {(c.push.layer, c.push.strength, c.push.direction): c.push.step for c in plan.cells}
    for (layer, strength, name), step in steps.items():
        if name in ("desperate", "calm"):
            copy = steps[layer, strength, f"{name}, permuted"]
            # but for the length, which is summed in another order
            values = copy.sort().values, step.sort().values
            torch.testing.assert_close(*values, atol=0, rtol=1e-6)
            assert not torch.equal(copy, step)


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    """Directions that are no emotion's, in a file."""
    model, texts = emolens.load("organism"), emolens.organism_stories(per_emotion=4)
    stories = emolens.record(model, texts)
    neutral = emolens.record(model, emolens.organism_neutral(20))
    made = emolens.control_vectors(stories, neutral, emolens.organism_genders(texts), shuffles=2)
    file = tmp_path_factory.mktemp("controls") / "controls.safetensors"
    made.save(file)
    return str(file)


def test_a_wide_organism_is_swept_over_words_of_its_own(monkeypatch):
    def few(*, world):
        return Corpus(emolens.organism_stories(4, world=world), emolens.organism_neutral(20))

    monkeypatch.setattr("emolens.sweep.plan.organism_corpus", few)
    sweep = replace(SWEEP, model="organism-wide", emotions=("trapped",))
    plan = emolens.Plan.of(sweep)
    assert len(plan.vectors.emotions) == 171
    assert any(cell.push.direction == "trapped" for cell in plan.cells)


def test_controls_stand_beside_the_emotions_and_change_nothing_of_theirs(
    saved, controls, done, tmp_path
):
    plan = emolens.Plan.of(replace(SWEEP, vectors=saved, controls=controls))
    found = plan.run(tmp_path)
    told, before = (
        each.effects[(each.effects["at"] == "all") & (each.effects.reach == "layer")]
        for each in (found, done)
    )
    names = ["shuffled labels 0", "shuffled labels 1", "neutral", "he"]
    assert sorted(told.direction[told.kind == "control"].unique()) == sorted(names)
    assert list(found.summary["controls_called"]) == names
    assert found.summary["steps"] == len(told[told.kind.isin(["desperate", "calm"])]) // 2
    emotions = [
        t[t.kind.isin(["desperate", "calm"])].reset_index(drop=True) for t in (told, before)
    ]
    same = ["direction", "layer", "strength", "half", "p_value", "q_value"]
    pd.testing.assert_frame_equal(emotions[0][same], emotions[1][same])
    step = next(c.push for c in plan.cells if c.push.direction == "neutral")
    vectors, norm = emolens.load_vectors(controls), plan.vectors.residual_norm[step.layer]
    wanted = vectors.at(step.layer)[vectors.row("neutral")]
    assert torch.cosine_similarity(step.step, wanted, 0) == pytest.approx(1, abs=1e-5)
    assert float(step.step.norm()) == pytest.approx(step.strength * float(norm), rel=1e-4)
    assert "of control directions" in repr(found)
    assert "of control directions" not in repr(done)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layer: [3]", "layer"),
        ("layers: [-1]", "layers"),
        ("at: [middle]", "at"),
        ("reach: [far]", "reach"),
        ("strengths: []", "strengths"),
        ("random: 0", "random"),
        ("strengths: [much]", "strengths"),
        ("- 3", "no sweep"),
        ("layers: [3", "cannot read"),
        ("strengths: [.nan]", "strengths"),
        ("strengths: [0]", "strengths"),
    ],
)
def test_a_wrong_field_is_named(text, says, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(SelectionError, match=says) as told:
        emolens.load_sweep(file)
    assert "\n" not in str(told.value)


def test_layers_and_emotions_that_are_not_there_are_told(plan, saved):
    for wrong in ({"layers": (9,)}, {"emotions": ("hangry",)}, {"after": ("bliss",)}):
        with pytest.raises(SelectionError):
            emolens.Plan.of(replace(plan.sweep, **wrong), model=plan.trial.model)


def test_a_folder_of_another_model_is_refused(plan, tmp_path):
    from emolens.sweep.table import Table

    own = plan.trial.model.provenance((), {}, 0)
    Table.open(tmp_path, own)
    other = replace(own, fingerprint=tuple(2 * x for x in own.fingerprint))
    with pytest.raises(ArtefactError, match="another folder"):
        Table.open(tmp_path, other)


def test_a_damaged_file_is_named(plan, tmp_path):
    plan.run(tmp_path)
    file = next((tmp_path / "cells").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ArtefactError, match=file.name):
        plan.run(tmp_path)
