"""Who runs the tasks of a sweep: this process, one process a device, or Ray's workers."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emolens.behaviour import Behaviour, load_behaviour
from emolens.decisions import Trial
from emolens.errors import EmolensError, ModelError, first_line
from emolens.interventions import Steer
from emolens.model import load
from emolens.organism import SCENES, organism_behaviour
from emolens.provenance import Provenance
from emolens.sharing import Shared
from emolens.sweep.config import Sweep
from emolens.sweep.grid import Task

Found = tuple[Task, Float[Tensor, "cell prompt number"]]
Engine = Callable[["Worker", Sequence[Task]], Iterator[Found]]


def behaviour(sweep: Sweep, after: Sequence[str]) -> Behaviour:
    """The prompts of a sweep's behaviour after those situations.

    Raises:
        CorpusError: if the file of the behaviour cannot be read.
        SelectionError: if it has no prompts of those situations.
    """
    if sweep.behaviour in SCENES:
        return organism_behaviour(sweep.behaviour, emotions=after)
    return load_behaviour(sweep.behaviour).after(*after)


@dataclass(eq=False)
class Worker:
    """A model and its prompts, with what the steps at one kind of place share kept."""

    sweep: Sweep
    trial: Trial
    layers: tuple[int, ...]
    kept: dict[str, Shared] = field(default_factory=dict)

    @classmethod
    def begin(cls, sweep: Sweep, layers: tuple[int, ...], origin: Provenance) -> "Worker":
        """Open the model anew, in another process or on another machine.

        Raises:
            ModelError: if what is opened there is another model.
        """
        model = load(sweep.model, device=sweep.device)
        model.check_origin(origin, "the sweep")
        return cls(sweep, Trial.prepare(model, behaviour(sweep, sweep.after)), layers)

    def shared(self, at: str) -> Shared:
        """The prompts run once; steps at the decision also share all tokens before it."""
        if at not in self.kept:
            since = self.trial.final if at == "decision" else None
            with self.trial.model.bare():
                self.kept[at] = Shared.prepare(self.trial, self.layers, since)
        return self.kept[at]

    def run(self, task: Task) -> Float[Tensor, "cell prompt number"]:
        """P(target), probability on any class, and logit difference of each cell and prompt."""
        changes = [{k: Steer(step) for k, step in cell.steps.items()} for cell in task.cells]
        with self.trial.model.bare():
            return torch.stack(
                [
                    torch.stack([told.p, told.legal, told.logit_difference], -1)
                    for told in self.shared(task.at).run(changes)
                ]
            )

    def blocks(self, task: Task) -> int:
        """Blocks x tokens that a task runs, the shared work apart."""
        shared, above = self.shared(task.at), self.trial.model.n_layers - 1 - task.layer
        if shared.parts is None:
            return len(task.cells) * self.trial.model.n_layers * self.trial.tokens.ids.numel()
        return len(task.cells) * above * sum(part.ids.numel() for part in shared.parts)


def local(worker: Worker, todo: Sequence[Task]) -> Iterator[Found]:
    """One task after another, in this process."""
    for task in todo:
        yield task, worker.run(task)


def processes(devices: Sequence[str]) -> Engine:
    """One process for each of several devices of this machine.

    A process that dies is begun again, and its task with it; one that dies three times without
    anything done in between is told.
    """

    def engine(worker: Worker, todo: Sequence[Task]) -> Iterator[Found]:
        left, idle = {task.key: task for task in todo}, 0
        while left:
            before = len(left)
            try:
                for task, found in _pool(worker, list(left.values()), devices):
                    del left[task.key]
                    yield task, found
            except BrokenProcessPool:
                idle = 0 if len(left) < before else idle + 1
                if idle == 3:
                    raise ModelError(
                        f"a process of the sweep died three times at the same {len(left)} tasks: "
                        "memory may be short; use fewer devices"
                    ) from None

    return engine


def _pool(worker: Worker, todo: Sequence[Task], devices: Sequence[str]) -> Iterator[Found]:
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    queue = context.Queue()
    for device in devices:
        queue.put(device)
    threads = max(1, torch.get_num_threads() // len(devices))
    origin = worker.trial.model.provenance([], {}, 0)
    begin = (queue, threads, worker.sweep, worker.layers, origin)
    with ProcessPoolExecutor(len(devices), context, _begin, begin) as pool:
        futures = {pool.submit(_run, task): task for task in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_OWN: list[Worker] = []  # a process's worker


def _begin(
    queue: "multiprocessing.Queue[str]",
    threads: int,
    sweep: Sweep,
    layers: tuple[int, ...],
    origin: Provenance,
) -> None:
    torch.set_num_threads(threads)
    _OWN[:] = [Worker.begin(replace(sweep, device=queue.get()), layers, origin)]


def _run(task: Task) -> Tensor:
    return _OWN[0].run(task)


def on_ray(workers: int, address: str | None = None) -> Engine:
    """Workers of a Ray cluster, each with the model loaded once; lost ones are begun again.

    Every machine needs emolens and, where the model is a folder, that folder. A worker takes one
    CPU, and one GPU where the sweep's device is one.

    Args:
        workers: how many.
        address: of a running cluster (`"auto"`, `"ray://head:10001"`); None starts Ray here, open
            to this machine alone.
    """
    return partial(_ray, count=workers, address=address)


def _ray(
    worker: Worker, todo: Sequence[Task], *, count: int, address: str | None
) -> Iterator[Found]:
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise EmolensError("the engine 'ray' needs Ray: pip install 'emolens[cluster]'") from None
    ours = not ray.is_initialized()
    if ours:
        here: dict[str, Any] = (
            {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        )
        ray.init(address=address, log_to_driver=False, **here)
    gpus = 1 if (worker.sweep.device or "").startswith("cuda") else 0
    again = {"max_restarts": -1, "max_task_retries": 3, "num_cpus": 1, "num_gpus": gpus}
    remote: Any = ray.remote(_Remote).options(**again)
    origin = worker.trial.model.provenance([], {}, 0)
    try:
        pool: Any = ActorPool(
            [remote.remote(worker.sweep, worker.layers, origin) for _ in range(count)]
        )
        keyed = {task.key: task for task in todo}
        for key, found in pool.map_unordered(lambda actor, task: actor.run.remote(task), todo):
            yield keyed[key], torch.tensor(found)
    except ray.exceptions.RayError as error:
        raise EmolensError(
            f"Ray's workers are lost ({first_line(error)}): what they had found is kept, run the "
            "sweep again"
        ) from None
    finally:
        if ours:
            ray.shutdown()


class _Remote:
    """A worker as an actor of Ray."""

    def __init__(self, sweep: Sweep, layers: tuple[int, ...], origin: Provenance) -> None:
        self.worker = Worker.begin(sweep, layers, origin)

    def run(self, task: Task) -> tuple[str, object]:
        return task.key, self.worker.run(task).numpy()
