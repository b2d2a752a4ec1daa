"""What a hooked model must satisfy, on whichever line of TransformerLens is installed."""

from importlib.metadata import version

import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens.decisions import Trial
from emolens.errors import HookError, ModelError, SelectionError
from emolens.interventions import Head
from emolens.organism import organism_folder
from emolens.positions import everything
from emolens.recording import record
from emolens.sharing import run_changed

pytestmark = pytest.mark.contract
TEXTS = [
    emolens.Text("mira had no job and no money and the landlord came at noon .", "desperate"),
    emolens.Text("tom sat by the lake .", "calm"),
    emolens.Text("anna", "neutral"),
]
OLD = version("transformer-lens").startswith("3.")


def old_style(fold: bool):
    """A real HookedTransformer with the organism's converted weights."""
    lens = pytest.importorskip("transformer_lens")
    if not OLD:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(organism_folder())
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    c = hf.config
    cfg = lens.HookedTransformerConfig(
        n_layers=c.num_hidden_layers,
        d_model=c.hidden_size,
        d_head=c.head_dim,
        n_heads=c.num_attention_heads,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=c.head_dim,
        rotary_adjacent_pairs=False,
        final_rms=True,
        eps=c.rms_norm_eps,
        model_name="organism",
        original_architecture="LlamaForCausalLM",
    )
    host = lens.HookedTransformer(cfg, tokenizer=AutoTokenizer.from_pretrained(folder))
    host.load_and_process_state_dict(
        convert_llama_weights(hf, cfg),
        fold_ln=fold,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return host


@pytest.fixture(scope="module", params=["folder", "bridge", "hooked_transformer"])
def model(request, organism):
    """The organism through every door."""
    if request.param == "folder":
        return organism
    if request.param == "bridge":
        return emolens.load(organism.host)
    return emolens.load(old_style(fold=False))


def reference(tokens):
    """Plain Hugging Face: the organism's residuals by hooks on the blocks, and its output."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(organism_folder(), attn_implementation="eager").eval()
    seen = []
    for block in hf.model.layers:
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.inference_mode():
        out = hf(tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True)
    return torch.stack(seen), out


def residuals(model, tokens):
    with torch.inference_mode(), emolens.reading(model, tuple(range(model.n_layers))) as found:
        logits = model.forward(tokens.ids, tokens.mask)
    return torch.stack([found[k] for k in range(model.n_layers)]), logits


def test_residuals_of_the_organism_equal_hugging_face(model):
    tokens = model.tokenize(TEXTS)
    ours, logits = residuals(model, tokens)
    theirs, out = reference(tokens)
    real, size = tokens.mask, torch.ones(model.n_layers, 1, 1, 1)
    if type(model.host).__name__ == "HookedTransformer":
        # Its sums run in another order than Hugging Face's. What float32 rounds off there goes with
        # the size of the stream: on the organism a root mean square of 2 to 71.
        size = theirs.square().mean(-1, keepdim=True).sqrt()
    ours, theirs = ours / size, theirs / size
    assert_close(ours[:, real], theirs[:, real], atol=1e-5, rtol=1e-5)
    assert_close(logits[real], out.logits[real], atol=1e-4, rtol=1e-5)
    # layer l is hidden_states[l + 1] for every block but the last
    hidden = torch.stack(out.hidden_states[1:-1]) / size[:-1]
    assert_close(ours[:-1][:, real], hidden[:, real], atol=1e-5, rtol=1e-5)


def test_a_block_adds_what_its_attention_and_its_mlp_give(model):
    tokens, layers = model.tokenize(TEXTS), tuple(range(model.n_layers))
    with (
        torch.inference_mode(),
        emolens.reading(model, layers) as stream,
        emolens.reading(model, layers, "attn_out") as attention,
        emolens.reading(model, layers, "mlp_out") as mlp,
    ):
        model.forward(tokens.ids, tokens.mask)
    for k in layers[1:]:
        added = (stream[k] - stream[k - 1])[tokens.mask]
        parts = (attention[k] + mlp[k])[tokens.mask]
        assert_close(added, parts, atol=1e-3, rtol=1e-5)  # the stream is up to 1,000 long


def test_a_changed_head_changes_the_run_at_every_door_alike(model, organism):
    tokens, found = model.tokenize(TEXTS), []
    for door in (model, organism):
        change = {emolens.Site(3, "z"): Head(1, torch.neg)}
        with torch.inference_mode(), emolens.hooked(door, change):
            found.append(door.forward(tokens.ids, tokens.mask)[tokens.mask])
    assert_close(*found, atol=1e-3, rtol=1e-4)
    with torch.inference_mode():
        plain = organism.forward(tokens.ids, tokens.mask)[tokens.mask]
    assert (found[0] - plain).abs().max() > 0.1


def test_a_zero_vector_leaves_logits_bitwise_unchanged(model):
    tokens = model.tokenize(TEXTS)
    with torch.inference_mode():
        plain = model.forward(tokens.ids, tokens.mask)
        for layer in range(model.n_layers):
            nothing = emolens.Steer(0 * torch.randn(model.d_model))
            with emolens.hooked(model, {emolens.Site(layer): nothing}):
                steered = model.forward(tokens.ids, tokens.mask)
            assert torch.equal(plain, steered), f"layer {layer}"


def test_a_vector_does_change_logits_and_only_inside_the_context(model):
    tokens = model.tokenize(TEXTS)
    with torch.inference_mode():
        plain = model.forward(tokens.ids, tokens.mask)
        with emolens.hooked(model, {emolens.Site(2): emolens.Steer(torch.randn(model.d_model))}):
            steered = model.forward(tokens.ids, tokens.mask)
        after = model.forward(tokens.ids, tokens.mask)
    assert (plain - steered).abs().max() > 0.1
    assert torch.equal(plain, after)


def test_shared_runs_give_what_hooks_give(model):
    trial = Trial.prepare(model, emolens.organism_behaviour(per_emotion=2))
    steps = [{layer: emolens.Steer(torch.randn(model.d_model))} for layer in (4, 1, 1)]
    for change, shared in zip(steps, run_changed(trial, steps), strict=True):
        with emolens.hooked(model, {emolens.Site(layer): step for layer, step in change.items()}):
            alone = trial.run()
        assert_close(shared.logit_difference, alone.logit_difference, atol=1e-4, rtol=1e-4)
    if model.model_type is None:
        with pytest.raises(ModelError, match="open it as a TransformerBridge"):
            list(run_changed(trial, steps, since=trial.final))


def test_a_hook_fires_once_a_run(model):
    tokens, times = model.tokenize(TEXTS), []

    def count(residual):
        times.append(1)
        return residual

    with torch.inference_mode(), emolens.hooked(model, {emolens.Site(1): count}):
        model.forward(tokens.ids, tokens.mask)
        model.forward(tokens.ids, tokens.mask)
    assert len(times) == 2


def test_a_hook_that_never_fires_is_an_error(model):
    steer = {emolens.Site(4): emolens.Steer(torch.ones(model.d_model))}
    never = pytest.raises(HookError, match=r"blocks\.4\.hook_resid_post never ran")
    with never, emolens.hooked(model, steer):
        model.unembed(torch.ones(1, model.d_model))


def test_hooks_are_gone_after_an_exception(model):
    tokens = model.tokenize(TEXTS)
    with torch.inference_mode():
        plain = model.forward(tokens.ids, tokens.mask)
        steer = {emolens.Site(0): emolens.Steer(torch.ones(model.d_model))}
        with pytest.raises(ZeroDivisionError), emolens.hooked(model, steer):
            raise ZeroDivisionError
        assert torch.equal(plain, model.forward(tokens.ids, tokens.mask))


def test_a_layer_that_is_not_there_is_named(model):
    refused = pytest.raises(SelectionError, match=r"layer 6 is out of range.*0\.\.5")
    with (
        refused,
        emolens.hooked(model, {emolens.Site(6): emolens.Steer(torch.ones(model.d_model))}),
    ):
        pass


def test_every_door_has_the_same_fingerprint(model, organism):
    assert_close(
        torch.tensor(model.fingerprint), torch.tensor(organism.fingerprint), atol=1e-3, rtol=1e-4
    )
    assert_close(
        model.unembed(torch.eye(model.d_model)),
        organism.unembed(torch.eye(model.d_model)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_folded_weights_are_detected_and_recorded():
    host = old_style(fold=True)
    with pytest.raises(ModelError, match=r"folded norms.*weights='processed'"):
        emolens.load(host)
    model = emolens.load(host, weights="processed")
    assert record(model, TEXTS, positions=everything).provenance.weights == "processed"


def test_compatibility_mode_is_detected(tiny_folder):
    host = emolens.load(tiny_folder("gpt2")).host
    host.enable_compatibility_mode()
    with pytest.raises(ModelError, match="compatibility mode"):
        emolens.load(host)


def test_vectors_of_processed_weights_do_not_mix_with_raw(model, vectors):
    model.check_origin(vectors.provenance, "these vectors")
    object.__setattr__(vectors.provenance, "weights", "processed")
    try:
        with pytest.raises(ModelError, match=r"processed weights.*raw weights"):
            model.check_origin(vectors.provenance, "these vectors")
    finally:
        object.__setattr__(vectors.provenance, "weights", "raw")


def test_gradients_do_not_reach_parameters(model, vectors):
    behaviour = emolens.organism_behaviour(per_emotion=9).after("neutral")
    from emolens.attribution import gradients

    before = [p.grad for p in model.host.parameters()]
    found = gradients(emolens.Trial.prepare(model, behaviour), (0, 5))
    assert found.abs().max() > 0
    assert [p.grad for p in model.host.parameters()] == before == [None] * len(before)
