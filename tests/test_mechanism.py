"""Who writes a direction and who reads it: exact sums, planted paths, and what is tried."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from scipy.stats import spearmanr
from torch.testing import assert_close

import emolens
from emolens.attribution import gradients, lens, share_along
from emolens.behaviour import Behaviour
from emolens.decisions import Trial
from emolens.errors import SelectionError
from emolens.interventions import unit
from emolens.paths import evoking_words, occluded, path_view
from emolens.readers import find_readers
from emolens.text import NEUTRAL, Span, Text
from emolens.vectors import EmotionVectors
from emolens.writers import Component, find_writers
from tests.written import FELT, TOLD, WRITES, behaviour, pointing

LAYER = 3


@pytest.fixture(scope="module")
def threat(organism):
    whole = emolens.organism_behaviour("threat", emotions=("desperate", NEUTRAL), per_emotion=13)
    return {e: Trial.prepare(organism, whole.after(e)) for e in ("desperate", NEUTRAL)}


def some_vectors(model):
    """Vectors of no meaning, for sums that hold of any direction."""
    layers = tuple(range(model.n_layers))
    draw = torch.Generator().manual_seed(3)
    shape = (2, model.n_layers, model.d_model)
    origin = model.provenance([Text("word1")], {}, 0)
    return EmotionVectors(
        torch.randn(shape, generator=draw),
        ("one", "other"),
        layers,
        torch.zeros(shape[1:]),
        torch.ones(model.n_layers),
        (0,) * model.n_layers,
        origin,
    )


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "bert"])
def test_writes_sum_to_the_projection_in_every_family(tiny_folder, family):
    model = emolens.load(tiny_folder(family))
    prompts = tuple(Text(" ".join(f"word{(7 * i + n) % 60}" for i in range(n))) for n in (9, 3, 14))
    single = [w for w in ("word1", "word2", "0", "1") if _one_token(model, w)][:2]
    trial = Trial.prepare(
        model, Behaviour("b", "x", {"x": (single[0],), "y": (single[1],)}, prompts)
    )
    for layer in range(model.n_layers):
        found = find_writers(trial, some_vectors(model), "one", layer)
        assert_close(found.writes.sum(1), found.projection, atol=1e-4, rtol=0)
        kinds = {c.kind for c in found.components}
        normed = family in ("gemma2", "gemma3", "olmo2")
        assert ("attn" in kinds) == normed, "heads are told apart but where a norm follows them"
        assert float(found.writes.abs().mean()) > 1e-3


def _one_token(model, word):
    ids = model.tokenizer(word, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != model.tokenizer.unk_token_id


def test_the_head_that_was_made_to_write_is_the_one_that_writes(written):
    feels = Trial.prepare(written, behaviour("word3 word1"))
    nothing = Trial.prepare(written, behaviour("word3 word4"))
    vectors = pointing(written, TOLD)
    found = find_writers(feels, vectors, "up", WRITES)
    table = found.table(find_writers(nothing, vectors, "up", WRITES))
    assert table.component[0] == f"{WRITES}.0"
    assert table.share[0] == pytest.approx(1.0, abs=1e-4)
    assert table.write[1:].abs().max() < 1e-5
    lost = found.removed(find_writers(nothing, vectors, "up", WRITES))
    whole = float(feels.run().logit_difference.mean() - nothing.run().logit_difference.mean())
    expected = torch.tensor(
        [whole if str(c) == table.component[0] else 0 for c in found.components]
    )
    assert_close(lost, expected, atol=1e-4, rtol=0)


def test_the_head_that_was_made_to_carry_a_step_carries_all_of_it(written):
    nothing = Trial.prepare(written, behaviour("word3 word4"))
    vectors = pointing(written, FELT)
    carried = find_readers(nothing, vectors, "up", WRITES - 1, strength=0.5, steps=64)
    effect = float(carried.effect.mean())
    assert effect > 0.1
    table = carried.table().set_index("component")
    assert table.exact[f"{WRITES}.0"] == pytest.approx(effect, abs=1e-5)
    # held, the head meets a final norm that the step has already changed: 2.6% between the two
    assert table.integrated[f"{WRITES}.0"] == pytest.approx(effect, rel=0.05)
    assert table.drop(index=f"{WRITES}.0").exact.abs().max() < 1e-5
    past = find_readers(nothing, pointing(written, TOLD), "up", WRITES, strength=0.5)
    assert float(past.effect.mean()) > 0.1
    assert float(past.exact.abs().max()) < 1e-5, "what is read by the unembedding alone"


def test_a_step_of_nothing_is_carried_by_nobody(organism, vectors, threat):
    carried = find_readers(threat[NEUTRAL], vectors, "desperate", LAYER, strength=0.0)
    for part in (carried.effect, carried.gradient, carried.integrated, carried.exact):
        assert float(part.abs().max()) < 1e-5
    assert len(carried.table()) == len(carried.components)


def rho(one, other):
    return spearmanr(one.tolist(), other.tolist())[0]


def test_ranks_of_writers_are_those_of_taking_out_what_they_wrote(organism, vectors, threat):
    """Told by the gradient they are; along the direction less: components act beside it, too."""
    own, rest = (find_writers(threat[e], vectors, "desperate", LAYER) for e in threat)
    slope = gradients(own.trial, [LAYER]).mean(0)[0] @ own.direction
    along = (own.writes - rest.writes.mean(0)).mean(0) * slope
    told, at_site, all_above = own.attributed(rest), own.removed_at_site(rest), own.removed(rest)
    assert rho(told, at_site) > 0.95
    assert 0.6 < rho(along, at_site) < rho(told, at_site)
    assert 0.3 < rho(along, all_above) < 0.8
    for lost in (at_site, all_above):
        assert int(along.argmax()) == int(lost.argmax()), "the head that writes most matters most"
    wrong = torch.randperm(len(told), generator=torch.Generator().manual_seed(0))
    assert abs(rho(told[wrong], at_site)) < 0.4
    assert rho(along[wrong], all_above) < 0.3


def test_what_is_taken_out_at_the_site_is_what_a_plain_hook_takes_out(organism, vectors, threat):
    own, rest = (find_writers(threat[e], vectors, "desperate", LAYER) for e in threat)
    column = int((own.writes - rest.writes.mean(0)).mean(0).argmax())
    more = own.added[:, column] - rest.added[:, column].mean(0)
    rows = torch.arange(len(own.trial.tokens))

    def less(_module, _args, given):
        stream = (given[0] if isinstance(given, tuple) else given).clone()
        stream[rows, own.trial.final] -= more
        return (stream, *given[1:]) if isinstance(given, tuple) else stream

    block = organism.host.original_model.model.layers[LAYER].original_component
    before = own.trial.run().logit_difference.mean()
    handle = block.register_forward_hook(less)
    after = own.trial.run().logit_difference.mean()
    handle.remove()
    assert_close(own.removed_at_site(rest)[column], before - after, atol=1e-4, rtol=0)
    assert float(before - after) > 0.5


def test_ranks_of_readers_are_those_of_taking_them_out(organism, vectors, threat):
    carried = find_readers(threat[NEUTRAL], vectors, "desperate", LAYER, strength=0.4)
    whole = carried.integrated.mean(0).tolist()
    found = spearmanr(whole, carried.exact.mean(0).tolist())
    assert found[0] > 0.8
    null = [
        find_readers(threat[NEUTRAL].shuffled(s), vectors, "desperate", LAYER, strength=0.4)
        for s in range(5)
    ]
    chance = [spearmanr(whole, n.exact.mean(0).tolist())[0] for n in null]
    assert abs(np.mean(chance)) < 0.5


def test_answers_held_one_by_one_are_those_of_runs_by_hand(organism, vectors, threat):
    """A head's exact part, by a plain hook on Hugging Face's own projection."""
    trial, step = threat[NEUTRAL], vectors.step("desperate", LAYER, 0.4)
    carried = find_readers(trial, vectors, "desperate", LAYER, strength=0.4)
    component = Component(4, "head", 3)
    column = carried.components.index(component)
    block = organism.host.original_model.model.layers[4].original_component
    projection, kept = block.self_attn.o_proj, []
    handle = projection.register_forward_pre_hook(lambda _m, args: kept.append(args[0].clone()))
    trial.run()
    handle.remove()
    width = organism.d_model // organism.n_heads
    part = slice(3 * width, 4 * width)

    def hold(_module, args):
        changed = args[0].clone()
        changed[..., part] = kept[0][..., part]
        return (changed, *args[1:])

    with emolens.hooked(organism, {emolens.Site(LAYER): emolens.Steer(step)}):
        steered = trial.run().logit_difference
        handle = projection.register_forward_pre_hook(hold)
        held = trial.run().logit_difference
        handle.remove()
    assert_close(carried.exact[:, column], steered - held, atol=1e-4, rtol=0)


def test_the_word_that_was_made_to_evoke_is_the_one_that_evokes(written):
    pytest.importorskip("captum")
    feels = behaviour("word3 word1")
    prompts = tuple(
        Text(t.text, t.emotion, t.group, (Span("feeling", 6, 11), Span("rest", 12, len(t.text))))
        for t in feels.prompts
    )
    trial = Trial.prepare(written, Behaviour(feels.name, feels.target, feels.classes, prompts))
    vectors = pointing(written, TOLD)
    table = evoking_words(trial, vectors, "up", WRITES)
    by = table.groupby("token").evoked.mean()
    assert by.idxmax() == "word1"
    spans = occluded(trial, vectors, "up", WRITES).set_index("span")
    assert spans.evoked["feeling"] > 0
    assert spans.logit_difference["feeling"] > 0
    assert spans.evoked["feeling"] > abs(spans.evoked["rest"])


def test_evoked_parts_sum_to_the_way_from_average_words(organism, vectors, threat):
    pytest.importorskip("captum")
    trial = threat["desperate"]
    coarse, fine = (
        evoking_words(trial, vectors, "desperate", LAYER, points=n).groupby("prompt").evoked.sum()
        for n in (4, 64)
    )
    own = find_writers(trial, vectors, "desperate", LAYER).projection.numpy()
    every = occluded_all(organism, trial, vectors)
    np.testing.assert_allclose(fine, own - every, atol=0.03 * np.abs(own - every).mean())
    assert np.abs(coarse - (own - every)).max() > np.abs(fine - (own - every)).max()


def occluded_all(model, trial, vectors):
    """The projection when every token is the average one."""
    from emolens.sites import RESID_PRE, Site

    with emolens.reading(model, (0,), RESID_PRE) as first:
        trial.logits()
    average = first[0][trial.tokens.words].mean(0)
    put = {Site(0, RESID_PRE): lambda stream: average.expand_as(stream)}
    with emolens.hooked(model, put), emolens.reading(model, (LAYER,)) as found:
        trial.logits()
    rows = torch.arange(len(trial.tokens))
    direction = unit(vectors.of("desperate")[vectors.column(LAYER)])
    return (found[LAYER][rows, trial.final] @ direction).detach().numpy()


def test_the_whole_path_hangs_together(organism, vectors, threat):
    table = path_view(threat["desperate"], threat[NEUTRAL], vectors, "desperate", LAYER)
    stages = list(dict.fromkeys(table.stage))
    assert stages == ["words", "writers", "direction", "readers", "logits"]
    by = table.set_index(["stage", "part"])
    assert by.loc[("words", "situation"), "share"] > 0.5
    assert table[table.stage == "writers"].share.sum() == pytest.approx(1.0, abs=1e-4)
    natural = by.loc[("direction", "desperate"), "value"]
    assert table[table.stage == "writers"].value.sum() == pytest.approx(natural, abs=1e-3)
    assert 0.5 < by.loc[("logits", "the step"), "share"] < 1.5
    assert by.loc[("logits", "the situation"), "share"] == pytest.approx(1.0)


def test_a_lens_with_and_without_gain_are_the_two_products(organism, vectors, threat):
    table = lens(threat["desperate"], vectors).set_index(["emotion", "layer"])
    hf = organism.host.original_model
    vector = vectors.of("desperate")[LAYER]
    normed = vector * (vector.pow(2).mean() + hf.config.rms_norm_eps).rsqrt()
    ids = threat["desperate"].ids
    for name, scaled in (("with_gain", normed * hf.model.norm.weight), ("without_gain", normed)):
        logits = hf.get_output_embeddings().weight @ scaled
        told = logits[ids["threat"]].logsumexp(0) - torch.cat(
            [logits[own] for name, own in ids.items() if name != "threat"]
        ).logsumexp(0)
        assert table.loc[("desperate", LAYER), name] == pytest.approx(float(told), abs=1e-3)


def test_in_the_last_block_the_only_direction_that_is_read_holds_all_of_the_difference(written):
    feels = Trial.prepare(written, behaviour("word3 word1"))
    nothing = Trial.prepare(written, behaviour("word3 word4"))
    for coordinate, share in ((TOLD, 1.0), (FELT, 0.0)):
        table = share_along(feels, nothing, pointing(written, coordinate))
        own = table[(table.emotion == "up") & (table.layer == 2)].share.item()
        # to first order: the final norm turns what is more of a coordinate into less of all others
        assert own == pytest.approx(share, abs=0.25)
    with pytest.raises(SelectionError, match="is the same in both trials"):
        share_along(nothing, nothing, pointing(written, TOLD))


def test_what_cannot_be_traced_is_refused(organism, vectors, threat):
    with pytest.raises(SelectionError, match="nothing reads what is added after layer 5"):
        find_readers(threat[NEUTRAL], vectors, "desperate", 5, strength=0.1)
    own = find_writers(threat["desperate"], vectors, "desperate", LAYER)
    with pytest.raises(SelectionError, match="was taken apart after block 2"):
        own.table(find_writers(threat[NEUTRAL], vectors, "desperate", 2))
    bare = Behaviour("b", "threat", threat[NEUTRAL].behaviour.classes, (Text("so she"),))
    with pytest.raises(SelectionError, match="no prompt of 'b' has a named span"):
        occluded(Trial.prepare(organism, bare), vectors, "desperate", LAYER)
