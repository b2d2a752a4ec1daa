"""Ablation: which directions, from which layer on, at which tokens, and what else it costs."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens.ablation import ablate_layers, remove, side_effects, specificity
from emolens.controls import random_directions
from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.interventions import spanned, unit
from emolens.positions import last
from emolens.sites import Site
from emolens.statistics import clustered_interval, halves
from emolens.text import Text

LAYER = 3


@pytest.fixture(scope="module")
def cheat(organism):
    behaviour = emolens.organism_behaviour(per_emotion=18)
    return {e: Trial.prepare(organism, behaviour.after(e)) for e in ("desperate", "neutral")}


@pytest.fixture(scope="module")
def excess(organism, vectors, cheat):
    """Share of the excess that goes, by layer: own direction and mean of random ones."""

    def found(emotions="desperate", **options):
        target = float(cheat["neutral"].run().p.mean())
        table = ablate_layers(
            cheat["desperate"], vectors, emotions, target=target, random_count=4, **options
        )
        told = table[table.half == "report"]
        kinds = told.kind.where(told.kind == "random", "own")
        return told.groupby(["layer", kinds]).excess_removed.mean().unstack()

    return found


def removal(vectors, layer, *emotions):
    rows = [vectors.row(e) for e in emotions or vectors.emotions]
    return remove(vectors.at(layer)[rows], vectors.mean[vectors.column(layer)])


def test_a_span_is_orthonormal_and_no_wider_than_the_vectors(vectors):
    basis = spanned(vectors.at(LAYER))
    assert len(basis) == len(vectors.emotions) - 1  # differences from their own mean
    assert_close(basis @ basis.T, torch.eye(len(basis)), atol=1e-5, rtol=0)
    inside = vectors.at(LAYER) @ basis.T @ basis
    assert_close(inside, vectors.at(LAYER), atol=1e-4 * float(inside.norm(dim=1).max()), rtol=0)
    with pytest.raises(SelectionError, match="length zero span nothing"):
        spanned(torch.zeros(2, 12))


def test_removing_a_subspace_sets_every_coordinate_in_it_to_the_mean_and_no_other():
    rows, mean, residual = random_directions(3, 12, 0), torch.randn(12), torch.randn(2, 5, 12)
    after = remove(torch.cat([rows, rows.sum(0, keepdim=True)]), mean)(residual)
    assert_close(after @ rows.T, (mean @ rows.T).expand(2, 5, 3), atol=1e-5, rtol=0)
    basis = spanned(rows)
    rest = torch.eye(12) - basis.T @ basis
    assert_close(after @ rest, residual @ rest, atol=1e-5, rtol=0)


def test_the_emotion_goes_where_it_is_held_and_nothing_random_takes_it(excess):
    found = excess()
    assert found.own[[0, 1]].abs().max() < 0.1, "it is not there yet: later layers write it"
    assert found.own[LAYER:].min() > 0.7
    assert found.random.abs().max() < 0.1


def test_removed_from_a_layer_on_the_emotion_cannot_be_written_anew(excess):
    found = excess(reach="onward")
    assert found.own[:LAYER].min() > 0.7
    assert found.random.abs().max() < 0.1
    assert found.own[5] == pytest.approx(excess(layers=[5]).own[5], abs=1e-6)


def test_a_control_is_removed_as_an_emotion_is(organism, vectors, cheat):
    table = ablate_layers(
        cheat["desperate"],
        vectors,
        "desperate",
        target=0.2,
        layers=[LAYER],
        controls=vectors,
        random_count=1,
    ).set_index(["half", "direction", "kind"])
    for half in ("choose", "report"):
        own, same, calm = (
            table.p[half, name, kind]
            for name, kind in (
                ("desperate", "desperate"),
                ("desperate", "control"),
                ("calm", "control"),
            )
        )
        assert same == pytest.approx(own, abs=1e-6)
        assert calm > own + 0.2


def test_all_emotions_together_take_at_least_what_one_takes(excess, vectors):
    both = excess(vectors.emotions, layers=[LAYER]), excess(layers=[LAYER])
    assert both[0].own[LAYER] > both[1].own[LAYER] > 0.7
    assert both[0].random.abs().max() < 0.25, "random subspaces as wide"


@pytest.mark.parametrize("reach", ["layer", "onward"])
def test_the_numbers_are_those_of_plain_hooks(organism, vectors, cheat, reach):
    trial, half = cheat["desperate"], ~halves(cheat["desperate"].groups)
    table = ablate_layers(
        trial, vectors, ["desperate", "afraid"], target=0.2, layers=[2], reach=reach, random_count=0
    )
    after = range(2, 6) if reach == "onward" else (2,)
    sites = {Site(k): removal(vectors, k, "desperate", "afraid") for k in after}
    with emolens.hooked(organism, sites):
        naive = trial.run().logit_difference[half]
    told = table[table.half == "report"].logit_difference.iloc[0]
    assert told == pytest.approx(float(naive.mean()), abs=1e-4)  # float32 in another order
    assert table.direction.tolist() == ["2 emotions"] * 2


def test_only_the_chosen_tokens_are_changed(organism, vectors, cheat):
    trial = cheat["desperate"]
    residual = torch.randn(len(trial.tokens), trial.tokens.ids.shape[1], organism.d_model)
    mask = last(trial.behaviour.prompts, trial.tokens).mask
    after = emolens.At(mask, removal(vectors, LAYER, "desperate"))(residual)
    assert torch.equal(after[~mask], residual[~mask])
    direction = unit(vectors.at(LAYER)[vectors.row("desperate")])
    wanted = vectors.mean[vectors.column(LAYER)] @ direction
    assert_close(after[mask] @ direction, wanted.expand(int(mask.sum())), atol=1e-4, rtol=0)


def test_at_the_decision_is_where_it_counts_and_elsewhere_it_does_not(excess):
    def before(texts, tokens):
        found = emolens.positions.everything(texts, tokens)
        return emolens.positions.Positions(found.mask & ~last(texts, tokens).mask, found.used)

    assert excess(layers=[LAYER], positions=last).own[LAYER] > 0.7
    assert excess(layers=[LAYER], positions=before).own[LAYER] < 0.1


def test_each_direction_takes_its_own_behaviour(organism, vectors):
    asked = {"desperate": ("cheat", "cheat"), "loving": ("belief", "praise")}
    trials = [
        Trial.prepare(organism, emolens.organism_behaviour(*b, emotions=(e,), per_emotion=18))
        for e, b in asked.items()
    ]
    table = specificity(trials, vectors, ["desperate"], LAYER, random_count=5)
    change = table.groupby(["situation", "kind"]).change.agg(["min", "max"])
    assert change["max"]["desperate", "own"] < -0.5
    assert change["max"]["loving", "own"] < -0.3
    assert change["min"]["loving", "other"] > -0.05
    assert change["min"].xs("random", level="kind").min() > -0.1
    row = table[(table.situation == "loving") & (table.kind == "own")].iloc[0]
    with emolens.hooked(organism, {Site(LAYER): removal(vectors, LAYER, "loving")}):
        p = clustered_interval(trials[1].run().p.tolist(), trials[1].groups)[0]
    assert row.p == pytest.approx(p, abs=1e-5)
    assert row.p - row.unablated == pytest.approx(row.change, abs=1e-6)


def test_a_trial_of_several_situations_is_told(organism, vectors):
    trial = Trial.prepare(organism, emolens.organism_behaviour(per_emotion=2))
    with pytest.raises(SelectionError, match=r"situations of .*: give a trial for each"):
        specificity([trial], vectors, ["calm"], LAYER)
    with pytest.raises(SelectionError, match="unknown reach 'all': choose one of layer, onward"):
        ablate_layers(trial, vectors, "calm", target=0.0, reach="all")


@pytest.fixture(scope="module")
def plain():
    return emolens.organism_corpus().neutral[:7]


def test_side_effects_are_those_of_the_bare_network(organism, vectors, plain):
    from transformers import AutoModelForCausalLM

    bare = AutoModelForCausalLM.from_pretrained(emolens.organism_folder())
    step = vectors.step("desperate", LAYER, 0.5)
    found = side_effects(organism, plain, {"push": {Site(LAYER): emolens.Steer(step)}}).iloc[0]

    def push(module, args, output):
        return output + step

    losses, divergence = [], []
    for text in plain:
        ids = organism.tokenizer(text.text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            before = bare(ids, labels=ids)
            handle = bare.model.layers[LAYER].register_forward_hook(push)
            after = bare(ids, labels=ids)
            handle.remove()
        losses.append((float(before.loss), float(after.loss)))
        told = [torch.distributions.Categorical(logits=run.logits[0]) for run in (before, after)]
        divergence.append(float(torch.distributions.kl_divergence(*told).mean()))
    by_group = {t.group: [] for t in plain}
    for text, row in zip(plain, zip(losses, divergence, strict=True), strict=True):
        by_group[text.group].append((*row[0], row[1]))
    before, after, apart = np.mean([np.mean(rows, 0) for rows in by_group.values()], 0)
    assert found.perplexity == pytest.approx(np.exp(after), rel=1e-4)  # float32 sums
    assert found.ratio == pytest.approx(np.exp(after - before), rel=1e-4)
    assert found.kl == pytest.approx(apart, rel=1e-3)
    assert found.kl > 0.01, "there was a side effect to measure"


def test_one_direction_costs_plain_text_less_than_all_and_padding_costs_nothing(
    organism, vectors, plain
):
    changes = {
        "none": {Site(LAYER): emolens.Steer(torch.zeros(organism.d_model))},
        "one": {Site(LAYER): removal(vectors, LAYER, "desperate")},
        "all": {Site(LAYER): removal(vectors, LAYER)},
    }
    table = side_effects(organism, plain, changes).set_index("change")
    assert table.kl["none"] == 0
    assert table.ratio["none"] == 1
    assert 0 < table.kl["one"] < table.kl["all"] / 3
    alone = [side_effects(organism, [text], changes).set_index("change").kl for text in plain]
    again = side_effects(organism, [Text(t.text) for t in plain], changes).set_index("change").kl
    assert_close(again["all"], np.mean([kl["all"] for kl in alone]), atol=0, rtol=1e-4)
