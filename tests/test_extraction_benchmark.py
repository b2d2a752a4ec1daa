"""The extraction benchmark: its JSON on a few texts, and what it compares. Nothing is timed."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import emolens

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
RATIOS = ("hf_body", "cache_everything", "steering_vectors", "repeng", "nnsight")
FIGURES = {f"ratio_vs_{name}" for name in RATIOS} | {
    "memory_vs_cache_everything",
    "peak_memory_growth",
}


@pytest.fixture
def extraction(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import extraction
    import memory

    monkeypatch.setattr(extraction, "fresh_peak", memory.measured)  # a new process takes seconds
    return extraction


@pytest.fixture
def few(tmp_path):
    words = ["--models", "organism", "--texts", "8", "--pairs", "2", "--growth", "4", "8"]
    return [*words, "--out", str(tmp_path)]


def test_every_figure_has_its_bar_and_every_number_its_kind(extraction, few, capsys):
    found = json.loads(json.dumps(extraction.measure(extraction.parsed([*few, "--skip-peers"]))))
    assert capsys.readouterr().out == ""  # where the JSON goes
    assert found["schema"] == 1
    assert set(found) >= FIGURES
    for name in FIGURES:
        one = found[name]["organism"]
        assert isinstance(one["bar"], float)
        if "reason" in one:
            assert (one["value"], one["met"]) == (None, None)
            assert one["reason"] == "skipped: --skip-peers"
        else:
            assert one["value"] > 0
            assert isinstance(one["met"], bool)
    assert found["ratio_vs_hf_body"]["organism"]["vs_eager"] > 0
    assert found["models"]["organism"]["texts"] == 8
    speeds = found["models"]["organism"]["tokens_per_second"]
    assert set(speeds) == {"emolens", "hf_body_eager", "hf_body_sdpa", "cache_everything"}
    assert all(speed > 0 for speed in speeds.values())
    assert found["pairs"] == 2
    assert set(found["machine"]) == {"platform", "cpus", "threads", "gpu"}
    assert found["versions"]["torch"] == torch.__version__
    assert extraction.table(found).row_count == len(FIGURES)


def test_a_peer_that_fails_costs_its_own_figure_alone(extraction, few, monkeypatch):
    """Here no peer is installed: its worker is run by this interpreter."""
    monkeypatch.setattr(extraction, "environment", lambda *_: Path(sys.executable))
    found = extraction.measure(extraction.parsed(few))
    for peer in ("steering_vectors", "repeng", "nnsight"):
        one = found[f"ratio_vs_{peer}"]["organism"]
        assert one["value"] is None
        assert one["reason"] == "its worker ended with status 1"
    assert found["ratio_vs_hf_body"]["organism"]["value"] > 0


def test_what_is_cached_gives_the_means_that_record_gives(extraction, organism):
    import readings

    texts = readings.choose_texts(8, None)
    ours = emolens.record(organism, texts).pooled
    assert_close(readings.cache_everything(organism, texts, 3), ours, atol=1e-5, rtol=1e-5)


def test_the_batches_are_those_of_record(extraction, organism):
    import readings

    texts = readings.choose_texts(8, None)
    batches = readings.planned_batches(organism, texts)
    assert sorted(row for rows in batches for row in rows) == list(range(8))
    inputs = readings.padded(organism, texts, batches)
    expected = organism.tokenize(texts).mask.sum()
    assert sum(mask.sum() for _, mask in inputs) == expected


def test_a_peak_sees_what_was_held_for_a_moment(extraction):
    import memory

    size = 100_000_000

    def work():
        held = bytearray(size)
        held[::4096] = b"x" * len(held[::4096])  # every page is touched, and nobody else let run
        time.sleep(20 * memory.EVERY_S)  # torch lets the watcher run; assigning to a slice does not

    peak = memory.peak_during(work, torch.device("cpu"))
    assert peak["peak"] - peak["before"] >= 0.9 * size


def test_texts_are_even_in_number(extraction, few, capsys):
    with pytest.raises(SystemExit):
        extraction.parsed([*few, "--texts", "7"])
    assert "must be even" in capsys.readouterr().err


@pytest.mark.peers
def test_peers_that_can_be_installed_are_measured(extraction, few):
    options = extraction.parsed([*few, "--peers", str(FOLDER.parent / ".venv-peers")])
    found = extraction.measure(options)
    for peer in ("steering_vectors", "repeng", "nnsight"):
        one = found[f"ratio_vs_{peer}"]["organism"]
        if one["reason"] is None:
            assert one["value"] > 0
            assert one["on_our_batches"] > 0
            assert one["bare_body"] > 0
            assert set(one["versions"]) == {peer.replace("_", "-"), "torch", "transformers"}
        else:
            assert one["reason"].startswith("not installed")
