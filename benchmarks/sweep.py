"""What a sweep of steps costs beside plain hooks, and how well one gradient foretells it.

python benchmarks/sweep.py [--json] [--pairs 3] [--naive 4] [--ours 40]

The grid is 171 vectors x 12 layers x 5 strengths x 8 prompts of 128 tokens on a Llama of 30M random
weights. Both sides read the logits at the decision alone, keep no cache that is not read, and run
as many rows together. Neither is run over the whole grid, which would take a day: `--naive` and
`--ours` say how many steps a layer are timed, and `hours` is what the whole grid would take at that
rate. Ours includes the run of the prompts themselves, which all steps share.

max_abs_difference      of logit differences, ours and those of plain hooks, float32
speedup_all_positions   seconds a step of `run_with_hooks` over ours, steps at all tokens
speedup_last_position   the same, steps at the decision's token alone
estimate_correlation    on the organism, over all emotions and layers: the change of the logit
                        difference that the gradient foretells for a step of 0.05 residual norms,
                        and the change; beside it for 0.2, and for one natural unit of *desperate*
ray_equal               whether Ray's workers give the table of one process: the same cells, values
                        within 1e-6; beside it cells a second with one and two workers, from the
                        first task that comes back to the last (starting Ray apart)

A speedup is the median over pairs of runs, one of each side right after the other.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import emolens
from emolens.attribution import attribute
from emolens.behaviour import Behaviour
from emolens.controls import random_directions
from emolens.decisions import Trial
from emolens.interventions import Steer
from emolens.provenance import versions
from emolens.sharing import Change, run_changed
from emolens.sites import Site, two_thirds
from emolens.steering import natural_units
from emolens.sweep.engines import Found, Worker
from emolens.sweep.grid import Task
from emolens.sweep.table import NUMBERS

LAYERS, PROMPTS, TOKENS = 12, 8, 128
GRID = 171 * 5 * LAYERS  # vectors, strengths, layers
BATCH = 4096
console = Console(stderr=True)


def random_trial(folder: Path) -> Trial:
    """Prompts of random words before a model of random weights, with the organism's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=432,
        intermediate_size=1152,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=9,
        vocab_size=8192,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = emolens.load("organism").tokenizer
    tokenizer.save_pretrained(folder)
    words = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=TOKENS - 1)) for _ in range(PROMPTS)]
    classes = {"one": (words[0],), "other": (words[1],)}
    behaviour = Behaviour("random", "one", classes, tuple(emolens.Text(t) for t in texts))
    return Trial.prepare(emolens.load(folder), behaviour)


def steps(trial: Trial, count: int) -> list[Change]:
    """So many steps at each layer."""
    directions = random_directions(count, trial.model.d_model, 0)
    return [{layer: Steer(direction)} for layer in range(LAYERS) for direction in directions]


@torch.inference_mode()
def naive(trial: Trial, changes: list[Change], *, last: bool) -> Float[Tensor, "change text"]:
    """Logit differences under each step, by TransformerLens's `run_with_hooks`, several at once."""
    ids, together = trial.tokens.ids, BATCH // trial.tokens.ids.numel()
    unembed, found = trial.model.host.unembed, []
    reading = unembed.register_forward_pre_hook(lambda _module, args: (args[0][:, -1:],))
    for (layer,), of_layer in groupby(changes, key=tuple):
        while some := [change[layer] for change in islice(of_layer, together)]:
            count = len(some)

            def add(value: Tensor, hook: object, some: list = some) -> Tensor:  # noqa: ARG001
                rows = zip(some, value.chunk(len(some)), strict=True)
                changed = torch.cat([change(row) for change, row in rows])
                return torch.cat([value[:, :-1], changed[:, -1:]], 1) if last else changed

            logits = trial.model.host.run_with_hooks(
                ids.repeat(count, 1),
                attention_mask=trial.tokens.mask.repeat(count, 1).long(),
                use_cache=False,
                fwd_hooks=[(Site(layer).name, add)],
            )
            decided = map(trial.decide, logits[:, -1].float().chunk(count))
            found += [decision.logit_difference for decision in decided]
    reading.remove()
    return torch.stack(found)


def shared(trial: Trial, changes: list[Change], *, last: bool) -> Float[Tensor, "change text"]:
    """The same by `run_changed`."""
    since = trial.final if last else None
    told = run_changed(trial, changes, since=since, batch_tokens=BATCH)
    return torch.stack([decision.logit_difference for decision in told])


