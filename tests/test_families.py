"""Every family of models against Hugging Face's own: each block's residual, at each token.

The models are tiny and random. Every block turns the stream by a third of its size or more, windows
are shorter than most texts, caps are low, and texts differ in length, so that padding, window and
cap each show where they are wrong.

The tolerance is 1e-5, absolute. The stream's root mean square is 0.2 to 3 here, float32 keeps seven
digits of that, and a batch of another shape sums in another order: up to 4e-6 was seen. What a
wrong site, mask, window or position does is larger than 0.01.
"""

from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES
from torch.testing import assert_close

import emolens
from emolens.interventions import Head
from emolens.positions import Positions, everything
from emolens.sites import Site
from emolens.text import Tokens

pytestmark = pytest.mark.contract
CLOSE = {"atol": 1e-5, "rtol": 0}


def text(length):
    """Words without a pattern, other ones for each length."""
    words = torch.randint(60, (length,), generator=torch.Generator().manual_seed(length))
    return emolens.Text(" ".join(f"word{i}" for i in words.tolist()))


TEXTS = [text(length) for length in (9, 2, 13, 1, 5)]
LONG = text(40)


def hugging_face(folder, **changes):
    """Hugging Face's own model, its config changed where told, and what its blocks put out."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    encoder = AutoConfig.from_pretrained(folder).model_type == "bert"
    kind = AutoModelForMaskedLM if encoder else AutoModelForCausalLM
    hf = kind.from_pretrained(folder, attn_implementation="eager", **changes).eval()
    seen = []
    for block in next(m for m in hf.modules() if isinstance(m, torch.nn.ModuleList)):
        block.register_forward_hook(
            lambda _module, _inputs, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
    return hf, seen


def alone(tokens, folder, **changes):
    """What Hugging Face computes for each text by itself, unpadded: residuals, and logits."""
    hf, seen = hugging_face(folder, **changes)
    residuals, logits = [], []
    for ids, mask in zip(tokens.ids, tokens.mask, strict=True):
        seen.clear()
        with torch.inference_mode():
            logits.append(hf(ids[mask][None]).logits[0])
        residuals.append(torch.cat(seen).transpose(0, 1))
    return residuals, logits


def token(index):
    """The token of that index, special ones counted; the last one of a shorter text."""

    def rule(texts, tokens):
        at = (tokens.mask.sum(1, keepdim=True) - 1).clamp(max=index)
        return Positions(torch.arange(tokens.mask.shape[1]) == at, (f"token({index})",) * len(at))

    return rule


def recorded(model, texts, **options):
    """What `record_at` reads of each text: token by layer by d_model."""
    lengths = model.tokenize(texts).mask.sum(1).tolist()
    rules = {str(index): token(index) for index in range(max(lengths))}
    read = emolens.record_at(model, texts, rules, **options)
    tokens = torch.stack([read[name].pooled for name in rules], 1)
    return [row[:length] for row, length in zip(tokens, lengths, strict=True)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tiny_folder):
    """A family's folder, emolens' model of it, and all there is to compare with."""
    folder = tiny_folder(request.param)
    model = emolens.load(folder)
    tokens = model.tokenize(TEXTS)
    residuals, logits = alone(tokens, folder)
    return SimpleNamespace(
        model=model, folder=folder, tokens=tokens, residuals=residuals, logits=logits
    )


def test_every_token_after_every_block_equals_hugging_face(family):
    for ours, theirs in zip(recorded(family.model, TEXTS), family.residuals, strict=True):
        assert_close(ours, theirs, **CLOSE)


OF_A_BLOCK = {  # by model type: what projects the heads, and what gives what is added to the stream
    "gpt2": ("attn.c_proj", "attn", "mlp"),
    "gpt_neox": ("attention.dense", "attention", "mlp"),
    "gemma2": ("self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm"),
}


def one_minus(value):
    """Other before a norm than after it; a negative would be the same."""
    return 1 - value


def changed(folder, layer, kind):
    """Hugging Face's own model, with that part of that block changed by a hook."""
    hf, _ = hugging_face(folder)
    block = next(m for m in hf.modules() if isinstance(m, torch.nn.ModuleList))[layer]
    projection, *adds = OF_A_BLOCK.get(
        hf.config.model_type, ("self_attn.o_proj", "self_attn", "mlp")
    )

    def one_head(_module, args):
        heads = args[0].clone().unflatten(-1, (hf.config.num_attention_heads, -1))
        heads[..., 1, :] = one_minus(heads[..., 1, :])
        return (heads.flatten(-2), *args[1:])

    def output(_module, _args, out):
        return (one_minus(out[0]), *out[1:]) if isinstance(out, tuple) else one_minus(out)

    if kind == "z":
        block.get_submodule(projection).register_forward_pre_hook(one_head)
    else:
        block.get_submodule(adds[kind == "mlp_out"]).register_forward_hook(output)
    return hf


