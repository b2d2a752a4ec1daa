"""Shared runs give what runs of their own give, on every architecture."""

from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES
from torch.testing import assert_close

import emolens
from emolens.behaviour import Behaviour
from emolens.decisions import Trial
from emolens.interventions import Ablate, Patch, Steer, whole
from emolens.sharing import run_changed
from emolens.sites import Site
from emolens.text import Text

DECODERS = [family for family in FAMILIES if family != "bert"]


@pytest.fixture(scope="module", params=["organism", *DECODERS])
def trial(request, organism, tiny_folder):
    if request.param == "organism":
        return Trial.prepare(organism, emolens.organism_behaviour(per_emotion=3))
    model = emolens.load(tiny_folder(request.param))
    texts = tuple(Text("word1 word2 " * n + "word3", "calm") for n in (1, 4, 2, 7))
    choice = Behaviour("x", "a", {"a": ("word5",), "b": ("word7", "word8")}, texts)
    if request.param == "qwen2":
        choice = replace(choice, classes={"a": ("5",), "b": ("7", "8")})
    return Trial.prepare(model, choice)


def changes(trial):
    """Of every kind, after every block, not in the order of the blocks."""
    model, size = trial.model, trial.tokens.ids.shape
    made = []
    for layer in reversed(range(model.n_layers)):
        basis = torch.linalg.qr(torch.randn(model.d_model, 2)).Q.T
        mask = torch.rand(size) < 0.5
        made += [
            (layer, Steer(torch.randn(model.d_model))),
            (layer, Ablate(basis, torch.randn(2))),
            (layer, Patch(torch.randn(*size, model.d_model), mask, whole)),
        ]
    return made


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_each_change_does_what_it_does_alone(trial, batch_tokens):
    made = changes(trial)
    found = list(run_changed(trial, made, batch_tokens=batch_tokens))
    assert len(found) == len(made)
    before = trial.run().logit_difference
    for (layer, change), shared in zip(made, found, strict=True):
        with emolens.hooked(trial.model, {Site(layer): change}):
            alone = trial.run()
        # float32 sums in another order: batches have other shapes
        assert_close(shared.logit_difference, alone.logit_difference, atol=1e-4, rtol=1e-4)
        assert_close(shared.p, alone.p, atol=1e-5, rtol=0)
        assert (alone.logit_difference - before).abs().max() > 1e-3


@pytest.mark.parametrize("batch_tokens", [1, 200])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_tokens_before_the_first_that_is_changed_are_not_run_again(trial, batch_tokens, before):
    """The same as a patch of the whole text that leaves those tokens alone."""
    since = (trial.final - before).clamp(min=0)
    token = torch.arange(trial.tokens.ids.shape[1])
    steps = [(layer, torch.randn(trial.model.d_model)) for layer in (0, 1, 1, 2)]
    made = [(layer, Steer(step)) for layer, step in steps]
    found = list(run_changed(trial, made, since=since, batch_tokens=batch_tokens))
    for (layer, step), shared in zip(steps, found, strict=True):
        later = (token >= since[:, None])[..., None] * step
        with emolens.hooked(trial.model, {Site(layer): lambda r, later=later: r + later}):
            alone = trial.run()
        assert_close(shared.logit_difference, alone.logit_difference, atol=1e-4, rtol=1e-4)
        assert_close(shared.p, alone.p, atol=1e-5, rtol=0)


def test_afterwards_the_model_is_as_it_was(trial):
    before = trial.run().logit_difference
    for _ in run_changed(trial, changes(trial)):
        break
    list(run_changed(trial, changes(trial)))
    assert torch.equal(trial.run().logit_difference, before)
