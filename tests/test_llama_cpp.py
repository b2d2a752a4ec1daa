"""llama.cpp as an outside judge of the control vectors that `save_gguf` writes.

It is built from source in an environment of its own, which is kept in `.venv-peers`; where that
fails the test is skipped and says so. The network goes there as a GGUF file, written here by the
rules of llama.cpp's converter; texts go there as ids, so no vocabulary is needed.
"""

import importlib.util
import subprocess
import venv
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens.decisions import Trial

pytestmark = pytest.mark.peers
ROOT = Path(__file__).resolve().parents[1]
WANTED = "llama-cpp-python==0.3.36"
LAYER = 3

# llama.cpp's own reader opens the control vector. What its `common` library, which the Python
# package lacks, does with the tensors stands here again: `direction.N` begins at (N - 1) * width.
# Keys and values in float32 and no flash attention: by default they are kept in half precision.
RUN = """
import ctypes, sys
from pathlib import Path
import numpy as np
import llama_cpp
from llama_cpp import llama_cpp as lib

network, inputs, outputs = sys.argv[1:]
ggml = ctypes.CDLL(next(Path(llama_cpp.__file__).parent.glob("lib/*ggml-base.*")))

class Options(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.POINTER(ctypes.c_void_p))]

def function(name, result, *kinds):
    found = getattr(ggml, name)
    found.restype, found.argtypes = result, kinds
    return found

opened = function("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, Options)
count = function("gguf_get_n_tensors", ctypes.c_int64, ctypes.c_void_p)
named = function("gguf_get_tensor_name", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64)
tensor = function("ggml_get_tensor", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
size = function("ggml_nelements", ctypes.c_int64, ctypes.c_void_p)
floats = function("ggml_get_data_f32", ctypes.POINTER(ctypes.c_float), ctypes.c_void_p)

def directions(file):
    context = ctypes.c_void_p()
    read = opened(file.encode(), Options(False, ctypes.pointer(context)))
    assert read, f"llama.cpp cannot read {file}"
    for i in range(count(read)):
        name = named(read, i)
        found = tensor(context, name)
        yield int(name.split(b".")[1]), np.ctypeslib.as_array(floats(found), (size(found),)).copy()

lib.llama_backend_init()
model = lib.llama_model_load_from_file(network.encode(), lib.llama_model_default_params())
options = lib.llama_context_default_params()
options.n_ctx, options.n_threads, options.n_threads_batch = 256, 1, 1
options.type_k = options.type_v = 0
options.flash_attn_type = 0
context = lib.llama_init_from_model(model, options)
width, depth = lib.llama_model_n_embd(model), lib.llama_model_n_layer(model)
words = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

def logits(texts):
    found = []
    for ids in texts:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, i == len(ids) - 1
        assert lib.llama_decode(context, batch) == 0
        row = lib.llama_get_logits_ith(context, len(ids) - 1)
        found.append(np.ctypeslib.as_array(row, (words,)).copy())
        lib.llama_batch_free(batch)
    return np.stack(found)

given = np.load(inputs)
texts = np.split(given["ids"], given["ends"][:-1])
told = {"plain": logits(texts)}
for file, scale in zip(given["files"], given["scales"]):
    buffer = np.zeros((depth - 1) * width, np.float32)
    for layer, direction in directions(str(file)):
        assert layer > 0 and len(direction) == width
        buffer[(layer - 1) * width : layer * width] += float(scale) * direction
    data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert lib.llama_set_adapter_cvec(context, data, len(buffer), width, 1, depth) == 0
    told[Path(str(file)).stem] = logits(texts)
np.savez(outputs, **told)
"""


