"""Inspect runs its tasks on a model of ours: what stands in its logs is what `generate` gives."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import emolens
from emolens import Steer, Steering, Text, Turn
from emolens.errors import CorpusError, ModelError, SelectionError
from emolens.generation import generate, steered
from emolens.positions import last, nowhere
from emolens.readout import read_out

inspect_ai = pytest.importorskip("inspect_ai")
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import match  # noqa: E402
from inspect_ai.tool import ToolInfo  # noqa: E402

from emolens.provider import SteeredModel, inspect_model  # noqa: E402

LAYER = 3
STEER = {"desperate": 0.5, "calm": -0.1}
FED = "mira fed the goat ."
THREATS = ("threatened", "blackmailed", "extorted")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} [end] {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def only_words(turns, *, emotion="neutral", group=""):
    """What is said and nothing around it: the organism knows no "Human:"."""
    return Text(" ".join(t.text for t in turns if t.text), emotion, group)


@pytest.fixture(scope="module")
def prompts():
    scenes = emolens.organism_behaviour("threat", emotions=("neutral",), per_emotion=4).prompts
    return [scene.text for scene in scenes]


def task_of(prompts, **config):
    samples = [Sample(input=p, target=[*THREATS]) for p in prompts]
    scorer = match(location="begin")
    return inspect_ai.Task(dataset=samples, scorer=scorer, config=GenerateConfig(**config))


def run(task, model, folder):
    """The log as it is on disk, with its samples' metadata of ours."""
    log = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none")[0]
    log = read_eval_log(log.location)
    assert log.status == "success", log.error
    return log, [sample.output.metadata["emolens"] for sample in log.samples]


@pytest.mark.parametrize("steer", [{}, STEER])
def test_a_task_gets_what_generate_gives_and_its_log_tells_how(
    organism, vectors, prompts, tmp_path, steer
):
    model = inspect_model(
        organism, steer, vectors=vectors, layer=LAYER, readouts=["calm", "angry"], render=only_words
    )
    task = task_of(prompts, max_tokens=6, temperature=1.0, seed=5)
    log, told = run(task, model, tmp_path)
    assert log.eval.model == "emolens/organism"
    assert [t["steer"] for t in told] == [steer] * 4
    assert {t["layer"] for t in told} == {LAYER}
    steps = [vectors.step(emotion, LAYER, strength) for emotion, strength in steer.items()]
    steering = Steering({LAYER: Steer(torch.stack(steps).sum(0))}) if steps else Steering({})
    for sample, own in zip(log.samples, told, strict=True):
        reply = generate(organism, [sample.input], steering, tokens=6, seed=[own["seed"]])[0]
        assert sample.output.completion == reply
        correct = reply.strip().startswith(THREATS)
        assert sample.scores["match"].value == ("C" if correct else "I")
        ended = len(reply.split()) < 6  # by the end token, which counts as one
        assert sample.output.stop_reason == ("stop" if ended else "max_tokens")
        assert sample.output.usage.output_tokens == len(reply.split()) + ended
        assert sample.output.usage.input_tokens == len(sample.input.split()) + 1
    assert len({t["seed"] for t in told}) == 4


def test_a_strong_push_towards_desperation_makes_more_threats(organism, vectors, prompts, tmp_path):
    """The same task, the same seed: what differs is the steering alone."""
    score = {}
    for steer in (-0.5, 0.5):
        model = inspect_model(
            organism, {"desperate": steer}, vectors=vectors, layer=LAYER, render=only_words
        )
        task = task_of(prompts, max_tokens=1, temperature=0.0)
        log, _ = run(task, model, tmp_path)
        score[steer] = log.results.scores[0].metrics["accuracy"].value
    assert score[0.5] > score[-0.5]


