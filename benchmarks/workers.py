"""Other tools, each in an environment of its own, that read texts when they are told to."""

import json
import os
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SCRIPTS = Path(__file__).resolve().parent / "peers"
PEERS = {
    "steering_vectors": "steering-vectors==0.12.2",
    "repeng": "repeng==0.4.0",
    "nnsight": "nnsight==0.8.1",
}


class NotMeasured(Exception):
    """Why a figure is missing, in one line."""


def environment(peer: str, folder: Path) -> Path:
    """The interpreter of the environment in a folder; made the first time, with our torch.

    Raises:
        NotMeasured: if pip cannot install it.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # the same torch on both sides; which build of it is for pip to choose
    torch_too = f"torch=={torch.__version__.split('+')[0]}"
    stamp, wanted = folder / "installed", f"{torch_too} {PEERS[peer]}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *wanted.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotMeasured(f"not installed: {(errors or ['pip failed'])[0]}")
    stamp.write_text(wanted)
    return python


@dataclass
class Worker:
    """A peer that reads the texts of a job whenever it is told to."""

    process: subprocess.Popen
    versions: dict[str, str] = field(default_factory=dict)

    def seconds(self, reading: str) -> float:
        """How long one reading of all texts took.

        Raises:
            NotMeasured: if the peer fails, or has failed before.
        """
        if self.process.poll() is not None:
            raise NotMeasured(f"its worker ended with status {self.process.returncode}")
        print(reading, file=self.process.stdin, flush=True)
        return self.answer()["seconds"]

    def answer(self) -> dict[str, Any]:
        """The next line.

        Raises:
            NotMeasured: if it is an error, or there is none.
        """
        line = self.process.stdout.readline()
        if not line:
            raise NotMeasured(f"its worker ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise NotMeasured(answer["error"])
        return answer


@contextmanager
def working(
    peer: str, python: Path, job: dict[str, Any], out: Path, verb: str = "with"
) -> Iterator[Worker]:
    """A worker that has opened the model and warmed up; what it prints else goes to a log.

    Its script is `peers/VERB_PEER.py`.

    Raises:
        NotMeasured: if it cannot start.
    """
    out.mkdir(parents=True, exist_ok=True)
    file, log = out / f"{peer}-job.json", out / f"{peer}.log"
    file.write_text(json.dumps(job), "utf-8")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [str(python), str(SCRIPTS / f"{verb}_{peer}.py"), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        ) as process,
    ):
        try:
            worker = Worker(process)
            worker.versions = worker.answer()["ready"]
            yield worker
        finally:
            process.kill()
