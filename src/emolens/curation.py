"""Documents of a corpus ranked by their emotional content, in one streamed pass that can go on."""

import csv
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from pyarrow import compute as pc, csv as arrow_csv, parquet
from torch import Tensor

from emolens.corpus.documents import Document, Source, count_documents, stream_documents
from emolens.errors import ArtefactError, CorpusError, SelectionError, first_line
from emolens.interventions import Residual
from emolens.model import HookedModel
from emolens.positions import PositionRule, everything
from emolens.progress import progress_bar
from emolens.provenance import Provenance
from emolens.readout import Kind, Readout
from emolens.recording import plan_batches, run_to, usual_batch
from emolens.resume import whole
from emolens.sites import RESID_POST, two_thirds
from emolens.text import Text, Tokens
from emolens.vectors import EmotionVectors

SCHEMA = 1
FORMAT, VERSION = "emolens.scores", 1
MANIFEST, SHARDS = "manifest.json", "shards"
SHARD_DOCUMENTS, SHARD_CHARACTERS = 256, 1_000_000
REFERENCE = 1000  # documents that a z-score is held against
GROUP_ROWS = 16_384  # of the final Parquet file: readers are slow on small groups
CSV_ROWS = 100_000
EXCERPT = 200  # characters
NAMED = 10  # bad rows that the summary names; skipped.csv has all
PARTS = {"mean": np.float32, "window": np.float32, "start": np.int32, "end": np.int32}
ENDS = {"top": 1, "bottom": -1}
SPREAD = {"low": 0.01, "first": 0.25, "median": 0.5, "third": 0.75, "high": 0.99}
Scale = Mapping[str, tuple[float, float]]  # mean and standard deviation of each emotion
NO_TOKEN = "no token that the position rule picks"


@dataclass(frozen=True, eq=False)
class CorpusScores:
    """What a corpus was scored to; the scores themselves are files, for they may be large.

    Attributes:
        folder: of scores.parquet, ranking.csv, spread.csv, skipped.csv and summary.json.
        ranking: the top and bottom documents of each emotion.
        spread: of each emotion, quantiles of the documents' values, columns emotion, low (1%),
            first, median, third (quartiles), high (99%), lowest and highest.
        summary: the numbers of summary.json.
    """

    folder: Path
    ranking: pd.DataFrame
    spread: pd.DataFrame
    summary: dict[str, Any]

    @property
    def scores(self) -> pd.DataFrame:
        """One row a document: id, position, tokens, cut; mean, window, start, end of each emotion.

        Read from the disk, all of it: of a large corpus read columns of the file instead.
        """
        return pd.read_parquet(self.folder / "scores.parquet")

    def __repr__(self) -> str:
        """What the command line prints."""
        found = self.summary
        lines = [
            f"{found['corpus']}: {found['documents']:,} documents of {found['tokens']:,} tokens, "
            f"{len(found['emotions'])} vectors at layer {found['layer']} ({found['kind']})"
        ]
        if found["documents_per_second"] is not None:
            lines.append(
                f"{found['documents_per_second']:,.1f} documents and "
                f"{found['tokens_per_second']:,.0f} tokens a second"
            )
        if found["cut"]:
            lines.append(f"longer than the context, their ends not read: {found['cut']:,}")
        for reason, count in found["skipped"].items():
            first = next(s["where"] for s in found["skipped_first"] if s["reason"] == reason)
            lines.append(f"not scored, {reason}: {count:,} (the first: {first})")
        best = self.ranking[(self.ranking.end == "top") & (self.ranking["rank"] == 1)]
        shown = best.sort_values("value", ascending=False, kind="stable").head(10)
        columns = ["emotion", "id", "position", "value", "excerpt"]
        table = shown[columns].assign(excerpt=shown.excerpt.str.slice(0, 60).map(repr))
        return "\n".join([*lines, "", table.to_string(index=False, float_format="{:.3f}".format)])


