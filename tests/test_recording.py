"""Recording: one pass for all rules, no more work than needed, and nothing lost on the way."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens import positions
from emolens.errors import ArtefactError, SelectionError
from emolens.model import HookedModel

RULES = {"story": positions.story, "last": positions.last, "all": positions.everything}


@pytest.fixture(scope="module")
def stories():
    return emolens.organism_stories(per_emotion=2)


def test_rules_read_in_one_pass_are_as_if_each_were_read_alone(organism, stories):
    together = emolens.record_at(organism, stories, RULES)
    for name, rule in RULES.items():
        alone = emolens.record(organism, stories, positions=rule)
        assert_close(together[name].pooled, alone.pooled, atol=1e-5, rtol=1e-5)
        assert_close(together[name].residual_norm, alone.residual_norm)
        assert together[name].provenance == alone.provenance


def test_means_are_those_of_float64(organism, stories):
    """Of the same residuals; float32 sums of up to 60 tokens are off by a few in 1e7."""
    found = emolens.record(organism, stories, layers=[4], positions=positions.everything)
    tokens = organism.tokenize(stories)
    with torch.inference_mode(), emolens.reading(organism, (4,)) as stream:
        organism.forward(tokens.ids, tokens.mask)
    wide, mask = stream[4].double(), tokens.words.double()
    mean = torch.einsum("rtd,rt->rd", wide, mask) / mask.sum(1, keepdim=True)
    assert_close(found.at(4).double(), mean, atol=1e-5, rtol=1e-5)
    norm = (wide.norm(dim=-1) * mask).sum() / mask.sum()
    assert_close(found.residual_norm.double()[0], norm, atol=0, rtol=1e-5)


def test_a_hook_inside_a_block_is_not_passed_by(organism, stories):
    """Without its wrappers a block would run as if there were none."""
    clean = emolens.record(organism, stories, layers=[2])
    silent = {emolens.Site(1, "z"): torch.zeros_like}
    with emolens.hooked(organism, silent):
        changed = emolens.record(organism, stories, layers=[2])
    assert (changed.pooled - clean.pooled).abs().max() > 0.1
    again = emolens.record(organism, stories, layers=[2])
    assert torch.equal(again.pooled, clean.pooled)


def test_a_plain_hook_of_torch_is_not_passed_by(stories):
    model = emolens.load("organism-small")
    clean = emolens.record(model, stories, layers=[2])
    attention = model.host.original_model.model.layers[1].self_attn
    handle = attention.register_forward_hook(lambda _m, _args, out: (0 * out[0], *out[1:]))
    changed = emolens.record(model, stories, layers=[2])
    handle.remove()
    assert (changed.pooled - clean.pooled).abs().max() > 0.1


def test_the_kind_of_attention_is_left_as_it_was(stories):
    model = emolens.load("organism-small")
    inner = model.host.original_model
    for kind in ("eager", "sdpa"):
        inner.set_attn_implementation(kind)
        with model.bare():
            assert inner.config._attn_implementation == "sdpa"
            with model.bare():
                assert inner.config._attn_implementation == "sdpa"
            assert inner.config._attn_implementation == "sdpa"
        assert inner.config._attn_implementation == kind


def test_a_block_that_is_another_without_its_wrappers_keeps_them(stories):
    model = emolens.load("organism-small")
    attention, tokens = model.host.blocks[1].attn, model.tokenize(stories[:3])
    own = attention.forward
    attention.__dict__["forward"] = lambda *args, **rest: (0.5 * own(*args, **rest)[0], None)
    with torch.inference_mode(), emolens.reading(model, (3,)) as stream:
        model.forward(tokens.ids, tokens.mask)
    found = emolens.record(model, stories[:3], positions=positions.last)
    last = stream[3][range(3), tokens.mask.sum(1) - 1]
    assert_close(found.at(3), last, atol=1e-5, rtol=1e-5)


def test_blocks_have_their_wrappers_back_after_an_error(organism):
    with pytest.raises(KeyboardInterrupt), organism.bare():
        raise KeyboardInterrupt
    with emolens.hooked(organism, {emolens.Site(0, "z"): lambda heads: heads}):
        organism.forward(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))


def test_nothing_is_run_beyond_the_last_layer(organism, stories):
    """Neither later blocks nor the unembedding."""
    network = organism.host.original_model
    ran = []
    watched = [(f"block {i}", block) for i, block in enumerate(network.model.layers)]
    handles = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, part in [*watched, ("unembedding", network.lm_head)]
    ]
    organism.fingerprint  # noqa: B018 (is read once, from all layers)
    ran.clear()
    emolens.record(organism, stories, layers=[1, 3])
    emolens.record(organism, stories)
    for handle in handles:
        handle.remove()
    assert "block 3" not in ran[:4]  # its pass ends at the hook, before the block is through
    assert set(ran) == {f"block {i}" for i in range(5)}


def test_no_keys_and_values_are_kept(organism, stories, monkeypatch):
    """They serve the tokens that follow in generation, and here none does."""
    from transformers import DynamicCache

    kept, update = [], DynamicCache.update

    def watched(self, *words, **more):
        kept.append(words)
        return update(self, *words, **more)

    monkeypatch.setattr(DynamicCache, "update", watched)
    emolens.record(organism, stories)
    assert not kept


# --- memory ----------------------------------------------------------------------------------


def tight(monkeypatch, most):
    """Let every pass over more than `most` tokens fail as one without memory does."""
    forward, passes = HookedModel.forward, []

    def limited(self, ids, mask):
        passes.append(ids.numel())
        if ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, ids, mask)

    monkeypatch.setattr(HookedModel, "forward", limited)
    return passes


def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_after_it(
    organism, stories, monkeypatch, capsys
):
    whole = emolens.record(organism, stories, batch_tokens=1000)
    passes = tight(monkeypatch, 300)
    halved = emolens.record(organism, stories, batch_tokens=1000)
    assert_close(halved.pooled, whole.pooled, atol=1e-5, rtol=1e-6)
    assert "out of memory: batches now of at most" in capsys.readouterr().err
    assert sum(size > 300 for size in passes) == 2  # 1000, 500; then 250 at once


def test_a_text_that_does_not_fit_at_all_is_named(organism, stories, monkeypatch):
    tight(monkeypatch, 10)
    with pytest.raises(SelectionError, match=r"does not suffice for one text of .* tokens: cut it"):
        emolens.record(organism, stories)


def test_other_errors_of_a_pass_are_not_taken_for_lack_of_memory(organism, stories, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(HookedModel, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        emolens.record(organism, stories)


# --- stopped and gone on with ----------------------------------------------------------------


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_stopped_recording_goes_on_to_the_same_bytes(organism, stories, tmp_path, monkeypatch):
    expected = emolens.record(organism, stories, batch_tokens=300)
    forward, passes = HookedModel.forward, []

    def failing(self, ids, mask):
        passes.append(len(ids))
        if len(passes) == 4:
            raise Killed
        return forward(self, ids, mask)

    monkeypatch.setattr(HookedModel, "forward", failing)
    with pytest.raises(Killed):
        emolens.record(organism, stories, batch_tokens=300, folder=tmp_path)
    # the batches stay those of the first start, whatever is asked for later
    found = emolens.record(organism, stories, batch_tokens=5000, folder=tmp_path)
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.residual_norm, expected.residual_norm)
    assert sum(passes) - passes[3] == len(stories)  # no batch was read twice
    count = len(passes)
    again = emolens.record(organism, stories, folder=tmp_path)
    assert len(passes) == count
    assert torch.equal(again.pooled, expected.pooled)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"layers": [3]}, "layers"),
        ({"positions": positions.last}, "positions"),
        ({"texts": emolens.organism_stories(per_emotion=2, seed=5)}, "texts"),
        ({"model": "organism-small"}, "model"),
    ],
)
def test_a_folder_of_another_recording_is_refused(organism, stories, tmp_path, change, name):
    asked = {"layers": [2], "positions": positions.story}
    emolens.record(organism, stories, folder=tmp_path, **asked)
    model = emolens.load(change.pop("model")) if "model" in change else organism
    texts = change.pop("texts", stories)
    with pytest.raises(ArtefactError, match=rf"differs in {name}: choose another folder"):
        emolens.record(model, texts, folder=tmp_path, **(asked | change))


def test_a_damaged_plan_is_named(organism, stories, tmp_path):
    (tmp_path / "plan.json").write_text('{"identity": ')
    with pytest.raises(ArtefactError, match=r"plan.json is not readable .* choose another"):
        emolens.record(organism, stories, folder=tmp_path)


def test_a_result_that_is_gone_is_not_read_as_zeros(organism, stories, tmp_path):
    emolens.record(organism, stories, layers=[1], folder=tmp_path)
    (tmp_path / "pooled.f32").write_bytes((tmp_path / "pooled.f32").read_bytes()[:-4])
    with pytest.raises(ArtefactError, match=r"pooled.f32 is missing or cut short"):
        emolens.record(organism, stories, layers=[1], folder=tmp_path)
    (tmp_path / "pooled.f32").unlink()
    with pytest.raises(ArtefactError, match=r"pooled.f32 is missing or cut short"):
        emolens.record(organism, stories, layers=[1], folder=tmp_path)


def test_a_layer_named_twice_is_refused(organism, stories):
    with pytest.raises(SelectionError, match=r"layers \[3, 3\] name one twice"):
        emolens.record(organism, stories, layers=[3, 3])


SCRIPT = """
import sys, emolens, emolens.store
texts = emolens.organism_stories(per_emotion=12)
model = emolens.load("organism")
emolens.store.SHARD_TOKENS = 400
print("reading", flush=True)
if sys.argv[1] == "record":
    emolens.record(model, texts, batch_tokens=400, folder=sys.argv[2])