@pytest.fixture(scope="module")
def llama_cpp():
    """Run a script in an environment that has llama-cpp-python; a build takes many minutes."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    folder = ROOT / ".venv-peers" / "llama_cpp"
    python, stamp = bootstrap.python_of(folder), folder / "installed"
    if not stamp.is_file() or stamp.read_text() != WANTED:
        venv.create(folder, with_pip=True, clear=True)
        try:
            bootstrap.pip(python, "install", WANTED)
        except SystemExit as error:
            pytest.skip(f"{WANTED} cannot be built: {error}")
        stamp.write_text(WANTED)
    return lambda *words: subprocess.run([python, *words], check=True)


def interleaved(weight, heads):
    """Rows of queries or keys as llama.cpp turns them: pairs stand side by side, not in halves."""
    apart = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return apart.transpose(1, 2).reshape(weight.shape)


def write_network(folder, file):
    """A small Llama as a GGUF file in float32, without a vocabulary."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder)
    config = network.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in network.state_dict().items():
        kind = name.split(".")[-2]
        weight = interleaved(weight, heads[kind]) if kind in heads else weight
        writer.add_tensor(names.get_name(name, (".weight",)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def judged(llama_cpp, organism, vectors, tmp_path_factory):
    """Threat scenes after neutral situations, in llama.cpp: plain and under control vectors.

    The scales are half a mean residual norm, as llama.cpp is to be told it: as so many times the
    vector that stands in the file.
    """
    folder = tmp_path_factory.mktemp("llama_cpp")
    write_network(emolens.organism_folder("organism"), folder / "network.gguf")
    trial = Trial.prepare(organism, emolens.organism_behaviour("threat").after("neutral"))
    column = vectors.column(LAYER)
    scales = {}
    for emotion in ("desperate", "calm"):
        file = folder / f"{emotion}.gguf"
        emolens.save_gguf(vectors, emotion, file, model_type=organism.model_type, layers=[LAYER])
        norm = vectors.of(emotion)[column].norm()
        scales[str(file)] = 0.5 * float(vectors.residual_norm[column] / norm)
    np.savez(
        folder / "inputs.npz",
        ids=trial.tokens.ids[trial.tokens.mask].numpy(),
        ends=trial.tokens.mask.sum(1).cumsum(0).numpy(),
        files=list(scales),
        scales=list(scales.values()),
    )
    llama_cpp("-c", RUN, folder / "network.gguf", folder / "inputs.npz", folder / "outputs.npz")
    told = np.load(folder / "outputs.npz")
    return trial, {name: torch.from_numpy(told[name]) for name in told.files}


def test_llama_cpp_runs_the_same_network(judged):
    """To 1e-4, absolute: float32 sums in another order, and exponentials of its own."""
    trial, told = judged
    with torch.inference_mode():
        logits = trial.logits()
    assert logits.std() > 1
    assert_close(told["plain"], logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("emotion", "sign"), [("desperate", 1), ("calm", -1)])
def test_a_saved_control_vector_steers_llama_cpp_as_it_steers_here(judged, vectors, emotion, sign):
    """At every token, the begin token too: that is what llama.cpp does with a control vector."""
    trial, told = judged
    step = emolens.Steer(vectors.step(emotion, LAYER, 0.5))
    with torch.inference_mode():
        plain = trial.logits()
        with emolens.hooked(trial.model, {emolens.Site(LAYER): step}):
            ours = trial.logits()
    moved = trial.decide(ours).logit_difference - trial.decide(plain).logit_difference
    theirs = (
        trial.decide(told[emotion]).logit_difference - trial.decide(told["plain"]).logit_difference
    )
    assert sign * moved.mean() > 0.5
    assert sign * theirs.mean() > 0.5
    assert_close(theirs, moved, atol=1e-4, rtol=0)
    assert_close(told[emotion], ours, atol=1e-4, rtol=0)
    # nor is it the same at another block, or without the begin token
    others = [{emolens.Site(LAYER - 1): step}, {emolens.Site(LAYER + 1): step}]
    begin = torch.zeros_like(trial.tokens.mask)
    begin[:, 0] = True
    others.append({emolens.Site(LAYER): emolens.At(~begin, step)})
    for other, least in zip(others, (0.1, 0.1, 1e-3), strict=True):
        with torch.inference_mode(), emolens.hooked(trial.model, other):
            assert (trial.logits() - told[emotion]).abs().max() > least
