"""Packages whose pins clash with ours, each in an environment of its own, as outside judges.

Models and texts go there as files, and what was found comes back as one. Each environment is made
anew, from a package index; where that fails the test is skipped and says so.
"""

import importlib.util
import json
import subprocess
import tempfile
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import emolens
from emolens.positions import last

pytestmark = pytest.mark.peers
ROOT = Path(__file__).resolve().parents[1]
PAIRS = [
    ("word1 word2 word3 word4 word5", "word6"),
    ("word7 word8", "word9 word10 word11 word12"),
    ("word13", "word14 word15 word16"),
    ("word17 word18 word19 word20 word21 word22", "word23 word24"),
]

# steering-vectors 0.12 wants transformers 4, which does not know the tokenizer class that
# transformers 5 writes: the file itself is read. Token types are left out: GPT-2 would
# embed them as further words.
STEERING_VECTORS = """
import json, sys
import numpy as np
from steering_vectors import train_steering_vector
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

folder, pairs, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_file=f"{folder}/tokenizer.json",
    pad_token="<pad>",
    model_input_names=["input_ids", "attention_mask"],
)
samples = [tuple(pair) for pair in json.load(open(pairs))]
found = train_steering_vector(model, tokenizer, samples, batch_size=3).layer_activations
np.savez(out, **{str(layer): vector.numpy() for layer, vector in found.items()})
"""


@pytest.fixture(scope="module")
def steering_vectors():
    """Run a script in an environment that has steering-vectors."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    with tempfile.TemporaryDirectory() as folder:  # a gigabyte, that pytest would keep thrice
        venv.create(folder, with_pip=True)
        python = bootstrap.python_of(Path(folder))
        try:
            bootstrap.install_torch(python)
            bootstrap.pip(python, "install", "steering-vectors==0.12.2")
        except SystemExit as error:
            pytest.skip(f"steering-vectors cannot be installed: {error}")
        yield lambda *words: subprocess.run([python, *words], check=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "mixtral"])
def test_a_mean_difference_is_that_of_steering_vectors(
    family, steering_vectors, tiny_folder, tmp_path
):
    """To 1e-5, absolute, as in `test_families.py`: the vectors' numbers are up to 1 there too."""
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    folder, found = tiny_folder(family), tmp_path / "found.npz"
    steering_vectors("-c", STEERING_VECTORS, folder, tmp_path / "pairs.json", found)
    theirs = np.load(found)

    model = emolens.load(folder)
    texts = [emolens.Text(s, e) for pair in PAIRS for s, e in zip(pair, "+-", strict=True)]
    read = emolens.record(model, texts, positions=last)
    ours = emolens.fit_vectors(read, read, variance=0.0)
    assert sorted(theirs) == [str(layer) for layer in ours.layers]
    for layer in ours.layers:
        # each class mean less the mean of both, so that their difference is that of the means
        difference = ours.at(layer)[ours.row("+")] - ours.at(layer)[ours.row("-")]
        assert difference.norm() > 0.1
        assert_close(difference, torch.from_numpy(theirs[str(layer)]), atol=1e-5, rtol=0)