else:
    emolens.store_tokens(model, texts, sys.argv[2])
"""


def start(job: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, job, str(folder)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdout.readline() == "reading\n"
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("job", "kills"),
    [
        ("record", 2),
        pytest.param("record", 20, marks=pytest.mark.slow),
        pytest.param("store", 20, marks=pytest.mark.slow),
    ],
)
def test_what_is_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, job, kills):
    whole, began = start(job, tmp_path / "whole"), time.monotonic()
    assert whole.wait() == 0
    took, draw = time.monotonic() - began, np.random.default_rng(0)
    landed = 0
    for _ in range(kills):
        run = start(job, tmp_path / "killed")
        time.sleep(float(draw.uniform(0, took / kills)))
        run.send_signal(signal.SIGKILL)
        landed += run.wait() == -signal.SIGKILL
    assert landed >= kills / 2
    assert start(job, tmp_path / "killed").wait() == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_more_texts_than_the_folder_holds_are_another_recording(organism, stories, tmp_path):
    emolens.record(organism, stories[:3], layers=[1], folder=tmp_path)
    with pytest.raises(ArtefactError, match="differs in texts: choose another folder"):
        emolens.record(organism, stories, layers=[1], folder=tmp_path)


def test_changing_a_result_in_place_leaves_its_folder_alone(organism, stories, tmp_path):
    found = emolens.record(organism, stories, layers=[1], folder=tmp_path)
    kept = found.pooled.clone()
    found.pooled.mul_(0)
    again = emolens.record(organism, stories, layers=[1], folder=tmp_path)
    assert torch.equal(again.pooled, kept)


def test_a_folder_that_is_a_file_or_has_no_room_is_one_line(
    organism, stories, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match=r"cannot record into .*file .*choose another folder"):
        emolens.record(organism, stories, folder=tmp_path / "file")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emolens.resume.os.posix_fallocate", full)
    with pytest.raises(ArtefactError, match=r"no room for .*pooled.f32 .*No space left"):
        emolens.record(organism, stories, folder=tmp_path / "new")


def test_steering_while_a_fresh_model_records_does_not_change_who_it_is(organism, stories):
    fresh = emolens.load("organism")
    step = emolens.Steer(torch.ones(organism.d_model))
    with emolens.hooked(fresh, {emolens.Site(0): step}):
        found = emolens.record(fresh, stories, layers=[1])
    assert found.provenance.fingerprint == organism.fingerprint


def test_a_plan_that_claims_billions_of_texts_does_not_fill_the_memory(tmp_path):
    from emolens.resume import PLAN, Ledger

    shape = (1, 2, 3, 4)
    Ledger.open(tmp_path, ((0, 1),), shape, {})
    text = (tmp_path / PLAN).read_text()
    (tmp_path / PLAN).write_text(text.replace("[1, 2, 3, 4]", f"[1, {10**18}, 3, 4]"))
    with pytest.raises(ArtefactError, match="not every text once"):
        Ledger.open(tmp_path, ((0, 1),), shape, {})
