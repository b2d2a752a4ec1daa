"""Steering that is told to an engine elsewhere: TransformerLens's own code applies what we say."""

import importlib.util

import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens import Ablate, Steer, Steering, Text
from emolens.errors import SelectionError
from emolens.exchange import steering_specs
from emolens.generation import steered
from emolens.positions import everything, from_token, last, nowhere

pytest.importorskip("transformer_lens.model_bridge.remote_bridge")  # TransformerLens 4 alone

TEXT = "mira fed the goat . so she"


@pytest.fixture
def steering(vectors):
    steps = {k: Steer(vectors.step("calm", k, 0.5)) for k in (1, 3)}
    return lambda rule: Steering(steps, positions=rule)


def test_the_specs_are_what_vllms_driver_takes(organism, steering):
    """Names of hooks that it has, values of their width, and no key that it does not know."""
    from transformer_lens.model_bridge.sources.vllm.intervention_specs import validate_spec
    from transformer_lens.model_bridge.sources.vllm.overlays import DEFAULT_VLLM_OVERLAY

    has = DEFAULT_VLLM_OVERLAY.capture_specs(organism.host.original_model.config)
    specs = steering_specs(steering(last), TEXT, organism.tokenizer)
    assert list(specs) == ["blocks.1.hook_out", "blocks.3.hook_out"]
    for name, spec in specs.items():
        module, width = has[name]
        assert module == f"model.layers.{name.split('.')[1]}"
        assert validate_spec(name, spec, width=width) == spec


@pytest.mark.parametrize("rule", [everything, last, from_token(3)])
def test_vllms_worker_makes_of_a_spec_what_the_steering_does(organism, steering, rule):
    """Its buffers of scales and biases, filled by its own code, on a stream of any numbers."""
    from transformer_lens.model_bridge.sources.vllm.worker_extension import _apply_intervention

    specs = steering_specs(steering(rule), TEXT, organism.tokenizer)
    stream = torch.randn(1, 8, 160)
    mask = rule([Text(TEXT)], organism.tokenize([TEXT])).mask
    for layer in (1, 3):
        scale, bias = torch.ones(20, 160), torch.zeros(20, 160)
        _apply_intervention(scale, bias, specs[f"blocks.{layer}.hook_out"])
        changed = emolens.At(mask, steering(rule).changes[layer])(stream)
        assert_close(stream * scale[:8] + bias[:8], changed)
        assert not torch.equal(changed, stream)


@pytest.fixture(scope="module")
def remote():
    """A bridge to the organism elsewhere; here that is Inspect, which needs no GPU."""
    pytest.importorskip("inspect_ai")
    from transformer_lens.model_bridge.remote_bridge import RemoteBridge

    with RemoteBridge.boot_inspect(str(emolens.organism_folder("organism"))) as bridge:
        yield bridge


@pytest.mark.parametrize("rule", [everything, last, from_token(3)])
def test_a_remote_bridge_gives_the_logits_of_the_steered_model(organism, steering, remote, rule):
    tokens = organism.tokenize([TEXT])
    specs = steering_specs(steering(rule), TEXT, organism.tokenizer)
    with torch.inference_mode():
        plain = organism.forward(tokens.ids, tokens.mask)
        with steered(organism, [Text(TEXT)], tokens, [steering(rule)]):
            ours = organism.forward(tokens.ids, tokens.mask)
    assert_close(remote.forward(tokens.ids), plain, atol=1e-4, rtol=0)
    assert_close(remote.forward(tokens.ids, intervene=specs), ours, atol=1e-4, rtol=0)
    assert (ours - plain)[:, -1].abs().max() > 0.5


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="vllm needs a GPU")
def test_vllm_gives_the_logits_of_the_steered_model(organism, steering):
    """Half a logit lies between steps and none; sums in another order leave 1e-2 of it."""
    from transformer_lens.model_bridge.remote_bridge import RemoteBridge

    tokens = organism.tokenize([TEXT])
    with RemoteBridge.boot_vllm(
        str(emolens.organism_folder("organism")),
        dtype=torch.float32,
        max_model_len=256,
        max_num_batched_tokens=256,
        enable_position_interventions=True,
    ) as bridge:
        for rule in (everything, last):
            specs = steering_specs(steering(rule), TEXT, organism.tokenizer)
            with (
                torch.inference_mode(),
                steered(organism, [Text(TEXT)], tokens, [steering(rule)]),
            ):
                ours = organism.forward(tokens.ids, tokens.mask)
            theirs = bridge.forward(tokens.ids, intervene=specs)
            assert_close(theirs, ours, atol=1e-2, rtol=0)


def test_what_cannot_be_told_is_refused(organism, steering):
    ablated = Steering({2: Ablate(torch.eye(160)[:1], torch.zeros(1))})
    with pytest.raises(SelectionError, match="Ablate at layer 2 cannot be told to an engine"):
        steering_specs(ablated, TEXT, organism.tokenizer)
    with pytest.raises(SelectionError, match="'nowhere' picks no token"):
        steering_specs(steering(nowhere), TEXT, organism.tokenizer)
