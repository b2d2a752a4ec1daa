"""Which torch the set-up picks, without installing anything."""

import importlib.util
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(bootstrap, monkeypatch):
    """A machine with or without a GPU driver, whose pip answers with these packages."""

    def make(gpu, answer):
        installed = []
        report = json.dumps({"install": [{"metadata": {"name": n}} for n in answer or ()]})

        def run(command, **_):
            return SimpleNamespace(returncode=0 if answer else 1, stdout=report, stderr="")

        monkeypatch.setattr(bootstrap, "has_gpu", lambda: gpu)
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(bootstrap, "pip", lambda _python, *words: installed.append(words))
        bootstrap.install_torch(Path("python"))
        return installed[0]

    return make


def test_a_gpu_driver_means_the_default_build(machine):
    assert machine(True, ["torch", "nvidia-cublas"]) == ("install", "torch>=2.6,<3")


def test_a_cpu_build_that_pip_finds_by_itself_is_taken(machine):
    assert machine(False, ["torch", "sympy"]) == ("install", "torch==2.13.0")


@pytest.mark.parametrize("answer", [["torch", "nvidia-cublas"], ["torch", "triton"], None])
def test_else_the_cpu_build_comes_from_pytorchs_index(machine, answer):
    words = machine(False, answer)
    assert words[:2] == ("install", "torch>=2.6,<3")
    assert words[2:] == ("--index-url", "https://download.pytorch.org/whl/cpu")


def test_the_readme_has_exactly_two_commands_and_ci_calls_the_second():
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = [line.strip() for line in readme.splitlines() if line.strip().startswith("python3 ")]
    assert commands == ["python3 bootstrap.py reproduce", "python3 bootstrap.py test"]
    assert commands[1] in (ROOT / ".ci" / "run").read_text("utf-8")


def test_an_unknown_job_says_what_there_is(bootstrap, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bootstrap.py", "dance"])
    assert bootstrap.main() == 2
    assert "bootstrap.py reproduce" in capsys.readouterr().out