def score_corpus(
    model: HookedModel,
    vectors: EmotionVectors,
    corpus: Source,
    out: Path | str,
    *,
    layer: int | None = None,
    kind: Kind = "centred",
    positions: PositionRule = everything,
    window: int = 20,
    emotions: Sequence[str] | None = None,
    text_field: str = "text",
    id_field: str = "id",
    split: str = "train",
    subset: str | None = None,
    limit: int | None = None,
    top: int = 20,
    batch_tokens: int | None = None,
    seed: int = 0,
) -> CorpusScores:
    """Score every document on every vector and rank them, for curating what a model is trained on.

    The corpus is read once, a shard of some hundred documents at a time; memory does not grow with
    it, but for one column of values when percentiles are taken at the end (4 bytes a document). A
    run that was killed goes on when it is started again with the same folder, and ends with the
    same bytes (on one machine, with as many threads; summary.json but for its speed). Finished
    shards are read again as text, not by the model; those whose documents have changed are scored
    anew, so that a corpus can also grow.

    Args:
        model: the hooked model.
        vectors: fitted on it.
        corpus: a file of JSONL (`.jsonl`, `.jsonl.gz`) or Parquet, a folder of such files, a folder
            that `datasets` saved, the id of a dataset on the Hub, which is streamed
            (`emolens[datasets]`), or rows: strings, texts, mappings.
        out: folder of all files; the shards stay in `shards/`.
        layer: 0-based block; by default two thirds through those of the vectors, where the paper
            reads.
        kind: of readout, as in `read_out`. `"z"` is the projection in standard deviations of the
            means of 1,000 documents drawn from this corpus, from their mean.
        positions: which tokens; all but the special ones by default, since nothing is known of
            documents. A document in which the rule picks none is not scored.
        window: picked tokens that the second value of a document is the mean over: the highest
            such mean, or the mean over all where there are fewer.
        emotions: of which vectors; all by default.
        text_field: of a row, where it is a mapping.
        id_field: of a row; it may be missing.
        split: of a dataset that has several.
        subset: of a dataset on the Hub that has several.
        limit: read no more rows than this.
        top: documents at each end of the ranking of each emotion.
        batch_tokens: most tokens of a batch, padding included; by default as `record`. Values do
            not depend on it (but for rounding: 1e-5).
        seed: of the documents drawn for `"z"`.

    Returns:
        Ranking (columns emotion, end, rank, id, position in the corpus from 0, value, window,
        percentile: share of documents with a lower value, in percent; excerpt: the best window of
        a top document, the beginning of a bottom one), spread and summary. A row that holds no
        text, and a document without a token to read, are counted and named in skipped.csv; a text
        longer than the context is cut at its end, marked and counted.

    Raises:
        CorpusError: if nothing is there, a file is damaged, or no row can be scored.
        ModelError: for vectors of another model.
        SelectionError: for a layer, emotion or kind that is not there, or a window, limit or top
            below 1.
        ArtefactError: if the folder holds scores of another model, other vectors or other options.
        HookError: if hooks are in force.

    >>> import emolens, tempfile
    >>> model = emolens.load("organism")
    >>> stories = emolens.record(model, emolens.organism_stories(per_emotion=6), layers=[3])
    >>> neutral = emolens.record(model, emolens.organism_neutral(count=20), layers=[3])
    >>> vectors = emolens.fit_vectors(stories, neutral)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     found = score_corpus(model, vectors, emolens.organism_stories(2, seed=1), out, top=3)
    >>> found.ranking.columns.tolist()[:5], len(found.ranking)
    (['emotion', 'end', 'rank', 'id', 'position'], 144)
    """
    for name, value in {"window": window, "limit": limit, "top": top}.items():
        if value is not None and value < 1:
            raise SelectionError(f"{name} is {value}: give at least 1")
    model.check_origin(vectors.provenance, "this set of vectors")
    shown = two_thirds(vectors.layers) if layer is None else layer
    kept = _only(vectors, shown, emotions)
    model.check_layers([shown])
    model.require_unchanged(str(out))
    read = "projection" if kind == "z" else kind  # a z-score is that, moved and scaled at the end
    batch = usual_batch(model) if batch_tokens is None else batch_tokens
    scorer = _Scorer(model, kept, shown, read, positions, window, batch)
    folder = _prepared(Path(out), scorer.identity)
    rows = stream_documents(
        corpus, text_field=text_field, id_field=id_field, split=split, subset=subset
    )
    known = [n for n in (limit, count_documents(corpus, split=split)) if n is not None]
    ranking = _Ranking(kept.emotions, top)
    run = _stream(scorer, islice(rows, limit), folder, min(known, default=None), ranking)
    if not run.documents:
        raise CorpusError(_nothing(run, corpus))
    _write_scores(folder, run, _usual(folder, run, kept.emotions, seed) if kind == "z" else None)
    _write_skipped(folder, run)
    table, spread = ranking.placed(folder)
    summary = {
        "schema": SCHEMA,
        "corpus": str(corpus) if isinstance(corpus, Path | str) else "rows",
        **run.facts(),
        "layer": shown,
        "kind": kind,
        "window": window,
        "emotions": list(kept.emotions),
        "seed": seed,
        "vectors": scorer.identity["vectors"],
        "provenance": asdict(run.provenance(model)),
    }
    table.to_csv(folder / "ranking.csv", index=False)
    spread.to_csv(folder / "spread.csv", index=False)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return CorpusScores(folder, table, spread, summary)


