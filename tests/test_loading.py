"""Where a model goes when it is opened, and in which precision; what cannot be opened."""

import sys

import pytest
import torch
from conftest import word_tokenizer
from torch.testing import assert_close

import emolens
from emolens.errors import ModelError
from emolens.positions import everything

pytestmark = pytest.mark.contract
TEXTS = [emolens.Text("word1 word2 word3"), emolens.Text("word9")]


@pytest.fixture
def folder(tiny_folder):
    return tiny_folder("llama")


def pooled(model):
    return emolens.record(model, TEXTS, positions=everything).pooled


def test_half_precision_is_what_it_says(folder):
    model = emolens.load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.host.parameters()} == {torch.bfloat16}
    assert model.dtype == "bfloat16"
    found, exact = pooled(model), pooled(emolens.load(folder))
    assert found.dtype == torch.float32
    assert_close(found, exact, atol=0.05, rtol=0)  # bfloat16 keeps 8 bits of numbers up to 2
    assert (found - exact).abs().max() > 1e-4


@pytest.mark.parametrize(
    "where",
    [
        {"device": "cpu"},
        {"device_map": "cpu"},
        {"device_map": "auto"},
        {"device_map": {"": "cpu"}},
        {"device_map": {"model": "cpu", "lm_head": "cpu"}},
    ],
    ids=str,
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="'auto' would take the GPU")
def test_a_model_on_the_cpu_reads_the_same_however_it_got_there(folder, where, capsys):
    model = emolens.load(folder, **where)
    assert model.device == torch.device("cpu")
    assert torch.device(model.host.cfg.device) == model.device
    assert_close(pooled(model), pooled(emolens.load(folder)), atol=0, rtol=0)
    assert "Moving" not in capsys.readouterr().out


def test_the_host_knows_that_its_weights_are_on_the_cpu_beside_a_gpu(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch.device(emolens.load(folder).host.cfg.device) == torch.device("cpu")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device 'cpu' and device_map 'auto' both say"),
        ({"device": "tpu9"}, "cannot be loaded .*tpu9.*check its files, dtype, device"),
        ({"device_map": "sideways"}, "cannot be loaded .*sideways"),
        ({"device_map": {"model": "disk", "lm_head": "cpu"}}, "does not fit into the devices"),
    ],
    ids=str,
)
def test_a_place_that_is_none_is_one_line(folder, where, said):
    with pytest.raises(ModelError, match=said) as refused:
        emolens.load(folder, **where)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_one_line(folder):
    with pytest.raises(ModelError, match=r"cannot be loaded .*check its files, dtype, device"):
        emolens.load(folder, device="cuda")


def test_a_device_map_needs_accelerate(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError, match="device_map needs accelerate: pip install accelerate"):
        emolens.load(folder, device_map="auto")


def test_an_architecture_that_transformer_lens_lacks_is_named(tmp_path):
    from transformers import CTRLConfig, CTRLLMHeadModel

    CTRLLMHeadModel(
        CTRLConfig(vocab_size=64, n_embd=32, n_layer=1, n_head=4, dff=32)
    ).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot wrap .* a CTRLLMHeadModel") as refused:
        emolens.load(tmp_path)
    assert len(str(refused.value)) < 300