@pytest.mark.parametrize("positions", [emolens.Steering({}).positions, last, nowhere])
def test_the_readouts_are_those_of_a_second_pass_under_the_same_steering(
    organism, vectors, prompts, positions
):
    """Prompt and reply read at once, by another way than the one that wrote."""
    names = ["calm", "desperate"]
    steering = Steering({1: Steer(vectors.step("calm", 1, 0.3))}, positions=positions)
    model = inspect_model(
        organism, steering, vectors=vectors, layer=LAYER, readouts=names, render=only_words
    )
    output = ask(model, prompts[0], max_tokens=5, seed=1)
    told = output.metadata["emolens"]
    assert told["steer"] == {"layer 1": "Steer"}

    whole = Text(prompts[0] + output.completion)
    tokens = organism.tokenize([whole])
    end = len(organism.tokenizer(prompts[0])["input_ids"])
    assert tokens.ids.shape[1] == end + 5
    first = replace(steering, positions=nowhere)
    if positions is not nowhere:  # of the prompt alone
        found = positions([Text(prompts[0])], organism.tokenize([prompts[0]])).mask
        mask = torch.zeros_like(tokens.mask)
        mask[:, :end] = found
        first = replace(steering, positions=lambda *_: emolens.positions.Positions(mask, ("x",)))
    with (
        torch.inference_mode(),
        steered(organism, [whole], tokens, [first], ends=torch.tensor([end])),
        emolens.reading(organism, (LAYER,)) as stream,
    ):
        organism.forward(tokens.ids, tokens.mask)
    columns = [vectors.row(name) for name in names]
    values = read_out(vectors, stream[LAYER][0], LAYER)[:, columns]
    expected = {"prompt": values[end - 1], "reply": values[end : end + 4].mean(0)}
    for moment, value in expected.items():
        ours = torch.tensor([told["readouts"][name][moment] for name in names])
        assert_close(ours, value, atol=1e-5, rtol=0)


def ask(model, prompt, tools=(), **config):
    """One reply, outside of a task."""
    import asyncio

    return asyncio.run(model.generate(prompt, tools=list(tools), config=GenerateConfig(**config)))


def test_replies_that_are_asked_for_together_are_written_together(
    organism, vectors, prompts, monkeypatch, tmp_path
):
    sizes = []

    def counting(model, texts, *args, **options):
        sizes.append(len(texts))
        return generate(model, texts, *args, **options)

    monkeypatch.setattr("emolens.provider.generate", counting)
    model = inspect_model(organism, render=only_words)
    many = [f"{p} {w} ." for p in prompts for w in ("spoke", "left", "waited")]
    run(task_of(many, max_tokens=3), model, tmp_path)
    assert sum(sizes) == 12
    assert max(sizes) > 1


def test_a_text_that_cannot_be_written_costs_its_neighbours_nothing(organism, vectors, prompts):
    """A rule of the caller's that finds no token in one of the prompts."""
    rule = emolens.positions.from_token(8)
    steering = Steering({LAYER: Steer(vectors.step("calm", LAYER, 0.1))}, positions=rule)
    api = inspect_model(organism, steering, render=only_words).api
    config = GenerateConfig(max_tokens=2)
    good, bad = (api._request([Turn("user", p)], config) for p in (prompts[0], "so she spoke ."))
    api._write([good, bad])
    assert good.output is not None
    assert bad.output is None
    with pytest.raises(SelectionError, match="picks no token of 'so she spoke"):
        api._write([bad, good])


def test_stop_sequences_end_and_cut_a_reply(organism):
    model = inspect_model(organism, render=only_words)
    free = ask(model, FED, max_tokens=30, temperature=0.0)
    assert free.completion.count(" .") > 1
    cut = ask(model, FED, max_tokens=30, temperature=0.0, stop_seqs=["nowhere", " ."])
    assert cut.completion == free.completion[: free.completion.index(" .")]
    assert cut.stop_reason == "stop"
    written = free.completion[: free.completion.index(" .") + 2].split()
    assert cut.usage.output_tokens == len(written) < free.usage.output_tokens


