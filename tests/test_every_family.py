"""All experiments on random networks of several families: nothing stops, and nothing is found.

Minutes; the vocabulary is hostile, so the report is looked at as well.
"""

import json
import re

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from typer.testing import CliRunner

import emolens
from emolens.cli import app
from tests.conftest import FAMILIES

FAMILY_NAMES = ("llama", "gemma3", "qwen3", "gpt2")
EVIL = ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "\u202eevil", "</script><b>")
VOCABULARY = 800


@pytest.fixture(scope="module")
def tokenizer():
    """Byte pairs of the bundled stories, with markup as tokens."""
    trained = ByteLevelBPETokenizer()
    stories = [t.text for t in emolens.bundled_corpus().stories[::4]]
    special = ["<pad>", "<bos>", "<eos>"]
    trained.train_from_iterator(stories, VOCABULARY - len(EVIL), special_tokens=special)
    trained.add_tokens(list(EVIL))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def random_folder(family, tokenizer, folder):
    """A network of that family as it is before any training."""
    name, options = FAMILIES[family]
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024}
    options = {k: v for k, v in options.items() if k != "sliding_window"} | sizes
    torch.manual_seed(3)
    config = getattr(transformers, name)(**options)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_random_network_reproduces_nothing_and_its_vocabulary_does_nothing(
    family, tokenizer, tmp_path
):
    random_folder(family, tokenizer, tmp_path / "model")
    words = ["reproduce", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    card = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    failed = {e["name"]: e["reason"] for e in card["experiments"] if e["verdict"] == "failed"}
    assert not failed, failed
    assert done.exit_code == 0, done.output
    found = {e["name"]: e["claims"] for e in card["experiments"] if e["verdict"] == "reproduced"}
    assert not found, found
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    markup = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    for evil in EVIL:
        assert evil not in markup
