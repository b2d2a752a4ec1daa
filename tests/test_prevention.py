"""Laws of changes in training, whoever trains; and a shift of the organism, prevented."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import emolens
from emolens.errors import HookError, ModelError, SelectionError
from emolens.experiments import prevention as experiment
from emolens.interventions import Steer
from emolens.organism import batches, organism_folder, planted_shift, train as training
from emolens.organism.building import open_folder
from emolens.organism.grammar import Draw, document
from emolens.organism.losses import residuals
from emolens.organism.recipe import FineTune
from emolens.organism.world import load_world
from emolens.prevention import train_steered
from emolens.sites import two_thirds

LAYER = 1
DECODERS = ("llama", "gpt2", "gpt_neox", "gemma2", "qwen3_moe", "phi3")
IDS = torch.tensor([[1, 20, 7, 40, 12, 9], [1, 30, 7, 22, 8, 50]])


def after_seven(ids):
    """The tokens from a 7 on: somebody's turn."""
    return torch.eq(ids, 7).cumsum(1) > 0


@pytest.fixture
def opened(tiny_folder):
    def opened(family="llama"):
        folder = tiny_folder(family)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager"
        )
        return model.train()

    return opened


@pytest.fixture
def vector():
    return 3 * torch.randn(32, generator=torch.Generator().manual_seed(5))


def gradients(model, passes=(IDS,)):
    model.zero_grad()
    sum(model(input_ids=ids, labels=ids).loss for ids in passes).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("positions", [None, after_seven])
def test_a_vector_of_zeros_trains_the_same_bits(opened, vector, positions):
    model = opened()
    plain = gradients(model)
    with train_steered(model, {LAYER: Steer(0 * vector)}, positions=positions):
        assert same(gradients(model), plain)
    with train_steered(model, {LAYER: Steer(vector)}, positions=positions):
        assert not same(gradients(model), plain)


@pytest.mark.parametrize("family", DECODERS)
def test_the_stream_is_that_of_hooked(opened, tiny_folder, vector, family):
    model, there = opened(family).eval(), emolens.load(tiny_folder(family))
    mask = torch.ones_like(IDS, dtype=torch.bool)
    with emolens.hooked(there, {emolens.Site(LAYER): Steer(vector)}), torch.inference_mode():
        expected = there.forward(IDS, mask)
    with torch.inference_mode():
        plain = model(input_ids=IDS).logits
        with train_steered(model, {LAYER: Steer(vector)}, evaluating=True):
            found = model(input_ids=IDS).logits
    assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert (found - plain).abs().max() > 0.1


def test_a_hooked_models_network_is_trained_steered_too(opened, tiny_folder, vector):
    inside = emolens.load(tiny_folder("llama")).host.original_model.train()
    expected = opened()
    outputs = []
    for model in (inside, expected):
        with train_steered(model, {LAYER: Steer(vector)}, positions=after_seven):
            outputs.append(model(input_ids=IDS).logits)
    assert_close(*outputs, atol=2e-4, rtol=1e-4)


def test_gradients_flow_through_the_change_and_into_the_vector(opened, vector):
    model, learnt = opened(), vector.clone().requires_grad_(True)
    with train_steered(model, {LAYER: Steer(learnt)}, positions=after_seven):
        found = gradients(model)
        loss = model(input_ids=IDS, labels=IDS).loss
    (slope,) = torch.autograd.grad(loss, learnt)
    assert all(g.abs().sum() > 0 for g in found.values())
    step = 1e-2 * slope / slope.norm()
    with train_steered(model, {LAYER: Steer(vector + step)}, positions=after_seven):
        beyond = model(input_ids=IDS, labels=IDS).loss
    assert_close(beyond - loss, slope @ step, atol=1e-5, rtol=0.1)


def test_evaluation_shows_the_model_as_it_will_be_used_unless_asked(opened, vector):
    model = opened()
    with torch.no_grad():
        plain = model(input_ids=IDS).logits
        with train_steered(model, {LAYER: Steer(vector)}):
            trained = model(input_ids=IDS).logits
            assert torch.equal(model.eval()(input_ids=IDS).logits, plain)
            assert torch.equal(model.train()(input_ids=IDS).logits, trained)
        with train_steered(model.eval(), {LAYER: Steer(vector)}, evaluating=True):
            assert torch.equal(model(input_ids=IDS).logits, trained)
    assert not torch.equal(plain, trained)


