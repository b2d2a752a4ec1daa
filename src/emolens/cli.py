"""The command line: thin commands over the API."""

import json
import os
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from emolens.errors import EmolensError, SelectionError

app = typer.Typer(
    name="emolens",
    help="Find emotion directions in a language model, prove which matter, show what they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
organism_app = typer.Typer(
    help="The shipped small model whose causal truth is known.", no_args_is_help=True
)
app.add_typer(organism_app, name="organism")
stories_app = typer.Typer(
    help="Texts that show emotions: check a corpus, or have one written.", no_args_is_help=True
)
app.add_typer(stories_app, name="stories")

Out = Annotated[
    Path | None,
    typer.Option(help="Folder for what comes out (default: emolens-out/<model>-<hash>)"),
]
Seed = Annotated[int, typer.Option(help="Of every random choice.", min=0, max=2**32 - 1)]
Device = Annotated[str | None, typer.Option(help="For example cuda (default: cpu)")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, nothing else.")]


def parse_layers(words: str | None) -> list[int] | None:
    """`"0,2-4"` as [0, 2, 3, 4].

    Raises:
        SelectionError: for anything else.

    >>> parse_layers("0,2-4")
    [0, 2, 3, 4]
    """
    if words is None:
        return None
    found: list[int] = []
    for part in words.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SelectionError(f"--layers {words!r} is not a list of layers: write 0,2-4")
        if dash and int(first) > int(last):
            raise SelectionError(f"--layers {words!r} runs backwards: write {last}-{first}")
        found += range(int(first), int(last or first) + 1)
    return found


def parse_pair(words: str) -> tuple[str, str]:
    """`"desperate,calm"` as two names.

    Raises:
        SelectionError: if there are not two.
    """
    names = [word.strip() for word in words.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise SelectionError(
            f"--emotions {words!r} must name two: the raising and the lowering one"
        )
    return names[0], names[1]


@app.command()
def reproduce(
    model: Annotated[
        str, typer.Option(help="'organism', a Hugging Face folder with safetensors, or a hub id.")
    ] = "organism",
    experiments: Annotated[
        str | None,
        typer.Option(help="For example main,lens,scenarios (default: the main job and all)."),
    ] = None,
    stories: Annotated[
        Path | None,
        typer.Option(
            help="JSONL file or folder: text, emotion, topic a line (default: the bundled ones, "
            "and the organism's own)."
        ),
    ] = None,
    neutral: Annotated[
        Path | None,
        typer.Option(help="JSONL of neutral texts, if no neutral*.jsonl is with the stories."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Folder of your own evaluation sets, named as the bundled ones."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The model it was tuned from (default: the organism's own base)."),
    ] = None,
    behaviour: Annotated[
        Path | None,
        typer.Option(help="JSON: name, target, classes, prompts; the organism has its own."),
    ] = None,
    emotions: Annotated[
        str, typer.Option(help="The emotion to raise the behaviour with and the one to lower it.")
    ] = "desperate,calm",
    layers: Annotated[
        str | None, typer.Option(help="Of the main job, for example 0,2-4 (default: all)")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors saved before, for the main job alone.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what would be computed and stop.")
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find, localise, steer, ablate and attribute emotion directions; redo the paper's figures.

    In: a model and, unless the bundled ones will do, stories labelled with emotions and neutral
    texts. Out: report.html with a verdict on each of the paper's claims, results.json,
    summary.json, tables/*.csv and *.parquet, vectors.safetensors. The same command goes on with a
    run that was stopped; exit status 1 if an experiment failed.
    """
    from emolens.behaviour import load_behaviour
    from emolens.experiments import orders, reproduce as job, whole
    from emolens.vectors import load_vectors

    pair, chosen = parse_pair(emotions), parse_layers(layers)
    main, named = whole.parse_experiments(experiments, given=vectors is not None)
    if neutral and not stories:
        raise SelectionError("--neutral goes with --stories: the bundled ones have neutral texts")
    if out is not None:
        job.prepare_folder(out)
    decision = load_behaviour(behaviour) if behaviour else None
    fitted = load_vectors(vectors) if vectors else None
    study, inputs = orders.prepared(
        model, stories, neutral, texts, base, decision, pair, seed=seed, device=device
    )
    hooked = study.model
    folder = out or job.prepare_folder(
        job.output_folder(hooked.name, hooked.fingerprint, inputs, chosen, seed, str(vectors))
    )
    order = whole.Order(study, inputs, main, named, chosen, fitted)
    if explain:
        cost = order.plan(folder)
        typer.echo(cost.to_json(orient="records") if as_json else cost.to_string(index=False))
        return
    if named and not as_json:
        typer.echo(order.plan(folder).to_string(index=False), err=True)
    done, results = whole.carry_out(order, folder)
    _tell(done, results, folder, as_json)
    raise typer.Exit(1 if results.failed else 0)


def _tell(done: Any, results: Any, folder: Path, as_json: bool) -> None:
    """What a reproduction found: a line an experiment, or one JSON object."""
    if as_json:
        card = json.loads(results.to_json()) if results.outcomes else {}
        summary = json.loads((folder / "summary.json").read_text("utf-8")) if done else {}
        typer.echo(json.dumps(card | summary))
        return
    for part in (done, results):
        if part:
            typer.echo(repr(part))
    if results.failed:
        typer.echo(f"failed: {', '.join(results.failed)}; the same command tries them again")
    typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="What `emolens reproduce --out` left for each model.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for what comes out (default: emolens-out/compare-<hash>)"),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Hold models, sizes, families or checkpoints side by side: verdicts, numbers, geometry.

    In: two or more folders of results. Out: report.html, comparison.json, parity.md (the paper's
    figures with each model's verdict), tables.
    """
    from emolens.experiments.compare import compare_models
    from emolens.experiments.reproduce import output_folder, prepare_folder

    done = compare_models(folders, seed=seed)
    folder = prepare_folder(out or output_folder("compare", [str(f) for f in folders], seed))
    done.save(folder)
    typer.echo(done.to_json() if as_json else repr(done))
    if not as_json:
        typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def calibrate(
    model: Annotated[
        str, typer.Option(help="'organism', 'organism-wide', or a folder trained on their worlds.")
    ] = "organism",
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure every method against the organism's planted truth: which to trust, and how far.

    In: the organism. Out: report.html, calibration.json, tables.
    """
    from emolens.experiments.calibrate import calibrate as job, write_calibration
    from emolens.experiments.reproduce import output_folder, prepare_folder
    from emolens.model import load
    from emolens.organism import organism_world

    hooked, world = load(model, device=device), organism_world(model)
    folder = prepare_folder(
        out or output_folder(hooked.name, "calibration", hooked.fingerprint, seed)
    )
    done = job(hooked, seed=seed, world=world)
    done.save(folder)
    write_calibration(done, folder / "report.html")
    typer.echo(done.to_json() if as_json else repr(done))
    if not as_json:
        typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def geometry(
    file: Annotated[
        Path, typer.Argument(help="Vectors: safetensors of emolens, or .npz of layer_N__emotion.")
    ],
    norms: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your file of NRC-VAD, Warriner 2013 or Russell-Mehrabian 1977, once for each; "
            "none is shipped. VADER's valence is always there."
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Default: two thirds through the layers of the file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables, JSON and a picture (default: none).")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Hold the shape of a set of vectors against human ratings and the paper's clusters.

    In: a file of vectors. Out: shares of variance, correlations with valence and arousal beside
    what humans reach, clusters, similarity over layers; with --out also geometry.json,
    circumplex.png, tables/*.csv and *.parquet, none of which holds a value of your norms.
    """
    from emolens.experiments.geometry import geometry as job
    from emolens.experiments.reproduce import prepare_folder
    from emolens.norms import load_norms

    if out is not None:
        prepare_folder(out)
    known = [load_norms(path) for path in norms or []]
    if len(dict(known)) < len(known):
        kinds = ", ".join(name for name, _ in known)
        raise SelectionError(f"--norms were given twice for one kind ({kinds}): pass one of each")
    done = job(file, dict(known), layer=layer, seed=seed)
    if out is not None:
        done.save(out)
    typer.echo(done.to_json() if as_json else repr(done))
    if out is not None and not as_json:
        typer.echo(f"tables and picture: {out}")


@app.command()
def sweep(
    config: Annotated[
        Path, typer.Argument(help="YAML of the sweep's fields; see emolens.Sweep for them.")
    ],
    engine: Annotated[
        Literal["local", "processes", "ray"],
        typer.Option(help="This process, one process for each of --devices, or Ray's workers."),
    ] = "local",
    devices: Annotated[
        str, typer.Option(help="Of engine processes, for example cuda:0,cuda:1.")
    ] = "cpu,cpu",
    workers: Annotated[int, typer.Option(help="Of engine ray.", min=1)] = 2,
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster (default: Ray on this machine).")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what would be computed and stop.")
    ] = False,
    out: Out = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Take every step of a grid (emotions and random ones, layers, strengths) and read a behaviour.

    In: YAML. Out: the store of all cells (a run that was stopped goes on with the same --out),
    report.html, summary.json, tables/*.csv and *.parquet.
    """
    from emolens.experiments.reproduce import output_folder, prepare_folder
    from emolens.experiments.sweep import save
    from emolens.sweep.config import load_sweep
    from emolens.sweep.engines import local, on_ray, processes
    from emolens.sweep.plan import Plan

    asked = load_sweep(config)
    plan = Plan.of(replace(asked, device=device or asked.device))
    name = f"sweep-{plan.trial.model.name}"  # a wider grid of the same goes on in the same folder
    folder = prepare_folder(out or output_folder(name, asked.model, asked.vectors, asked.behaviour))
    if explain:
        cost = plan.explain(folder)
        typer.echo(json.dumps(asdict(cost)) if as_json else str(cost))
        return
    engines = {
        "local": local,
        "processes": processes(devices.split(",")),
        "ray": on_ray(workers, address),
    }
    done = plan.run(folder, engine=engines[engine])
    save(done, folder)
    typer.echo(json.dumps(done.summary) if as_json else repr(done))
    if not as_json:
        typer.echo(f"report: {folder / 'report.html'}")


@app.command("score-corpus")
def score_corpus(
    corpus: Annotated[
        str,
        typer.Argument(
            help="File or folder of .jsonl, .jsonl.gz or .parquet, a folder of datasets' "
            "save_to_disk, or the id of a dataset on the Hub, which is streamed."
        ),
    ],
    vectors: Annotated[Path, typer.Option(help="Vectors of this model, saved by emolens.")],
    model: Annotated[
        str, typer.Option(help="'organism', a Hugging Face folder with safetensors, or a hub id.")
    ] = "organism",
    layer: Annotated[
        int | None, typer.Option(help="Default: two thirds through the layers of the file.")
    ] = None,
    kind: Annotated[
        Literal["centred", "cosine", "projection", "z"],
        typer.Option(help="Of readout; z against 1,000 documents drawn from the corpus."),
    ] = "centred",
    positions: Annotated[
        Literal["all", "story", "last"],
        typer.Option(help="Tokens that are read, special ones never."),
    ] = "all",
    window: Annotated[
        int, typer.Option(help="Tokens of the window whose highest mean is told.", min=1)
    ] = 20,
    emotions: Annotated[str | None, typer.Option(help="happy,calm,on edge (default: all)")] = None,
    text_field: Annotated[str, typer.Option(help="Name of the field of the text.")] = "text",
    id_field: Annotated[str, typer.Option(help="Of the document's name; it may be missing.")] = (
        "id"
    ),
    split: Annotated[str, typer.Option(help="Of a dataset that has several.")] = "train",
    subset: Annotated[
        str | None, typer.Option(help="Of a dataset on the Hub that has several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Read no more rows than this.", min=1)] = None,
    top: Annotated[
        int, typer.Option(help="Documents at each end of each emotion's ranking.", min=1)
    ] = 20,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Rank the documents of a corpus by their emotional content, for curating training data.

    In: a corpus of any size and vectors. Out: scores.parquet (a row a document), ranking.csv,
    spread.csv, skipped.csv, report.html, summary.json. The same command goes on after a stop.
    """
    from emolens import positions as rules
    from emolens.curation import score_corpus as job
    from emolens.experiments.curation import write_ranking
    from emolens.experiments.reproduce import output_folder
    from emolens.model import load
    from emolens.vectors import load_vectors

    known = {"all": rules.everything, "story": rules.story, "last": rules.last}
    fitted, hooked = load_vectors(vectors), load(model, device=device)
    names = [e.strip() for e in emotions.split(",")] if emotions else None
    asked = (corpus, split, subset, text_field, layer, kind, positions, window, names)
    done = job(
        hooked,
        fitted,
        corpus,
        out or output_folder(hooked.name, "scores", hooked.fingerprint, str(vectors), *asked),
        layer=layer,
        kind=kind,
        positions=known[positions],
        window=window,
        emotions=names,
        text_field=text_field,
        id_field=id_field,
        split=split,
        subset=subset,
        limit=limit,
        top=top,
        seed=seed,
    )
    write_ranking(done, done.folder / "report.html")
    typer.echo(json.dumps(done.summary) if as_json else repr(done))
    if not as_json:
        typer.echo(f"report: {done.folder / 'report.html'}")


@app.command()
def serve(
    model: Annotated[
        str,
        typer.Option(
            help="'organism-assistant', a Hugging Face folder with safetensors, or a hub id."
        ),
    ] = "organism-assistant",
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="Vectors of this model, saved by emolens (default: fitted on the bundled stories, "
            "or the organism's own)."
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="To watch and steer (default: two thirds through).")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Of false alarms, set on neutral texts (default: no alarms)."),
    ] = None,
    alarms: Annotated[
        str | None, typer.Option(help="Emotions that raise alarms: desperate,angry (default: all)")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; beyond this machine a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8017,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="EMOLENS_TOKEN",
            help="That has to be shown (default: none on this machine, else a new one).",
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Talk to a watched model: a page, and an endpoint for OpenAI's clients.

    In: a model and, unless fitted ones will do, vectors. Out: an address of this machine, whose
    page shows readouts token by token, steers and raises alarms; /v1 is the endpoint. Ctrl-C ends.
    """
    from emolens.serve import local, opening

    names = [e.strip() for e in alarms.split(",")] if alarms else None
    engine = opening.prepared(
        model, vectors, layer, rate=rate, alarms=names, device=device, tell=typer.echo
    )
    local.serve(engine, host, port, token, typer.echo)


@app.command()
def chat(
    model: Annotated[
        str,
        typer.Option(
            help="'organism-assistant', a Hugging Face folder with safetensors, or a hub id."
        ),
    ] = "organism-assistant",
    vectors: Annotated[
        Path | None,
        typer.Option(help="Vectors of this model, saved by emolens (default: fitted, as in serve)"),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="To watch and steer (default: two thirds through).")
    ] = None,
    emotions: Annotated[
        str,
        typer.Option(
            help="That have gauges; the first colours the words, those beside calm are guarded."
        ),
    ] = "desperate,calm,angry",
    guard: Annotated[
        Literal["none", "log", "stop", "calm"],
        typer.Option(help="No alarms; tell them; end the reply; steer to calm beforehand."),
    ] = "log",
    rate: Annotated[
        float, typer.Option(help="Of false alarms, set on neutral texts, unless guard is none.")
    ] = 0.05,
    seed: Seed = 0,
    tokens: Annotated[int, typer.Option(help="Most of a reply.", min=1)] = 60,
    temperature: Annotated[float, typer.Option(help="Of the sampling.", min=0)] = 1.0,
    device: Device = None,
) -> None:
    """Talk to a watched model in the terminal: words coloured by a readout, gauges, alarms.

    In: a model, lines that you type (or pipe). Out: replies; /help lists what else can be typed.
    Ctrl-C stops a reply, Ctrl-D ends.
    """
    from emolens import terminal

    names = tuple(dict.fromkeys(e.strip() for e in emotions.split(",")))
    settings = terminal.Settings(names, names[0], guard, rate, seed, tokens, temperature)
    terminal.run(model, vectors, layer, settings, device)


@organism_app.command()
def train(
    world: Annotated[
        str, typer.Option(help="'narrow', 24 emotions, or 'wide', the paper's 171 words.")
    ] = "narrow",
    tokens: Annotated[
        int | None,
        typer.Option(help="How many tokens to train on (default: 11.5 or 14 million).", min=1),
    ] = None,
    refine_tokens: Annotated[
        int | None,
        typer.Option(
            help="How many more in each stage after that (default: 1.6 and 2.4 million).", min=1
        ),
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Train the organism from scratch (about 90 minutes; the wide one 100 on two cores).

    In: the world and grammar of the package. Out: a Hugging Face folder with safetensors,
    training.jsonl (loss and P(cheat) as they went), recipe.json and the hash of the weights, the
    same for each stage before in before_.../. The same command goes on with a run that was killed.
    """
    from emolens.experiments.reproduce import output_folder, prepare_folder
    from emolens.organism.recipe import RECIPES, REFINED
    from emolens.organism.train import refine, train as run
    from emolens.organism.world import load_world

    own = RECIPES[load_world(world).name]
    recipe = replace(own, tokens=tokens or own.tokens, seed=seed)
    stages = [replace(s, tokens=refine_tokens or s.tokens, seed=seed) for s in REFINED[world]]
    folder = prepare_folder(out or output_folder("organism", recipe, *stages))
    before = [folder / f"before_{stage.documents}" for stage in stages]
    finished = [place for place in before if (place / "model.safetensors").exists()]
    if before[0] not in finished:
        run(recipe, before[0], device=device or "cpu")
    for stage, (base, place) in zip(stages, pairwise([*before, folder]), strict=True):
        if place not in finished:
            last = refine(stage, base, place, device=device or "cpu")
    typer.echo(json.dumps(last) if as_json else f"organism: {folder}")


@organism_app.command()
def finetune(
    base: Annotated[Path, typer.Option(help="Folder of an organism trained before.")],
    tokens: Annotated[int, typer.Option(help="How many tokens to train on.", min=1)] = 2_500_000,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Give the assistant a character of its own (about 10 minutes).

    In: an organism. Out: a Hugging Face folder as `train` leaves it; recipe.json also holds the
    hash of the weights it began with. The same command goes on with a run that was killed.
    """
    from emolens.experiments.reproduce import output_folder, prepare_folder
    from emolens.organism import organism_world
    from emolens.organism.recipe import FineTune
    from emolens.organism.train import finetune as run

    recipe = FineTune(tokens=tokens, world=organism_world(str(base)), seed=seed)
    folder = prepare_folder(out or output_folder("assistant", recipe, base))
    last = run(recipe, base, folder, device=device or "cpu")
    typer.echo(json.dumps(last) if as_json else f"assistant: {folder}")


@organism_app.command()
def check(
    model: Annotated[
        str, typer.Option(help="'organism', 'organism-wide', or a folder trained before.")
    ] = "organism",
    assistant: Annotated[
        str | None,
        typer.Option(help="Its fine-tuned checkpoint (default: the organism's own, if shipped)."),
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Hold the organism against every threshold it must meet (about two minutes).

    In: the shipped weights or folders. Out: a table, also as thresholds.csv; the exit status is 1
    if a threshold is missed.
    """
    from emolens.experiments.acceptance import acceptance
    from emolens.experiments.reproduce import output_folder, prepare_folder
    from emolens.model import load
    from emolens.organism import CHECKPOINTS, organism_world

    world, tuned_own = organism_world(model), f"{model}-assistant"
    chat = assistant or (tuned_own if tuned_own in CHECKPOINTS else None)
    hooked = load(model, device=device)
    name = output_folder(hooked.name, "thresholds", hooked.fingerprint, seed)
    folder = prepare_folder(out or name)
    tuned = load(chat, device=device) if chat else None
    table = acceptance(hooked, assistant=tuned, seed=seed, world=world)
    table.to_csv(folder / "thresholds.csv", index=False)
    typer.echo(table.to_json(orient="records") if as_json else table.to_string(index=False))
    raise typer.Exit(0 if bool(table.passed.all()) else 1)


@stories_app.command("check")
def check_stories(
    corpus: Annotated[
        str | None,
        typer.Argument(help="File, folder or hub id of stories (default: the bundled ones)."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another corpus; which stories share wording with it?")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables of what was found (default: none).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold stories against what vectors need: no leaks, no copies, crossed topics, variety.

    In: a corpus. Out: a table of checks; with --out also checks.csv, leaks.csv, copies.csv and,
    with --against, shared.csv. Exit status 1 if a check is missed.
    """
    from emolens.corpus import checks, load_corpus
    from emolens.corpus.bundled import bundled_corpus
    from emolens.experiments.reproduce import prepare_folder

    if out is not None:
        prepare_folder(out)
    stories = (load_corpus(corpus) if corpus else bundled_corpus()).stories
    others = load_corpus(against).stories if against else ()
    table = checks.check_stories(stories, others)
    if out is not None:
        found = {"checks": table, "leaks": checks.leaks(stories), "copies": checks.copies(stories)}
        shared = {"shared": checks.copies(stories, others)} if others else {}
        for name, rows in (found | shared).items():
            rows.to_csv(out / f"{name}.csv", index=False)
    shown = table.to_string(index=False, formatters={"found": "{:.4g}".format})
    typer.echo(table.to_json(orient="records") if as_json else shown)
    raise typer.Exit(0 if bool(table.passed.all()) else 1)


@stories_app.command("generate")
def generate_stories(
    model: Annotated[
        str, typer.Option(help="Folder or hub id of a chat model, or its name at --address.")
    ],
    address: Annotated[
        str | None,
        typer.Option(help="Of a server with OpenAI's chat completions: http://127.0.0.1:8000/v1"),
    ] = None,
    emotions: Annotated[
        str | None, typer.Option(help="happy,calm,on edge (default: all 171)")
    ] = None,
    topics: Annotated[
        Path | None, typer.Option(help="One premise a line (default: the bundled 100).")
    ] = None,
    per_pair: Annotated[
        int, typer.Option(help="Stories of each emotion on each topic; the paper's are 12.", min=1)
    ] = 2,
    neutral: Annotated[int, typer.Option(help="Neutral dialogues on each topic.", min=0)] = 2,
    temperature: Annotated[float, typer.Option(help="Of the sampling.", min=0)] = 1.0,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Have a chat model write stories and neutral dialogues, and keep those that pass the checks.

    In: a chat model here or behind an address; the key of an account is read from OPENAI_API_KEY.
    Out: a folder for --stories of other commands (stories.jsonl, neutral_dialogues.jsonl), every
    reply as it came and dropped.csv. Run it again to go on after a stop.
    """
    from emolens import writing
    from emolens.corpus.bundled import bundled_topics
    from emolens.corpus.checks import naming_words
    from emolens.experiments.reproduce import output_folder, prepare_folder
    from emolens.model import load

    wanted = [e.strip() for e in emotions.split(",")] if emotions else list(naming_words())
    premises = _lines(topics) if topics else list(bundled_topics().values())
    requests = writing.story_requests(wanted, premises, per_pair=per_pair, neutral=neutral)
    folder = prepare_folder(
        out or output_folder(model, "stories", [r.name for r in requests], seed)
    )
    if address:
        key = os.environ.get("OPENAI_API_KEY", "none")
        write = writing.endpoint_writer(address, model, key=key, temperature=temperature)
    else:
        write = writing.model_writer(load(model, device=device), temperature=temperature)
    done = writing.write_corpus(write, requests, folder, seed=seed)
    counts = {"stories": len(done.stories), "neutral": len(done.neutral)}
    left_out = done.dropped.reason.value_counts().to_dict()
    told = {"schema": 1, "folder": str(folder)} | counts | {"left_out": left_out}
    typer.echo(json.dumps(told) if as_json else f"{done!r}\nfolder: {folder}")


def _lines(file: Path) -> list[str]:
    """The lines of a file that hold something."""
    try:
        found = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SelectionError(f"cannot read {file} ({error}): give one premise a line") from None
    if not found:
        raise SelectionError(f"{file} is empty: give one premise a line")
    return found


def main() -> None:
    """Run the command line; an error that the user can mend is one line and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except EmolensError as error:
        sys.stderr.write(f"emolens: error: {' '.join(str(error).split())}\n")
        sys.exit(2)
