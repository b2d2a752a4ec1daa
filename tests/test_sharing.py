"""Shared runs give what runs of their own give, on every architecture."""

import pytest
import torch
from conftest import FAMILIES, word_tokenizer
from torch.testing import assert_close

import emolens
from emolens.behaviour import Behaviour
from emolens.decisions import Trial
from emolens.errors import ModelError, SelectionError
from emolens.interventions import Ablate, At, Patch, Steer, whole
from emolens.sharing import run_changed
from emolens.sites import Site
from emolens.text import Text

pytestmark = pytest.mark.contract
DECODERS = [family for family in FAMILIES if family != "bert"]


def prepared(model, one, others):
    texts = tuple(Text("word1 word2 " * n + "word3", "calm") for n in (1, 4, 2, 7))
    return Trial.prepare(model, Behaviour("x", "a", {"a": (one,), "b": others}, texts))


@pytest.fixture(scope="module", params=["organism", *DECODERS])
def trial(request, organism, tiny_folder):
    if request.param == "organism":
        return Trial.prepare(organism, emolens.organism_behaviour(per_emotion=3))
    model = emolens.load(tiny_folder(request.param))
    if request.param == "qwen2":
        return prepared(model, "5", ("7", "8"))
    return prepared(model, "word5", ("word7", "word8"))


def changes(trial):
    """Of every kind, after every block, not in the order of the blocks."""
    model, size = trial.model, trial.tokens.ids.shape
    made = []
    for layer in reversed(range(model.n_layers)):
        basis = torch.linalg.qr(torch.randn(model.d_model, 2)).Q.T
        mask = torch.rand(size) < 0.5
        made += [
            {layer: Steer(torch.randn(model.d_model))},
            {layer: Ablate(basis, torch.randn(2))},
            {layer: At(mask, Patch(torch.randn(*size, model.d_model), whole))},
        ]
    for _ in range(3):  # one step after several blocks, named in no order
        layers = [*range(1, model.n_layers), 0]
        made.append({layer: Steer(torch.randn(model.d_model)) for layer in layers})
    return made


def at_sites(change):
    return {Site(layer): each for layer, each in change.items()}


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_each_change_does_what_it_does_alone(trial, batch_tokens):
    made = changes(trial)
    found = list(run_changed(trial, made, batch_tokens=batch_tokens))
    assert len(found) == len(made)
    before = trial.run().logit_difference
    for change, shared in zip(made, found, strict=True):
        with emolens.hooked(trial.model, at_sites(change)):
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
    steps = [
        {layer: torch.randn(trial.model.d_model) for layer in layers}
        for layers in ((0,), (1,), (1,), (2,), (0, 2), (0, 2))
    ]
    made = [{layer: Steer(step) for layer, step in each.items()} for each in steps]
    found = list(run_changed(trial, made, since=since, batch_tokens=batch_tokens))
    for each, shared in zip(steps, found, strict=True):
        later = (token >= since[:, None])[..., None]
        added = {
            layer: lambda r, step=step, later=later: r + later * step
            for layer, step in each.items()
        }
        with emolens.hooked(trial.model, at_sites(added)):
            alone = trial.run()
        assert_close(shared.logit_difference, alone.logit_difference, atol=1e-4, rtol=1e-4)
        assert_close(shared.p, alone.p, atol=1e-5, rtol=0)


def test_afterwards_the_model_is_as_it_was(trial):
    before = trial.run().logit_difference
    for _ in run_changed(trial, changes(trial)):
        break
    list(run_changed(trial, changes(trial)))
    assert torch.equal(trial.run().logit_difference, before)


def test_a_first_token_beyond_the_decision_is_refused(trial):
    for since in (trial.final + 1, trial.final - 1000, trial.final[:-1]):
        with pytest.raises(SelectionError, match="is not one token up to the decision of each of"):
            list(run_changed(trial, changes(trial), since=since))


def test_a_change_of_nothing_is_refused(trial):
    with pytest.raises(SelectionError, match="names no block"):
        run_changed(trial, [{}])
    with pytest.raises(SelectionError, match="layer 99 is out of range"):
        run_changed(trial, [{0: Steer(torch.ones(trial.model.d_model)), 99: whole}])


def test_an_intervention_may_work_in_place(trial):
    step = torch.randn(trial.model.d_model)
    made = [{1: lambda residual: residual.add_(step)}] * 3 + [{1: Steer(step)}]
    *found, expected = run_changed(trial, made)
    for decision in found:
        assert_close(decision.logit_difference, expected.logit_difference, atol=1e-4, rtol=1e-4)


def test_what_is_of_single_prompts_is_refused_from_a_later_token_on(trial):
    """Rows run in groups there, so that it would meet others than its own."""
    step = torch.randn(len(trial.tokens), 1, trial.model.d_model)
    with pytest.raises((SelectionError, RuntimeError), match=r"not give back the|must match the"):
        list(run_changed(trial, [{1: lambda residual: residual + step}], since=trial.final))


@pytest.fixture
def bloom(tmp_path):
    """A network whose blocks give tuples."""
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=64, hidden_size=16, n_layer=3, n_head=2)
    torch.manual_seed(0)
    model = BloomForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    return prepared(emolens.load(tmp_path), "word5", ("word7", "word8"))


def test_where_blocks_give_more_than_the_stream_each_change_runs_alone(bloom):
    made = changes(bloom)
    for change, shared in zip(made, run_changed(bloom, made), strict=True):
        with emolens.hooked(bloom.model, at_sites(change)):
            assert torch.equal(shared.logit_difference, bloom.run().logit_difference)
    with pytest.raises(ModelError, match="hand more to each other than the stream"):
        list(run_changed(bloom, made, since=bloom.final))