def measured(trial: Trial, options: argparse.Namespace, *, last: bool) -> dict[str, float]:
    """Seconds a step of either side, their ratio, and how far apart the numbers are."""
    few, many = steps(trial, options.naive), steps(trial, options.ours)
    gap = (naive(trial, few, last=last) - shared(trial, few, last=last)).abs().max()
    spent: dict[str, list[float]] = {"naive": [], "ours": []}
    for number in range(options.pairs):
        sides = [("naive", naive, few), ("ours", shared, many)]
        for name, run, changes in sides if number % 2 else sides[::-1]:
            began = time.perf_counter()
            run(trial, changes, last=last)
            spent[name].append((time.perf_counter() - began) / len(changes))
        console.print(f"  pair {number + 1} of {options.pairs}", highlight=False)
    ratios = [n / o for n, o in zip(spent["naive"], spent["ours"], strict=True)]
    return {
        "speedup": round(statistics.median(ratios), 2),
        "max_abs_difference": float(gap),
        **{
            f"{name}_hours_of_the_grid": round(statistics.median(s) * GRID / 3600, 3)
            for name, s in spent.items()
        },
    }


def estimate() -> dict[str, float]:
    """Correlations of the first-order estimate with the exact effect, on the organism."""
    model = emolens.load("organism")
    stories = emolens.record(model, emolens.organism_stories())
    vectors = emolens.fit_vectors(stories, emolens.record(model, emolens.organism_neutral()))
    whole = emolens.organism_behaviour()
    trials = {e: Trial.prepare(model, whole.after(e)) for e in ("neutral", "desperate")}
    layer = two_thirds(range(model.n_layers))
    unit = natural_units(vectors, {"desperate": trials["desperate"]}, trials["neutral"])
    natural = unit["desperate", layer] / float(vectors.residual_norm[vectors.column(layer)])
    strengths = {"norm_0.05": 0.05, "norm_0.2": 0.2, "natural": natural}
    tables = {k: attribute(trials["neutral"], vectors, strength=s) for k, s in strengths.items()}
    return {k: round(float(t.gradient.corr(t.exact)), 4) for k, t in tables.items()}


def by_ray() -> dict[str, object]:
    """A sweep of the organism by this process, and by one and two of Ray's workers."""
    grid = emolens.Sweep(at=("decision",), strengths=(0.2, 0.5), random=200)
    plan = emolens.Plan.of(grid)
    told: dict[str, object] = {"value": True}
    with tempfile.TemporaryDirectory() as folder:
        own = plan.run(Path(folder) / "own").table
        for workers in (1, 2):
            came: list[tuple[float, int]] = []

            def timed(worker: Worker, todo: Sequence[Task], many: int = workers) -> Iterator[Found]:
                for task, found in emolens.on_ray(many)(worker, todo):
                    came.append((time.perf_counter(), len(task.cells)))  # noqa: B023
                    yield task, found

            table = plan.run(Path(folder) / str(workers), engine=timed).table
            gap = (table[list(NUMBERS)] - own[list(NUMBERS)]).abs().to_numpy().max()
            told["value"] = bool(told["value"] and gap <= 1e-6 and table.cell.equals(own.cell))
            told[f"max_abs_difference_{workers}"] = float(gap)
            cells, seconds = sum(n for _, n in came[1:]), came[-1][0] - came[0][0]
            told[f"cells_a_second_{workers}"] = round(cells / seconds, 1)
    return told


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--json", action="store_true", help="print the figures as JSON")
    words.add_argument("--pairs", type=int, default=3)
    words.add_argument("--naive", type=int, default=4)
    words.add_argument("--ours", type=int, default=40)
    options = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = random_trial(Path(folder))
        console.print("steps at all tokens", highlight=False)
        everywhere = measured(trial, options, last=False)
        console.print("steps at the last token", highlight=False)
        at_last = measured(trial, options, last=True)
    gaps = [side.pop("max_abs_difference") for side in (everywhere, at_last)]
    told = estimate()
    found = {
        "schema": 1,
        "max_abs_difference": {"value": max(gaps), "bar": 1e-5},
        "speedup_all_positions": {"value": everywhere.pop("speedup"), "bar": 1.8, **everywhere},
        "speedup_last_position": {"value": at_last.pop("speedup"), "bar": 25, **at_last},
        "estimate_correlation": {"value": told.pop("norm_0.05"), "bar": 0.95, **told},
        "ray_equal": by_ray(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    print(json.dumps(found, indent=1) if options.json else found)


if __name__ == "__main__":
    main()
