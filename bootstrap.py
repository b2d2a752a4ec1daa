"""Set up a local environment in `.venv` and run the main job or the tests. Standard library only.

python3 bootstrap.py reproduce [options]   set up, run `emolens reproduce`, leave a report
python3 bootstrap.py test [options]        set up, run the whole test suite
python3 bootstrap.py nightly [options]     set up, run the long tests (slow, peers, real), and
                                           10,000 damaged files for every reader
python3 bootstrap.py lint                  set up, lint, types and import contract
python3 bootstrap.py docs                  set up, build the documentation into site/
python3 bootstrap.py contract              set up a second environment with TransformerLens 3.9 and
                                           run the model-contract tests there
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CPU_TORCH = "2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLD_HOST = "transformer-lens==3.9.0"
NIGHTLY = "slow or real or peers or fuzz"
EVERY_CORE = ("--numprocesses=auto", "--dist=worksteal")  # neighbours share a worker's fixtures


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip(python: Path, *words: str) -> None:
    """Run pip there, quietly; stop with its own words if it fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr.strip()}\nset-up failed at: pip {' '.join(words)}")


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and not subprocess.run([tool], capture_output=True).returncode


def pip_finds_cpu_torch(python: Path) -> bool:
    """Whether pip's own sources answer `torch==CPU_TORCH` with a build that brings no CUDA.

    So it is on macOS and Windows, and where an administrator keeps a CPU wheel.
    """
    words = ["install", "--dry-run", "--quiet", "--report", "-", f"torch=={CPU_TORCH}"]
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return False
    names = [entry["metadata"]["name"].lower() for entry in json.loads(done.stdout)["install"]]
    return not any(name.startswith(("nvidia-", "cuda-", "triton")) for name in names)


def install_torch(python: Path) -> None:
    """The default build where there is a GPU driver, else the CPU build."""
    if has_gpu():
        print("set-up: a GPU driver answers, taking torch's default build", flush=True)
        pip(python, "install", "torch>=2.6,<3")
    elif pip_finds_cpu_torch(python):
        print(f"set-up: no GPU driver, taking the CPU build of torch {CPU_TORCH}", flush=True)
        pip(python, "install", f"torch=={CPU_TORCH}")
    else:
        print("set-up: no GPU driver, taking torch's CPU build from PyTorch's index", flush=True)
        pip(python, "install", "torch>=2.6,<3", "--index-url", CPU_INDEX)


def set_up(folder: Path, *more: str) -> Path:
    """Make the environment, or take the one that was made from the same project file."""
    python, stamp = python_of(folder), folder / "emolens-set-up"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + " ".join(more).encode())
    if stamp.is_file() and stamp.read_text() == wanted.hexdigest():
        return python
    print(f"set-up: making {folder.name} (a few minutes the first time)", flush=True)
    if not python.is_file():
        venv.create(folder, with_pip=True)
        install_torch(python)
    print("set-up: installing emolens and what it needs", flush=True)
    pip(python, "install", "-e", ".[dev]", *more)
    stamp.write_text(wanted.hexdigest())
    return python


def run(python: Path, *words: str) -> int:
    """Run a module of the environment and hand on its exit status."""
    return subprocess.run([str(python), "-m", *words], cwd=ROOT, check=False).returncode


def main() -> int:
    """Set up, then do what was asked."""
    if sys.version_info < (3, 11):  # noqa: UP036 (run by whatever python3 there is)
        sys.exit(f"emolens needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    job, rest = (sys.argv[1] if len(sys.argv) > 1 else "help"), sys.argv[2:]
    if job == "reproduce":
        return run(set_up(ROOT / ".venv"), "emolens", "reproduce", *rest)
    if job == "test":
        return run(set_up(ROOT / ".venv"), "pytest", *EVERY_CORE, *rest)
    if job == "nightly":
        os.environ.setdefault("EMOLENS_FUZZ_EXAMPLES", "10000")
        return run(set_up(ROOT / ".venv"), "pytest", "-m", NIGHTLY, *rest)
    if job == "docs":
        return run(set_up(ROOT / ".venv"), "mkdocs", "build", "--strict", *rest)
    if job == "contract":
        python = set_up(ROOT / ".venv-tl3", OLD_HOST)
        return run(python, "pytest", *EVERY_CORE, "-m", "contract", "tests", *rest)
    if job == "lint":
        python = set_up(ROOT / ".venv")
        checks = [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)]
        status = max(run(python, *check) for check in checks)
        linter = python.with_name("lint-imports")
        return max(status, subprocess.run([str(linter)], cwd=ROOT, check=False).returncode)
    print(__doc__)
    return 0 if job in ("help", "--help", "-h") else 2


if __name__ == "__main__":
    sys.exit(main())