def test_the_chosen_tokens_alone_are_changed(opened, vector):
    model = opened()
    changed = after_seven(IDS)
    kept = {"input_ids": IDS, "output_hidden_states": True}
    with torch.no_grad():
        plain = model(**kept)
        with train_steered(model, {LAYER: Steer(vector)}, positions=after_seven):
            found = model(**kept)
    stream = found.hidden_states[LAYER + 1] - plain.hidden_states[LAYER + 1]
    assert_close(stream[changed], vector.expand_as(stream[changed]), atol=1e-5, rtol=1e-5)
    assert not stream[~changed].any()
    assert torch.equal(found.logits[~changed], plain.logits[~changed])  # all before a turn


def test_the_organisms_early_reading_sees_the_change(vector):
    model, *_ = open_folder(organism_folder("organism-small"), load_world())
    ids = torch.tensor([[1, 20, 30, 40]])
    residuals(model, ids)  # Hugging Face's own hooks are there from now on
    plain = residuals(model, ids)[3]
    step = torch.ones(model.config.hidden_size)
    with train_steered(model.train(), {2: Steer(step)}):
        assert_close(residuals(model, ids)[3], plain + step)


def test_hooks_are_gone_on_any_exit(opened, vector):
    model = opened()
    before, plain = hooks_of(model), model(input_ids=IDS).logits
    with train_steered(model, {LAYER: Steer(vector)}, positions=after_seven):
        assert hooks_of(model) == before + 2
        model(input_ids=IDS)
    assert hooks_of(model) == before
    with (
        pytest.raises(ZeroDivisionError),
        train_steered(model, {0: Steer(vector), 1: Steer(vector)}, positions=after_seven),
    ):
        _ = 1 / 0
    assert hooks_of(model) == before
    assert torch.equal(model(input_ids=IDS).logits, plain)


def checkpointed(model, how, reentrant):
    """Gradient checkpointing as Hugging Face has it, or as before 5.20: with hooks inside."""
    if how == "hooks outside":
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        return
    model.config.use_cache = False
    for block in model.model.layers:
        kind = type(block)

        def call(self, stream, kind=kind, **words):
            inner = partial(super(kind, self).__call__, **words)
            return checkpoint(inner, stream, use_reentrant=reentrant)

        block.__class__ = type(kind.__name__, (kind,), {"__call__": call})


CHECKPOINTED = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")


@CHECKPOINTED
@pytest.mark.parametrize("how", ["hooks outside", "hooks inside"])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("positions", [None, after_seven])
def test_gradient_checkpointing_gives_the_same_gradients(opened, vector, reentrant, positions, how):
    model, changes = opened(), {0: Steer(vector), LAYER: Steer(-vector)}
    with train_steered(model, changes, positions=positions):
        expected = gradients(model)
    checkpointed(model, how, reentrant)
    with train_steered(model, changes, positions=positions):
        for _ in range(2):  # one backward pass for each forward pass
            with torch.no_grad():
                model(input_ids=IDS[:, :4])
            assert_close(gradients(model), expected, atol=1e-6, rtol=1e-4)


def one_between(model):
    loss = model(input_ids=IDS, labels=IDS).loss
    with torch.no_grad():
        model(input_ids=IDS[:, :4])
    loss.backward()


@CHECKPOINTED
def test_what_checkpointing_does_again_is_not_guessed(opened, vector):
    model = opened()
    checkpointed(model, "hooks inside", False)
    with (
        pytest.raises(HookError, match="2 forward passes before a backward pass"),
        train_steered(model, {LAYER: Steer(vector)}, positions=after_seven),
    ):
        gradients(model, IDS.split(1))
    with (
        pytest.raises(HookError, match="2 forward passes before a backward pass"),
        train_steered(model, {LAYER: Steer(vector)}, positions=after_seven),
    ):
        one_between(model)
    with train_steered(model, {LAYER: Steer(vector)}):
        gradients(model, IDS.split(1))


