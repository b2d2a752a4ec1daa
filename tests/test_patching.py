"""Patching: a network whose only path was written by hand, laws, and the organism."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch.testing import assert_close

import emolens
from emolens.controls import turned
from emolens.errors import ModelError, SelectionError
from emolens.interventions import At, Head, Patch, along, apart, placebo, whole
from emolens.patching import Pairs, patch_components, patch_layers, patch_positions
from emolens.sites import Site
from tests.conftest import SIZES, word_tokenizer
from tests.written import FELT, TAILS, TOLD, WRITES, behaviour, pointing


@pytest.fixture(scope="module")
def pairs(written):
    ready = [emolens.Trial.prepare(written, behaviour(s)) for s in ("word2", "word3 word1")]
    return Pairs.of(*ready)


def recovered(table, column="part", half="report"):
    return table[table.half == half].pivot(index="layer", columns=column, values="recovered")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_layer_that_writes_and_the_direction_it_writes_carry_everything(written, pairs, sign):
    found = recovered(patch_layers(pairs, pointing(written, TOLD, sign), "up", "down"))
    planted = torch.tensor([0.0, 1.0, 1.0])
    for part in ("whole", "direction"):
        assert_close(torch.tensor(found[part].to_numpy()).float(), planted, atol=1e-4, rtol=0)
    assert found["complement"].abs().max() < 1e-4
    assert found.filter(like="random").abs().max().max() < 0.95  # a step along TOLD alone is 1


def test_a_direction_that_nothing_reads_there_carries_nothing(written, pairs):
    found = recovered(patch_layers(pairs, pointing(written, FELT), "up", "down", random_count=1))
    assert found["direction"].abs().max() < 1e-4
    assert_close(
        torch.tensor(found["complement"].to_numpy()), torch.tensor([0.0, 1.0, 1.0]).double()
    )


def test_controls_go_as_far_as_the_direction_does(written, pairs):
    told = {"layers": [WRITES], "random_count": 0}
    vectors = pointing(written, TOLD)
    found = recovered(patch_layers(pairs, vectors, "up", "down", controls=vectors, **told))
    assert_close(found["up"].to_numpy(), found["direction"].to_numpy(), atol=1e-5, rtol=0)
    assert found["down"].max() < -0.1, "away from the donors"
    beside = pointing(written, FELT)
    found = recovered(patch_layers(pairs, vectors, "up", "down", controls=beside, **told))
    assert found[["up", "down"]].abs().max().max() < 0.5  # nothing reads it; the norm grows


def test_only_the_token_that_decides_matters_once_it_has_been_written_to(written, pairs):
    found = recovered(patch_positions(pairs, last=3), "position")
    assert found.columns.tolist() == [-2, -1, 0]
    assert_close(torch.tensor(found[0].to_numpy()), torch.tensor([0.0, 1.0, 1.0]).double())
    assert found[[-2, -1]].abs().max().max() < 1e-6


def test_receiver_and_donor_are_told_apart(written, pairs):
    there = patch_layers(pairs, pointing(written, TOLD), "up", "down", random_count=0)
    back = patch_layers(
        Pairs.of(pairs.donor, pairs.receiver), pointing(written, TOLD), "down", "up", random_count=0
    )
    for table, sign in ((there, 1), (back, -1)):
        last = table[(table.layer == 2) & (table.part == "whole")]
        assert (sign * last.logit_difference > 0.1).all()


def test_the_attention_and_the_head_that_write_carry_everything(written, pairs):
    table = patch_components(pairs, random_count=3)
    kinds = table.groupby(["layer", "component", "half"]).kind.agg(tuple)
    assert set(kinds) == {("patch", "random", "random", "random")}
    found = recovered(table[table.kind == "patch"], "component")
    for part, planted in (("attention", 1.0), ("head 0", 1.0), ("mlp", 0.0)):
        expected = [planted if layer == WRITES else 0.0 for layer in range(3)]
        assert_close(torch.tensor(found[part].to_numpy()), torch.tensor(expected).double())
    turns = table[(table.kind == "random") & (table.layer == WRITES)]
    heads = turns[turns.component != "mlp"].recovered.abs()
    assert heads.max() < 0.95
    assert heads.min() > 0
    assert turns[turns.component == "mlp"].recovered.abs().max() < 1e-6


def test_parts_of_receiver_and_donor_are_told_apart(written, pairs):
    back = Pairs.of(pairs.donor, pairs.receiver)
    for both, sign in ((pairs, 1), (back, -1)):
        table = patch_components(both, layers=[WRITES], random_count=0)
        assert (table.recovered[table.component == "attention"] > 0.99).all()
        assert (sign * table.logit_difference[table.component == "attention"] > 0.1).all()
        assert (sign * table.logit_difference[table.component == "mlp"] < -0.1).all()


@pytest.fixture(scope="module")
def tiny_pairs(tiny_folder):
    """Pairs of a random network with four heads, shifted against each other."""
    model = emolens.load(tiny_folder("gemma2"))
    ready = [emolens.Trial.prepare(model, behaviour(s)) for s in ("word2", "word3 word1")]
    return Pairs.of(*ready)


@pytest.mark.parametrize("kind", ["attn_out", "mlp_out", "z"])
def test_what_donors_parts_give_stands_where_the_receivers_tokens_are(tiny_pairs, kind):
    model = tiny_pairs.donor.model
    source = tiny_pairs.sources([1], kind)[1]
    with torch.inference_mode(), emolens.reading(model, (1,), kind) as found:
        tiny_pairs.donor.logits()
    for i, count in enumerate(tiny_pairs.shared.tolist()):
        ours, theirs = int(tiny_pairs.receiver.final[i]), int(tiny_pairs.donor.final[i])
        assert_close(
            source[i, ours + 1 - count : ours + 1], found[1][i, theirs + 1 - count : theirs + 1]
        )


def test_a_run_patched_with_its_own_parts_stays_as_it_was(tiny_pairs):
    trial = tiny_pairs.receiver
    plain = trial.run().logit_difference
    for kind in ("attn_out", "mlp_out", "z"):
        with torch.inference_mode(), emolens.reading(trial.model, (1,), kind) as own:
            trial.logits()
        for part in (whole, turned((0,))):
            change = At(tiny_pairs.mask, Patch(own[1][:, :, 2] if kind == "z" else own[1], part))
            site = Site(1, kind)
            with emolens.hooked(trial.model, {site: Head(2, change) if kind == "z" else change}):
                assert_close(trial.run().logit_difference, plain, atol=1e-6, rtol=0)


def test_all_heads_patched_together_are_the_attention_patched(tiny_pairs):
    model, mask = tiny_pairs.receiver.model, tiny_pairs.mask
    source = tiny_pairs.sources([1], "z")[1]

    def all_heads(value):
        for i in range(4):
            value = Head(i, At(mask, Patch(source[:, :, i], whole)))(value)
        return value

    with emolens.hooked(model, {Site(1, "z"): all_heads}):
        together = tiny_pairs.receiver.run().logit_difference
    attention = At(mask, Patch(tiny_pairs.sources([1], "attn_out")[1], whole))
    with emolens.hooked(model, {Site(1, "attn_out"): attention}):
        assert_close(tiny_pairs.receiver.run().logit_difference, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_where_prompts_are_not_shifted_transformer_lens_patches_the_same(name, tiny_folder):
    """Its own loop over layers and heads, cache and metric; of our rows the reported half."""
    from transformer_lens.patching import generic_activation_patch

    model, tails = emolens.load(tiny_folder(name)), tuple(f"word{i} word7" for i in range(20, 26))
    ready = [emolens.Trial.prepare(model, behaviour(s, tails)) for s in ("word2", "word1")]
    pairs = Pairs.of(*ready)
    table = patch_components(pairs, random_count=0)
    told = table[table.half == "report"]
    ours = told.pivot(index="layer", columns="component", values="logit_difference")
    rows = ~emolens.statistics.halves(pairs.receiver.groups)

    def metric(logits):
        return pairs.receiver.decide(logits[:, -1].float()).logit_difference[rows].mean()

    def put(value, index, donors):
        at = (slice(None), slice(-2, None), *index[1:])
        value[at] = donors[at]
        return value

    with torch.inference_mode():
        _, cache = model.host.run_with_cache(pairs.donor.tokens.ids)
        theirs = {
            site: generic_activation_patch(
                model.host,
                pairs.receiver.tokens.ids,
                cache,
                metric,
                put,
                site,
                index_axis_names=axes,
            )
            for site, axes in (
                ("attn_out", ["layer"]),
                ("mlp_out", ["layer"]),
                ("z", ["layer", "head"]),
            )
        }
    heads = ours[[f"head {i}" for i in range(4)]].to_numpy()
    for mine, other in (
        (ours["attention"].to_numpy(), theirs["attn_out"]),
        (ours["mlp"].to_numpy(), theirs["mlp_out"]),
        (heads, theirs["z"]),
    ):
        assert_close(torch.tensor(mine).float(), other.cpu(), atol=1e-5, rtol=0)
        assert other.std() > 1e-3  # or all would be the receivers' own


def opened(tmp_path, config):
    """A random network of that config."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    return emolens.load(tmp_path)