def _only(vectors: EmotionVectors, layer: int, emotions: Sequence[str] | None) -> EmotionVectors:
    """Some emotions' vectors at one layer."""
    names = vectors.emotions if emotions is None else tuple(dict.fromkeys(emotions))
    if not names:
        raise SelectionError("no emotions are left: name at least one")
    rows = [vectors.row(name) for name in names]
    return replace(vectors.only([layer]), vectors=vectors.at(layer)[rows, None], emotions=names)


def _prepared(folder: Path, identity: dict[str, Any]) -> Path:
    """The folder, with a manifest of what its shards are scores of.

    Raises:
        ArtefactError: if it cannot be written, or is of other scores; naming what differs.
    """
    file = folder / MANIFEST
    asked = {"format": FORMAT, "version": VERSION, "identity": identity}
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with whole(file) as fresh:
                fresh.write_text(json.dumps(asked))
        kept = json.loads(file.read_text("utf-8"))
        known = (kept["format"], kept["version"]) == (FORMAT, VERSION)
        if not known or not isinstance(kept["identity"], dict):
            raise ValueError("another format")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ArtefactError(
            f"{file} is no manifest of {FORMAT} version {VERSION} ({first_line(error)}): choose "
            "another folder"
        ) from None
    for name, value in json.loads(json.dumps(identity)).items():
        if kept["identity"].get(name) != value:
            raise ArtefactError(
                f"{folder} holds scores that differ in {name}: choose another folder"
            )
    return folder