@pytest.mark.parametrize("kind", ["attn_out", "mlp_out", "z"])
def test_a_changed_part_changes_the_run_as_hugging_faces_own_hook_does(family, kind):
    if not family.model.causal:
        pytest.skip("an encoder adds to a stream that it then normalises, and has no logits")
    change = Head(1, one_minus) if kind == "z" else one_minus
    tokens = family.tokens
    for layer in range(family.model.n_layers):
        with torch.inference_mode(), emolens.hooked(family.model, {Site(layer, kind): change}):
            ours = family.model.forward(tokens.ids, tokens.mask)[tokens.mask]
        hf = changed(family.folder, layer, kind)
        with torch.inference_mode():
            rows = zip(tokens.ids, tokens.mask, strict=True)
            theirs = torch.cat([hf(ids[mask][None]).logits[0] for ids, mask in rows])
        assert_close(ours, theirs, **CLOSE)
        assert (ours - torch.cat(family.logits)).abs().max() > 0.05


def wrappers(model):
    """Parts of blocks that stand in for Hugging Face's own."""
    inside = [m for block in model.host.blocks for m in block.original_component.modules()]
    return [part for part in inside if hasattr(part, "original_component")]


def test_what_is_recorded_is_computed_by_hugging_faces_own_modules(family):
    before = wrappers(family.model)
    with family.model.bare():
        assert not wrappers(family.model)
    assert before
    assert wrappers(family.model) == before


def test_the_mean_over_tokens_equals_hugging_face(family):
    ours = emolens.record(family.model, TEXTS, positions=everything).pooled
    words = [mask[real] for mask, real in zip(family.tokens.words, family.tokens.mask, strict=True)]
    theirs = [found[w].mean(0) for found, w in zip(family.residuals, words, strict=True)]
    assert_close(ours, torch.stack(theirs), **CLOSE)


def test_every_family_can_be_read_into_a_folder(family, tmp_path):
    """TransformerLens shows parts that BERT lacks by hooks of its own, which are no changes."""
    kept = emolens.record(family.model, TEXTS, folder=tmp_path)
    assert torch.equal(kept.pooled, emolens.record(family.model, TEXTS).pooled)


def test_logits_equal_hugging_face(family):
    with torch.inference_mode():
        ours = family.model.forward(family.tokens.ids, family.tokens.mask)
    assert_close(ours[family.tokens.mask], torch.cat(family.logits), **CLOSE)


def test_every_block_changes_the_stream(family):
    """Or two neighbouring layers could be mistaken for each other above."""
    stream = torch.cat(family.residuals)
    before, after = stream[:, :-1], stream[:, 1:]
    assert ((after - before).norm(dim=-1) / before.norm(dim=-1)).mean(0).min() > 1 / 3


def test_one_text_at_a_time_and_all_in_one_batch_agree(family):
    batch = recorded(family.model, TEXTS)
    single = recorded(family.model, TEXTS, batch_tokens=1)
    turned = recorded(family.model, TEXTS[::-1])[::-1]
    for whole, one, other in zip(batch, single, turned, strict=True):
        assert_close(whole, one, **CLOSE)
        assert_close(whole, other, **CLOSE)


def test_a_much_longer_neighbour_changes_nothing(family):
    beside = recorded(family.model, [*TEXTS, LONG])[:-1]
    for padded, plain in zip(beside, recorded(family.model, TEXTS), strict=True):
        assert_close(padded, plain, **CLOSE)


def test_left_and_right_padding_agree(family):
    """The library pads right; a left-padded batch with its mask must say the same."""
    tokens, width = family.tokens, family.tokens.ids.shape[1]
    index = (torch.arange(width) - (width - tokens.mask.sum(1))[:, None]) % width
    left = Tokens(tokens.ids.gather(1, index), tokens.mask.gather(1, index), tokens.offsets)
    layers = tuple(range(family.model.n_layers))
    with torch.inference_mode(), emolens.reading(family.model, layers) as found:
        family.model.forward(left.ids, left.mask)
    ours = torch.stack([found[layer][left.mask] for layer in layers], 1)
    assert_close(ours, torch.cat(family.residuals), **CLOSE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mistral", {"sliding_window": 128}),
        ("qwen2", {"sliding_window": 128}),
        ("gemma2", {"sliding_window": 128}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma3", {"sliding_window": 128}),
        ("phi3", {"sliding_window": 128}),
        ("mixtral", {"sliding_window": 128}),
    ],
)
def test_without_its_window_or_cap_a_family_would_read_otherwise(name, change, tiny_folder):
    """Or the agreement above would not say that they are in force."""
    folder = tiny_folder(name)
    model = emolens.load(folder)
    without, _ = alone(model.tokenize(TEXTS), folder, **change)
    ours = recorded(model, TEXTS)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, without, strict=True)) > 0.01