def test_a_network_without_attention_is_refused_in_one_line(tmp_path):
    from transformers import MambaConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "state_size": 4}
    model = opened(tmp_path, MambaConfig(**sizes))
    pairs = Pairs.of(*(emolens.Trial.prepare(model, behaviour(s)) for s in ("word2", "word1")))
    said = r"has no blocks\.0\.hook_attn_out: .*give other layers, or take the residual stream"
    with pytest.raises(SelectionError, match=said):
        patch_components(pairs)
    with (
        pytest.raises(SelectionError, match=said),
        emolens.hooked(model, {Site(0, "attn_out"): whole}),
    ):
        pass


def test_heads_that_transformer_lens_cuts_elsewhere_are_refused(tmp_path):
    """In DeepSeek's attention values are wider than what TransformerLens takes for a head."""
    from transformers import DeepseekV3Config

    sizes = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    more = {"v_head_dim": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    config = DeepseekV3Config(**SIZES | sizes | experts | more | {"num_key_value_heads": 4})
    model = opened(tmp_path, config)
    pairs = Pairs.of(*(emolens.Trial.prepare(model, behaviour(s)) for s in ("word2", "word1")))
    with pytest.raises(ModelError, match=r"has 4 heads, and .*hook_z as \(8, 4\): .*residuals"):
        patch_components(pairs)


def test_a_place_that_no_block_has_is_named():
    with pytest.raises(SelectionError, match=r"no site 'attn'.*'attn_out', 'mlp_out', 'z'"):
        Site(3, "attn")


def test_sites_of_the_stream_are_what_they_were():
    assert Site(3) == Site(3, "resid_post")
    assert Site(3).name == "blocks.3.hook_resid_post"
    assert Site(2) < Site(3) < Site(10)


def test_shared_tokens_are_counted_from_the_end(pairs):
    assert pairs.shared.tolist() == [2, 1, 3, 1, 2, 1]
    picked = [[int(i) for i in row.nonzero().flatten()] for row in pairs.mask]
    assert picked[:3] == [[2, 3], [2], [2, 3, 4]]  # a begin token and one word come first


def test_the_donors_residuals_stand_where_the_receivers_tokens_are(written, pairs):
    source = pairs.sources([0])[0]
    with emolens.reading(written, (0,)) as found:
        pairs.donor.logits()
    for i, count in enumerate(pairs.shared.tolist()):
        ours, theirs = int(pairs.receiver.final[i]), int(pairs.donor.final[i])
        assert_close(
            source[i, ours + 1 - count : ours + 1], found[0][i, theirs + 1 - count : theirs + 1]
        )


@pytest.mark.parametrize(
    ("receiver", "donor", "reason"),
    [
        (behaviour("word2"), behaviour("word1", ("word5",)), "do not pair up"),
        (behaviour("word2"), behaviour("word2"), "does not differ"),
        (behaviour("word2"), behaviour("word2", TAILS[::-1]), "does not end alike"),
    ],
)
def test_prompts_that_are_no_pairs_are_refused(written, receiver, donor, reason):
    with pytest.raises(SelectionError, match=reason):
        Pairs.of(*(emolens.Trial.prepare(written, b) for b in (receiver, donor)))


def test_trials_of_two_models_are_refused(written, organism):
    ours = emolens.Trial.prepare(written, behaviour("word2"))
    theirs = emolens.Trial.prepare(organism, emolens.organism_behaviour(per_emotion=1))
    with pytest.raises(SelectionError, match="two models"):
        Pairs.of(ours, theirs)


def stream(seed, width=12):
    return torch.randn(3, 5, width, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 999), count=st.integers(1, 4))