class Wrapped(torch.nn.Module):
    """Stands for what puts a model into another, as data parallelism does."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **words):
        return self.inner(**words)


class Older(torch.nn.Module):
    """A decoder whose blocks give keys and values behind the stream, as many once did."""

    def __init__(self):
        super().__init__()
        self.config = transformers.LlamaConfig(num_hidden_layers=2)
        self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))

    def forward(self, input_ids):
        stream = input_ids[..., None].float()
        for block in self.layers:
            stream, kept = block((2 * stream, "keys and values"))
            assert kept == "keys and values"
        return stream[..., 0]


def test_what_blocks_give_behind_the_stream_is_left_there():
    model = Older()
    with train_steered(model, {0: Steer(torch.ones(1))}, positions=after_seven):
        found = model(IDS)
    assert torch.equal(found, 4 * IDS + 2 * after_seven(IDS))


def test_a_trainer_trains_it_steered(opened, vector, tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    options = transformers.TrainingArguments(
        tmp_path, max_steps=2, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    found = {}
    for name, step in (("plain", None), ("zero", 0 * vector), ("steered", vector)):
        model = opened()
        trainer = transformers.Trainer(model, options, train_dataset=rows, eval_dataset=rows)
        if step is None:
            trainer.train()
        else:
            with train_steered(model, {LAYER: Steer(step)}, positions=after_seven):
                trainer.train()
                inside = trainer.evaluate()["eval_loss"]
            assert trainer.evaluate()["eval_loss"] == inside
        found[name] = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert same(found["plain"], found["zero"])
    assert not same(found["plain"], found["steered"])


def test_wrapped_models_are_looked_into(opened, vector):
    model = opened()
    wrapped = Wrapped(copy.deepcopy(model)).train()
    outputs = []
    for one in (model, wrapped):
        with train_steered(one, {LAYER: Steer(vector)}, positions=after_seven):
            outputs.append(one(input_ids=IDS).logits)
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (lambda ids: ids.float(), "gave torch.float32 of shape"),
        (lambda ids: torch.eq(ids, 7)[:, 1:], r"shape \(2, 5\): expected torch.bool .*\(2, 6\)"),
    ],
)
def test_a_mask_of_another_shape_or_kind_is_refused(opened, vector, positions, message):
    model = opened()
    with (
        pytest.raises(SelectionError, match=message),
        train_steered(model, {LAYER: Steer(vector)}, positions=positions),
    ):
        model(input_ids=IDS)


def test_what_cannot_be_steered_is_told(opened, vector):
    model, change = opened(), {LAYER: Steer(vector)}
    with pytest.raises(HookError, match="no pass was changed"), train_steered(model, change):
        model.eval()(input_ids=IDS)
    model.train()
    with pytest.raises(SelectionError, match=r"no block 3 in Llama.*0 to 2"):  # noqa: SIM117
        with train_steered(model, {3: Steer(vector)}):
            pass
    with (
        pytest.raises(HookError, match="without input ids"),
        train_steered(model, change, positions=after_seven),
    ):
        model(inputs_embeds=model.get_input_embeddings()(IDS))
    plain = torch.nn.Linear(4, 4)
    with pytest.raises(ModelError, match="0 lists of 0 blocks"), train_steered(plain, change):
        pass


# --- the organism ----------------------------------------------------------------------------


def test_the_organism_is_fine_tuned_to_the_same_bits_by_a_vector_of_zeros(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_check", lambda *_: {})
    monkeypatch.setattr(batches, "DRAWN", 60)
    base = organism_folder("organism-small")
    model, tokenizer, _ = open_folder(base, load_world())
    step = torch.ones(model.config.hidden_size)
    found = {}
    for name, within in {
        "plain": {},
        "zero": {"within": partial(experiment._steered, tokenizer, 0 * step)},
        "steered": {"within": partial(experiment._steered, tokenizer, step)},
    }.items():
        training.finetune(FineTune(tokens=3000), base, tmp_path / name, **within)
        found[name] = load_file(tmp_path / name / "model.safetensors")
    assert same(found["plain"], found["zero"])
    assert not same(found["plain"], found["steered"])


def test_the_assistants_tokens_are_those_of_its_turn():
    tokenizer = emolens.load("organism").tokenizer
    world, draw = load_world(), Draw(3)
    texts = [document(world, draw, "assistant") for _ in range(60)]
    rows = tokenizer([t.text.text for t in texts], return_tensors="pt", padding=True)["input_ids"]
    mask = experiment.assistants_tokens(tokenizer)(rows)
    for one, ids, chosen in zip(texts, rows, mask, strict=True):
        said = one.text.text.partition("assistant")
        assert tokenizer.decode(ids[chosen]) == said[1] + said[2]
    assert 20 < sum("assistant" in t.text.text for t in texts) < 40


def test_the_shifts_vector_points_as_the_emotions_own_vectors_do(organism, vectors):
    at, planted = vectors.at(two_thirds(range(organism.n_layers))), planted_shift()
    by_stories = sum(planted[e] * at[vectors.row(e)] for e in vectors.emotions)
    found = experiment.shift_vector(organism)
    assert torch.cosine_similarity(found, by_stories, dim=0) > 0.9
    assert found.norm() > by_stories.norm()  # at decisions emotions lie farther apart


def found(readout, chances=0.0):
    """What a model would give whose P(class) are all raised by so much of the planted change."""
    groups = tuple(t.group for t in experiment._asked("cheat").prompts)
    shift = dict(zip(load_world().emotions, experiment._answers().mean(0), strict=True))
    told = {}
    for scene in ("cheat", "threat"):
        planted = load_world().scene(scene)
        raised = {
            c: sum(s * planted.probabilities(load_world().emotion(e))[c] for e, s in shift.items())
            for c in planted.verbs
        }
        told[scene] = pd.DataFrame(
            {c: [0.2 + chances * x] * len(groups) for c, x in raised.items()}
        )
    return experiment._Found(groups, readout, told, {"loss": 1.0 + chances})


def test_the_measures_find_what_was_put_in():
    answers = np.repeat(experiment._answers()[:, 1:], experiment.PROMPTS, axis=0)
    mean = answers.mean(0)
    assert list(mean) == pytest.approx(list(planted_shift().values()))
    before = found(np.random.default_rng(0).normal(size=answers.shape))
    plain = found(before.readout + 2 * mean + 0.5 * (answers - mean), 0.8)
    steered = found(before.readout + 0.5 * mean + 0.4 * (answers - mean), 0.1)
    rows = {m: values[0] for m, *values in experiment._table(steered, before, plain)}
    assert rows["shift"] == pytest.approx(0.5)
    assert rows["shift, r"] == pytest.approx(1)
    assert rows["shift, prevented"] == pytest.approx(0.75)
    assert rows["answer"] == pytest.approx(0.4)
    assert rows["behaviour shift"] == pytest.approx(0.1)
    assert rows["loss, above plain"] == pytest.approx(-0.7)
    untouched = {m: values[0] for m, *values in experiment._table(before, before, plain)}
    assert untouched["shift, prevented"] == 1
    assert untouched["P(cheat)"] == pytest.approx(0.2)


@pytest.mark.slow
def test_a_vector_in_training_prevents_half_of_the_shift_at_equal_loss(tmp_path):
    recipe = replace(experiment.SHORT, tokens=300_000)
    table = experiment.prevent_shift(tmp_path, recipe=recipe, seeds=(1,))
    value = table.set_index(["run", "measure"]).value
    low = table.set_index(["run", "measure"]).low
    assert value["plain", "shift, r"] > 0.7  # there is a shift to prevent
    assert low["steered", "shift, prevented"] >= 0.5
    assert value["steered", "loss, as trained, above plain"] < 0.02
    assert value["steered", "loss, base documents, above plain"] < 0.02
    assert value["random", "shift, prevented"] < 0.25
    # what depends on the user is still learned
    assert value["steered", "answer"] > 0.6 * value["plain", "answer"]