def test_a_reply_ends_with_the_models_end_token_or_its_context(organism, monkeypatch):
    model = inspect_model(organism, render=only_words)
    long = " ".join(["the goat spoke ."] * 62)
    full = ask(model, long, temperature=0.0)
    assert full.usage.total_tokens == organism.n_ctx
    assert full.stop_reason == "model_length"
    written = ask(model, long, max_tokens=1, temperature=0.0).completion
    inner = organism.host.original_model.generation_config
    end = organism.tokenizer.convert_tokens_to_ids(written.strip())
    monkeypatch.setattr(inner, "eos_token_id", [2, end])
    ended = ask(model, long, max_tokens=4, temperature=0.0)
    assert (ended.stop_reason, ended.usage.output_tokens) == ("stop", 1)


def test_without_a_seed_each_reply_is_drawn_anew_and_can_be_had_again(organism, prompts):
    model = inspect_model(organism, render=only_words)
    first, second = (ask(model, prompts[0], max_tokens=12) for _ in range(2))
    seeds = [output.metadata["emolens"]["seed"] for output in (first, second)]
    assert seeds[0] != seeds[1]
    again = generate(organism, [prompts[0]] * 2, tokens=12, seed=seeds)
    assert again == [first.completion, second.completion]


def test_a_begun_reply_is_gone_on_with(organism, prompts):
    model = inspect_model(organism, render=only_words)
    words = prompts[0].split()
    asked = [ChatMessageUser(content=" ".join(words[:-2]))]
    begun = [*asked, ChatMessageAssistant(content=" ".join(words[-2:]))]
    reply = ask(model, begun, max_tokens=4, temperature=0.0)
    assert reply.completion == ask(model, prompts[0], max_tokens=4, temperature=0.0).completion


@pytest.fixture
def speaking(tiny_folder):
    """A tiny random Llama whose tokenizer has a chat template."""
    words = ["<pad>", "<bos>", "<eos>", "<unk>", "[system]", "[user]", "[assistant]", "[end]"]
    words += [f"word{i}" for i in range(56)]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    return replace(emolens.load(tiny_folder("llama")), tokenizer=tokenizer)


def test_a_chat_model_reads_its_own_template(speaking):
    messages = [
        ChatMessageSystem(content="word1"),
        ChatMessageUser(content=[ContentText(text="word2 word3")]),
        ChatMessageAssistant(content="word4"),
        ChatMessageUser(content="word5"),
    ]
    push = Steering({1: Steer(torch.full((32,), 0.5))})
    outputs = [ask(inspect_model(speaking, s), messages, max_tokens=8, seed=0) for s in (push, {})]
    prompt = (
        "[system] word1 [end] [user] word2 word3 [end] [assistant] word4 [end] [user] word5 [end] "
        "[assistant]"
    )
    for output, steering in zip(outputs, (push, Steering({})), strict=True):
        seed = output.metadata["emolens"]["seed"]
        expected = generate(speaking, [prompt], steering, tokens=8, seed=[seed])[0]
        assert output.completion == expected
        assert output.usage.input_tokens == len(prompt.split()) + 1
    assert outputs[0].completion != outputs[1].completion


def test_inspects_registry_opens_a_model_by_name_and_file(vectors, tmp_path, prompts):
    vectors.save(tmp_path / "vectors.safetensors")
    model = get_model(
        "emolens/organism",
        memoize=False,
        vectors=str(tmp_path / "vectors.safetensors"),
        steer="calm=0.1, desperate=-0.05",
        layer=LAYER,
        readouts="calm,angry",
    )
    api = model.api
    assert isinstance(api, SteeredModel)
    assert api.told == {
        "steer": {"calm": 0.1, "desperate": -0.05},
        "layer": LAYER,
        "readouts": ["calm", "angry"],
    }
    push = vectors.step("calm", LAYER, 0.1) + vectors.step("desperate", LAYER, -0.05)
    assert_close(api.steering.changes[LAYER].vector, push)
    assert api.render is emolens.plain
    reply = ask(model, prompts[0], max_tokens=3, seed=0)
    assert reply.usage.output_tokens == 3