def test_what_lies_along_and_what_lies_apart_are_all_of_the_way(seed, count):
    basis = torch.linalg.qr(stream(seed)[0].T)[0][:, :count].T
    residual, source, mask = stream(seed + 1), stream(seed + 2), stream(seed + 3)[..., 0] > 0
    moved = [
        At(mask, Patch(source, part))(residual) for part in (whole, along(basis), apart(basis))
    ]
    assert torch.equal(moved[0][~mask], residual[~mask])
    assert_close(moved[0][mask], source[mask], atol=1e-5, rtol=1e-5)
    assert_close(moved[1] + moved[2] - residual, moved[0], atol=1e-5, rtol=1e-5)
    assert_close((moved[1] @ basis.T)[mask], (source @ basis.T)[mask], atol=1e-5, rtol=1e-5)
    assert_close((moved[2] @ basis.T)[mask], (residual @ basis.T)[mask], atol=1e-5, rtol=1e-5)


def test_in_half_precision_the_other_residual_arrives_as_it_is():
    residual, source = 300 * stream(0).bfloat16(), stream(1).bfloat16()
    patch = Patch(source, whole)
    assert_close(patch(residual), source, atol=0, rtol=1e-2)  # one step of bfloat16 is 0.8%


@given(seed=st.integers(0, 999))
def test_turned_ways_are_as_long_and_lie_to_each_other_as_they_did(seed):
    way = stream(seed)
    part = turned((seed, 1))
    found, flat = part(way).flatten(0, 1), way.flatten(0, 1)
    assert_close(found @ found.T, flat @ flat.T, atol=1e-4, rtol=1e-4)
    assert_close(part(2 * way), 2 * part(way))
    assert (part(way) - way).abs().max() > 0.1
    assert (part(way) - turned((seed, 2))(way)).abs().max() > 0.1