@dataclass(frozen=True, eq=False)
class _Scorer:
    """How a document becomes a row of numbers.

    Attributes:
        vectors: at that layer alone.
        kind: of readout; none that needs a reference.
    """

    model: HookedModel
    vectors: EmotionVectors
    layer: int
    kind: Kind
    positions: PositionRule
    window: int
    batch_tokens: int

    @cached_property
    def _readout(self) -> Readout:
        return Readout.prepare(self.vectors, self.layer, kind=self.kind, device=self.model.device)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the scores of a text."""
        digest = hashlib.sha256(json.dumps(self.vectors.emotions).encode())
        for tensor in (self.vectors.vectors, self.vectors.mean):
            digest.update(tensor.contiguous().numpy().tobytes())
        return {
            "model": [self.model.fingerprint, self.model.weights, self.model.dtype],
            "emotions": self.vectors.emotions,
            "layer": self.layer,
            "vectors": digest.hexdigest(),
            "kind": self.kind,
            "positions": getattr(self.positions, "__name__", repr(self.positions)),
            "window": self.window,
        }

    def score(self, documents: Sequence[Document], first: int) -> pa.Table:
        """The rows of a shard; what was not scored, and the position rules, are its metadata.

        Args:
            documents: of the shard.
            first: where in the corpus they begin.
        """
        problems = {i: d.problem for i, d in enumerate(documents) if d.problem}
        good = [i for i in range(len(documents)) if i not in problems]
        used: Counter[str] = Counter()
        columns: dict[str, Any] = {name: [] for name in ("id", "position", "tokens", "cut")}
        found = np.empty((0, len(PARTS), len(self.vectors.emotions)))
        if good:
            texts = [Text(documents[i].text, id=documents[i].id) for i in good]
            tokens = self.model.tokenize(texts)
            picked = self.positions(texts, tokens)
            some = picked.mask.any(1)
            problems |= {
                i: NO_TOKEN for i, any_ in zip(good, some.tolist(), strict=True) if not any_
            }
            rows = some.nonzero().flatten()
            used.update(picked.used[row] for row in rows.tolist())
            columns = {
                "id": [documents[good[row]].id for row in rows.tolist()],
                "position": [first + good[row] for row in rows.tolist()],
                "tokens": tokens.words[rows].sum(1).tolist(),
                "cut": [row in tokens.cut for row in rows.tolist()],
            }
            found = self._scores(tokens, picked.mask, rows)
        skipped = [
            (first + i, documents[i].id, documents[i].where, problems[i]) for i in sorted(problems)
        ]
        beside = {"skipped": json.dumps(skipped), "positions": json.dumps(used)}
        return _table(columns, found, self.vectors.emotions).replace_schema_metadata(beside)

    def _scores(
        self,
        tokens: Tokens,
        picked: Bool[Tensor, "text token"],
        rows: Int[Tensor, " row"],
    ) -> Float[np.ndarray, "row part emotion"]:
        """What `_summed` gives of some of the texts, read in batches of like length."""
        found = np.empty((len(rows), len(PARTS), len(self.vectors.emotions)))
        lengths = tokens.mask[rows].sum(1)
        for batch in plan_batches(lengths, self.batch_tokens):
            at, width = rows[list(batch)], int(lengths[batch[0]])
            chosen = picked[at, :width]
            values = self._values(tokens.ids[at, :width], tokens.mask[at, :width], chosen)
            counts = chosen.sum(1).tolist()
            ranges = tokens.offsets[at, :width][chosen].split(counts)
            for row, own, place in zip(batch, values.split(counts), ranges, strict=True):
                found[row] = _summed(own.double().numpy(), place.numpy(), self.window)
        return found

    def _values(
        self,
        ids: Int[Tensor, "row token"],
        mask: Bool[Tensor, "row token"],
        picked: Bool[Tensor, "row token"],
    ) -> Float[Tensor, "picked emotion"]:
        """The readout at the picked tokens, computed where the stream is: it is the smaller."""
        found: list[Tensor] = []

        def see(_: int, residual: Residual) -> None:
            chosen = residual[picked.to(residual.device)]
            found.append(self._readout(chosen).cpu())

        run_to(self.model, ids, mask, (self.layer,), see)
        return found[0]


def _summed(
    values: Float[np.ndarray, "token emotion"], ranges: Int[np.ndarray, "token 2"], window: int
) -> Float[np.ndarray, "part emotion"]:
    """Mean over a document, the highest mean over a window, and which characters that is."""
    width = min(window, len(values))
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(0)])
    means = (sums[width:] - sums[:-width]) / width
    at = means.argmax(0)
    return np.stack([values.mean(0), means.max(0), ranges[at, 0], ranges[at + width - 1, 1]])


def _table(
    columns: dict[str, Any], found: Float[np.ndarray, "row part emotion"], emotions: Sequence[str]
) -> pa.Table:
    types = {"id": pa.string(), "position": pa.int64(), "tokens": pa.int32(), "cut": pa.bool_()}
    made = {name: pa.array(columns[name], kind) for name, kind in types.items()}
    for j, emotion in enumerate(emotions):
        for i, (part, kind) in enumerate(PARTS.items()):
            made[f"{emotion}_{part}"] = pa.array(found[:, i, j].astype(kind))
    return pa.table(made)


def _stream(
    scorer: _Scorer,
    documents: Iterable[Document],
    folder: Path,
    total: int | None,
    ranking: "_Ranking",
) -> "_Run":
    """Score shard after shard; those that are there are only counted and ranked."""
    run, first = _Run(), 0
    with scorer.model.bare(), progress_bar() as bar:
        task = bar.add_task("scoring documents", total=total, unit="documents")
        for number, shard in enumerate(_shards(documents)):
            file = shard_file(folder, number)
            digest = run.hashed(shard, scorer.identity)
            table = _stored(file, digest)
            if table is None:
                began = time.perf_counter()
                table = scorer.score(shard, first)
                table = table.replace_schema_metadata({**table.schema.metadata, b"of": digest})
                with whole(file) as fresh:
                    parquet.write_table(table, fresh)
                run.seconds += time.perf_counter() - began
                run.scored += len(shard)
                run.scored_tokens += pc.sum(table["tokens"]).as_py() or 0
            run.add(table, len(shard))
            ranking.add(table, {first + i: d.text for i, d in enumerate(shard)})
            first += len(shard)
            bar.advance(task, len(shard))
    return run


def shard_file(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / SHARDS / f"scores-{shard:06d}.parquet"


def _shards(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Some hundred documents at a time, fewer where they are long."""
    shard: list[Document] = []
    held = 0
    for document in documents:
        full = len(shard) == SHARD_DOCUMENTS or held + len(document.text) > SHARD_CHARACTERS
        if shard and full:
            yield shard
            shard, held = [], 0
        shard.append(document)
        held += len(document.text)
    if shard:
        yield shard