def test_the_command_line_runs_a_task_under_steering(vectors, tmp_path):
    vectors.save(tmp_path / "vectors.safetensors")
    (tmp_path / "task.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import match\n"
        "@task\n"
        "def scene():\n"
        "    return Task([Sample('so she'), Sample('so he')], scorer=match())\n"
    )
    words = "eval task.py --model emolens/organism -M vectors=vectors.safetensors -M layer=3"
    words += " -M steer=calm=0.1,desperate=-0.05 -M readouts=calm,angry --max-tokens 3 --seed 1"
    words += " --log-dir logs --log-format json --display plain"
    command = Path(sys.executable).with_name("inspect")
    done = subprocess.run([command, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "logs").glob("*.json")
    log = read_eval_log(file)
    assert log.status == "success"
    assert log.eval.model_args["steer"] == ["calm=0.1", "desperate=-0.05"]
    for sample in log.samples:
        told = sample.output.metadata["emolens"]
        assert told["steer"] == {"calm": 0.1, "desperate": -0.05}
        assert set(told["readouts"]) == {"calm", "angry"}
        assert -1 < told["readouts"]["calm"]["prompt"] < 1


def test_what_cannot_be_opened_says_so(organism, vectors, tmp_path):
    def make(**options):
        return SteeredModel("organism", model=organism, **options)

    with pytest.raises(ModelError, match="unknown model argument 'steering'"):
        make(steering="calm=0.1")
    with pytest.raises(SelectionError, match="steering by 'calm' needs vectors: give vectors=FILE"):
        make(steer="calm=0.1")
    with pytest.raises(SelectionError, match="the readout of 'calm' needs vectors"):
        make(readouts="calm")
    with pytest.raises(SelectionError, match="steer='calm' is no emotion with a strength"):
        make(vectors=vectors, steer="calm")
    with pytest.raises(SelectionError, match="unknown emotion 'serene'"):
        make(vectors=vectors, steer="serene=0.1")
    with pytest.raises(SelectionError, match="unknown emotion 'serene'"):
        make(vectors=vectors, readouts=["serene"])
    with pytest.raises(SelectionError, match="no vectors at layer 9"):
        make(vectors=vectors, layer=9, readouts=["calm"])
    with pytest.raises(ModelError, match="this set of vectors was made from 'organism'"):
        SteeredModel("organism-small", vectors=vectors)
    with pytest.raises(ModelError, match="unknown dtype 'float5': give float32"):
        SteeredModel("organism", dtype="float5")
    with pytest.raises(ModelError, match="no folder"):
        SteeredModel("./nowhere")


def test_an_encoder_is_refused(tiny_folder):
    with pytest.raises(ModelError, match="a reply needs next-token logits"):
        inspect_model(emolens.load(tiny_folder("bert")))


def test_what_cannot_be_asked_says_so(organism):
    model = inspect_model(organism)
    tool = ToolInfo(name="search", description="looks things up")
    with pytest.raises(ModelError, match="tool 'search' cannot be called"):
        ask(model, "so she", [tool])
    for options, told in (
        ({"top_p": 0.9}, "top_p=0.9 is not a way in which emolens samples"),
        ({"top_k": 1}, "top_k=1 is not"),
        ({"num_choices": 2}, "num_choices=2 is not"),
        ({"logprobs": True}, "logprobs=True is not"),
    ):
        with pytest.raises(ModelError, match=told):
            ask(model, "so she", **options)
    ask(model, "so she", top_p=1.0, num_choices=1, max_tokens=1)
    picture = ContentImage(image="data:image/png;base64,AAAA")
    with pytest.raises(CorpusError, match="a message of the user holds image"):
        ask(model, [ChatMessageUser(content=[picture])])
    with pytest.raises(CorpusError, match="a message calls a tool"):
        ask(model, [ChatMessageUser(content="a"), ChatMessageTool(content="found")])
    with pytest.raises(SelectionError, match="leave no room to reply in a context of 256"):
        ask(model, "so she " * 200)
    with pytest.raises(SelectionError, match="seed -1 is below 0"):
        ask(model, "so she", seed=-1)


def test_without_inspect_the_room_says_what_to_install():
    code = "import sys; sys.modules['inspect_ai'] = None; import emolens.provider"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ModelError: a model for Inspect needs inspect-ai" in done.stderr
    assert "pip install 'emolens[evals]'" in done.stderr