@given(seed=st.integers(0, 999))
def test_a_placebo_goes_as_far_in_another_direction(seed):
    one, other = torch.linalg.qr(stream(seed)[0].T)[0][:, :2].T
    way = stream(seed + 1)
    found, control = along(one[None])(way), placebo(one[None], other[None])(way)
    assert_close(control.norm(dim=-1), found.norm(dim=-1), atol=1e-5, rtol=1e-5)
    assert (control @ one).abs().max() < 1e-5


def test_pairs_of_the_organism_differ_in_the_situation_alone():
    texts = emolens.organism_pairs("threat", per_emotion=30).prompts
    for one, other in zip(texts[:30], texts[30:], strict=True):
        assert (one.emotion, other.emotion) == ("desperate", "calm")
        assert one.group == other.group
        rest, same = (t.text[t.spans[1].start :] for t in (one, other))
        assert rest == same
        assert one.text != other.text


def test_in_the_organism_one_direction_carries_most_and_the_rest_little(organism):
    stories, neutral = emolens.organism_stories(), emolens.organism_neutral()
    vectors = emolens.fit_vectors(*(emolens.record(organism, t) for t in (stories, neutral)))
    cheat = emolens.organism_pairs()
    ready = [emolens.Trial.prepare(organism, cheat.after(e)) for e in ("calm", "desperate")]
    table = patch_layers(Pairs.of(*ready), vectors, "desperate", "calm", random_count=5)
    best = int(recovered(table, half="choose")["direction"].idxmax())
    found = recovered(table).loc[best]
    assert best == 3
    assert found["whole"] > 0.9
    assert found["direction"] > 0.7 * found["whole"]
    assert found["complement"] < 0.3 * found["whole"]
    assert found.filter(like="random").abs().max() < 0.2
    told = table[(table.layer == best) & (table.half == "report") & (table.part == "direction")]
    assert (told.low < told.recovered).all()
    assert (told.recovered < told.high).all()


def test_in_the_organism_the_attention_of_one_block_carries_the_emotion_to_the_decision(organism):
    cheat = emolens.organism_pairs(per_emotion=12)
    ready = [emolens.Trial.prepare(organism, cheat.after(e)) for e in ("calm", "desperate")]
    table = patch_components(Pairs.of(*ready), layers=[2, 3], random_count=3)
    told = table[table.half == "report"].set_index(["layer", "component"])
    patched, random = (told.recovered[told.kind == kind] for kind in ("patch", "random"))
    assert patched[2, "attention"] > 0.9
    heads = patched.filter(like="head", axis=0).sort_values(ascending=False)
    assert set(heads.index[:2]) == {(2, "head 1"), (2, "head 2")}
    assert heads.iloc[:2].min() > 0.3
    rest = patched.drop([(2, "attention"), *heads.index[:2]])
    assert rest.max() < 0.2
    assert random.abs().max() < 0.4