def _stored(file: Path, digest: str) -> pa.Table | None:
    """A shard, if it is there, whole, and of these documents."""
    try:
        table = parquet.read_table(file)
    except (OSError, pa.ArrowException):  # missing, or damaged: score it again
        return None
    return table if (table.schema.metadata or {}).get(b"of") == digest.encode() else None


@dataclass(eq=False)
class _Run:
    """What has been counted so far.

    Attributes:
        rows: of the corpus.
        shards: how many.
        documents: that have scores.
        tokens: of them.
        cut: documents that lost their end.
        skipped: rows without scores, by reason.
        named: the first of them.
        positions: how many documents each position rule was applied to.
        seconds: that scoring took in this run.
        scored: rows of this run, by the model.
        scored_tokens: of this run.
        digest: of all rows.
    """

    rows: int = 0
    shards: int = 0
    documents: int = 0
    tokens: int = 0
    cut: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    named: list[dict[str, Any]] = field(default_factory=list)
    positions: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    scored: int = 0
    scored_tokens: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def hashed(self, shard: Sequence[Document], identity: dict[str, Any]) -> str:
        """The hash of a shard's documents and of how they are scored; counted into the corpus's."""
        own = hashlib.sha256(json.dumps(identity).encode())
        own.update(str(self.rows).encode())  # positions are of the whole corpus
        for d in shard:
            told = json.dumps([d.text, d.id, d.problem]).encode()
            own.update(told)
            self.digest.update(told)
        return own.hexdigest()

    def add(self, table: pa.Table, rows: int) -> None:
        """Count a shard."""
        self.rows += rows
        self.shards += 1
        self.documents += len(table)
        self.tokens += pc.sum(table["tokens"]).as_py() or 0
        self.cut += pc.sum(table["cut"]).as_py() or 0
        self.positions.update(json.loads(table.schema.metadata[b"positions"]))
        for position, name, where, reason in _skipped(table.schema):
            self.skipped[reason] += 1
            if self.skipped[reason] <= NAMED:
                told = {"position": position, "id": name, "where": where, "reason": reason}
                self.named.append(told)

    def facts(self) -> dict[str, Any]:
        """What the summary says of it."""
        fresh = self.scored > 0
        return {
            "rows": self.rows,
            "documents": self.documents,
            "tokens": self.tokens,
            "cut": self.cut,
            "skipped": dict(self.skipped),
            "skipped_first": self.named,
            "documents_per_second": self.scored / self.seconds if fresh else None,
            "tokens_per_second": self.scored_tokens / self.seconds if fresh else None,
        }

    def provenance(self, model: HookedModel) -> Provenance:
        """The record of model, corpus and versions."""
        return Provenance(
            model=model.name,
            fingerprint=model.fingerprint,
            weights=model.weights,
            dtype=model.dtype,
            site=RESID_POST,
            positions=dict(self.positions),
            corpus=self.digest.hexdigest(),
            texts=self.documents,
            cut=self.cut,
        )


def _skipped(schema: pa.Schema) -> list[list[Any]]:
    """Position, id, place and reason of every row of a shard that was not scored."""
    return json.loads(schema.metadata[b"skipped"])


def _nothing(run: _Run, corpus: Source) -> str:
    """Why there is no result."""
    name = corpus if isinstance(corpus, Path | str) else "the corpus"
    if not run.rows:
        return f"{name} holds no documents: give at least one"
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in run.skipped.items())
    return (
        f"none of {run.rows:,} rows of {name} can be scored: {reasons}, the first is "
        f"{run.named[0]['where']}: name the field that holds the text (text_field, --text-field)"
    )


@dataclass(frozen=True, slots=True)
class _Ranked:
    value: float
    window: float
    position: int
    id: str
    excerpt: str


class _Ranking:
    """The documents at both ends of each emotion, of those seen so far."""

    def __init__(self, emotions: Sequence[str], top: int):
        self.top = top
        self.kept: dict[tuple[str, str], list[_Ranked]] = {
            (emotion, end): [] for emotion in emotions for end in ENDS
        }

    def add(self, table: pa.Table, texts: Mapping[int, str]) -> None:
        """Take those of a shard that are further out; texts by position in the corpus."""
        for (emotion, end), kept in self.kept.items():
            outwards = ENDS[end] * table[f"{emotion}_mean"].to_numpy()
            bar = ENDS[end] * kept[-1].value if len(kept) == self.top else -np.inf
            rows = np.flatnonzero(outwards > bar)
            best = rows[np.argsort(-outwards[rows], kind="stable")][: self.top]
            kept += [_ranked(table, int(row), emotion, end, texts) for row in best]
            kept.sort(key=attrgetter("value"), reverse=end == "top")  # of equals the earlier first
            del kept[self.top :]

    def placed(self, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Ranking and spread, from the final values, of which a column is read at a time."""
        rows, spread = [], []
        file = folder / "scores.parquet"
        for emotion in dict.fromkeys(name for name, _ in self.kept):
            parts = [f"{emotion}_mean", f"{emotion}_window"]
            found = parquet.read_table(file, columns=["position", *parts])
            position, mean, window = (found[name].to_numpy() for name in found.column_names)
            ordered = np.sort(mean)
            spread.append(
                [emotion, *np.quantile(ordered, [*SPREAD.values()]), ordered[0], ordered[-1]]
            )
            for end in ENDS:
                for rank, one in enumerate(self.kept[emotion, end], 1):
                    at = np.searchsorted(position, one.position)
                    below = 100 * np.searchsorted(ordered, mean[at]) / len(ordered)
                    own = (one.position, mean[at], window[at], below, one.excerpt)
                    rows.append((emotion, end, rank, one.id, *own))
        columns = ["emotion", "end", "rank", "id", "position", "value", "window", "percentile"]
        return (
            pd.DataFrame(rows, columns=[*columns, "excerpt"]),
            pd.DataFrame(spread, columns=["emotion", *SPREAD, "lowest", "highest"]),
        )


def _ranked(table: pa.Table, row: int, emotion: str, end: str, texts: Mapping[int, str]) -> _Ranked:
    """A row for the ranking, with the best window of a top document, the beginning of another."""
    value, window, start, stop = (table[f"{emotion}_{part}"][row].as_py() for part in PARTS)
    position = table["position"][row].as_py()
    text = texts[position][start:stop] if end == "top" else texts[position]
    return _Ranked(value, window, position, table["id"][row].as_py(), text[:EXCERPT])


def _usual(folder: Path, run: _Run, emotions: Sequence[str], seed: int) -> Scale:
    """Mean and standard deviation of each emotion over documents drawn from the corpus."""
    if run.documents < 2:
        raise SelectionError("a z-score needs the spread of its corpus: give several documents")
    count = min(REFERENCE, run.documents)
    drawn = np.sort(np.random.default_rng(seed).choice(run.documents, count, replace=False))
    names, rows, before = [f"{emotion}_mean" for emotion in emotions], [], 0
    for number in range(run.shards):
        table = parquet.read_table(shard_file(folder, number), columns=names)
        own = drawn[(drawn >= before) & (drawn < before + len(table))] - before
        rows.append(table.take(own).to_pandas().to_numpy(np.float64))
        before += len(table)
    found = np.concatenate(rows)
    spread = found.std(0, ddof=1)
    if not spread.all():
        raise SelectionError("a z-score needs the spread of its corpus: its documents are the same")
    return dict(zip(emotions, zip(found.mean(0), spread, strict=True), strict=True))


def _write_scores(folder: Path, run: _Run, scale: Scale | None) -> None:
    """The final table, from the shards; as CSV too if it is small."""
    file, text = folder / "scores.parquet", folder / "scores.csv"
    text.unlink(missing_ok=True)  # of an earlier run of fewer documents
    groups = _groups(folder, run)
    first = _scaled(next(groups), scale)
    with whole(file) as fresh, parquet.ParquetWriter(fresh, first.schema) as writer:
        for group in chain([first], (_scaled(group, scale) for group in groups)):
            writer.write_table(group)
    if run.documents < CSV_ROWS:
        with whole(text) as fresh, arrow_csv.CSVWriter(fresh, first.schema) as writer:
            for batch in parquet.ParquetFile(file).iter_batches():
                writer.write_batch(batch)


def _write_skipped(folder: Path, run: _Run) -> None:
    """Every row without scores, from the shards."""
    with (folder / "skipped.csv").open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["position", "id", "where", "reason"])
        for number in range(run.shards):
            writer.writerows(_skipped(parquet.read_schema(shard_file(folder, number))))


def _groups(folder: Path, run: _Run) -> Iterator[pa.Table]:
    """The shards, many together."""
    held: list[pa.Table] = []
    for number in range(run.shards):
        held.append(parquet.read_table(shard_file(folder, number)).replace_schema_metadata(None))
        if number == run.shards - 1 or sum(map(len, held)) >= GROUP_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []


def _scaled(table: pa.Table, scale: Scale | None) -> pa.Table:
    """The values in standard deviations from the mean."""
    for emotion, (mean, spread) in (scale or {}).items():
        for part in ("mean", "window"):
            at = table.schema.get_field_index(f"{emotion}_{part}")
            values = (table.column(at).to_numpy().astype(np.float64) - mean) / spread
            made = pa.array(values.astype(np.float32))
            table = table.set_column(at, table.schema.field(at), made)
    return table
