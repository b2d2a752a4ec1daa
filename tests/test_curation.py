"""Documents ranked by emotion: planted truth, streaming, going on after a stop, bad rows."""

import gzip
import json
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pyarrow import parquet
from sklearn.metrics import roc_auc_score

import emolens
from emolens import curation, positions
from emolens.cli import main
from emolens.corpus.documents import Document, count_documents, stream_documents
from emolens.curation import score_corpus, shard_file
from emolens.errors import ArtefactError, CorpusError, HookError, ModelError, SelectionError
from emolens.experiments.curation import write_ranking
from emolens.readout import read_out, top_windows

LAYER = 3
FINAL = ("scores.parquet", "scores.csv", "ranking.csv", "spread.csv", "skipped.csv")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(curation, "SHARD_DOCUMENTS", 7)


@pytest.fixture(scope="module")
def texts():
    return emolens.organism_stories(1, seed=5)


def rows(texts):
    return [{"id": f"d{i}", "text": t.text} for i, t in enumerate(texts)]


def jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def values(found, part="mean"):
    return found.scores[[f"{e}_{part}" for e in found.summary["emotions"]]].to_numpy()


def finals(folder):
    return {name: (folder / name).read_bytes() for name in FINAL}


def test_documents_of_an_emotion_rank_highest_for_its_vector(organism, vectors, tmp_path):
    stories = emolens.organism_stories(8, seed=11)
    found = score_corpus(organism, vectors, stories, tmp_path / "own", layer=LAYER)
    felt = np.array([t.emotion for t in stories])

    def auroc(found, part):
        scores = found.scores
        return [roc_auc_score(felt == e, scores[f"{e}_{part}"]) for e in vectors.emotions]

    assert np.mean(auroc(found, "mean")) > 0.9
    assert np.mean(auroc(found, "window")) > 0.9
    first = found.ranking[(found.ranking.end == "top") & (found.ranking["rank"] == 1)]
    assert (felt[first.position] == first.emotion).mean() > 0.9

    trained = emolens.record(organism, emolens.organism_stories(18), layers=[LAYER])
    calm = emolens.record(organism, emolens.organism_neutral(60), layers=[LAYER])
    blind = emolens.fit_vectors(emolens.shuffled(trained, 0), calm)
    of_nothing = score_corpus(organism, blind, stories, tmp_path / "shuffled")
    assert np.mean(auroc(of_nothing, "mean")) < 0.65


def test_values_are_the_readout_of_every_token_and_its_best_window(
    organism, vectors, texts, tmp_path
):
    found = score_corpus(organism, vectors, texts, tmp_path, layer=LAYER, window=6)
    table = emolens.trace(organism, vectors, texts, LAYER)
    means = table.groupby(["text", "emotion"]).value.mean().unstack()[list(vectors.emotions)]
    assert values(found) == pytest.approx(means.to_numpy(), abs=1e-5)
    best = top_windows(organism, vectors, texts, LAYER, window=6, top=len(texts))
    scores = found.scores
    for row in best.sample(50, random_state=0).itertuples():
        own = scores.iloc[row.text]
        assert own[f"{row.emotion}_window"] == pytest.approx(row.value, abs=1e-5)
        place = own[f"{row.emotion}_start"], own[f"{row.emotion}_end"]
        assert place == (row.start, row.end)
    assert scores.tokens.tolist() == table.groupby("text").token.nunique().tolist()


def test_results_do_not_depend_on_batches_or_shards(
    organism, vectors, texts, tmp_path, monkeypatch
):
    wide = score_corpus(organism, vectors, texts, tmp_path / "wide")
    monkeypatch.setattr(curation, "SHARD_CHARACTERS", 600)
    narrow = score_corpus(organism, vectors, texts, tmp_path / "narrow", batch_tokens=1)
    assert len(list((tmp_path / "narrow" / "shards").iterdir())) > 5
    assert values(narrow) == pytest.approx(values(wide), abs=1e-5)
    assert narrow.summary["provenance"]["corpus"] == wide.summary["provenance"]["corpus"]


@pytest.mark.usefixtures("small_shards")
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    organism, vectors, texts, tmp_path, monkeypatch
):
    whole = score_corpus(organism, vectors, rows(texts), tmp_path / "whole", kind="z", top=3)
    write_ranking(whole, tmp_path / "whole.html")

    def stopped():
        yield from rows(texts)[:16]
        raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        score_corpus(organism, vectors, stopped(), folder, kind="z", top=3)
    assert [f.name for f in sorted((folder / "shards").iterdir())] == [
        shard_file(folder, i).name for i in range(2)
    ]
    damaged = shard_file(folder, 1)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    shard_file(folder, 2).with_suffix(".parquet.new").write_bytes(b"half")
    read = []
    score = curation._Scorer.score
    monkeypatch.setattr(
        curation._Scorer, "score", lambda s, d, first: (read.append(first), score(s, d, first))[1]
    )
    again = score_corpus(organism, vectors, rows(texts), folder, kind="z", top=3)
    assert read == list(range(7, len(texts), 7))  # all but the first shard
    assert finals(folder) == finals(tmp_path / "whole")
    write_ranking(again, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "whole.html").read_bytes()
    drop = ("documents_per_second", "tokens_per_second")
    assert {k: v for k, v in again.summary.items() if k not in drop} == {
        k: v for k, v in whole.summary.items() if k not in drop
    }


@pytest.mark.usefixtures("small_shards")
def test_a_corpus_that_has_changed_is_scored_where_it_did(organism, vectors, texts, tmp_path):
    begun = score_corpus(organism, vectors, rows(texts), tmp_path / "a", limit=10)
    assert begun.summary["documents"] == 10
    changed = rows(texts)
    changed[2]["text"] = texts[3].text
    again = score_corpus(organism, vectors, changed, tmp_path / "a")
    score_corpus(organism, vectors, changed, tmp_path / "b")
    assert finals(tmp_path / "a") == finals(tmp_path / "b")
    assert values(again)[2] == pytest.approx(values(again)[3], abs=1e-5)
    shorter = score_corpus(organism, vectors, rows(texts), tmp_path / "a", limit=10)
    assert shorter.scores.equals(begun.scores)
    nothing_new = score_corpus(organism, vectors, rows(texts), tmp_path / "a", limit=10)
    assert nothing_new.summary["documents_per_second"] is None


def test_z_is_the_projection_against_documents_of_the_corpus(
    organism, vectors, texts, tmp_path, monkeypatch
):
    z = score_corpus(organism, vectors, texts, tmp_path / "z", layer=LAYER, kind="z")
    usual = emolens.record(organism, texts, layers=[LAYER], positions=positions.everything)
    expected = read_out(vectors, usual.at(LAYER), LAYER, kind="z", reference=usual)
    assert values(z) == pytest.approx(expected.numpy(), abs=1e-4)
    ranked = z.ranking[z.ranking.end == "top"]
    assert ranked.value.max() > 2
    own = z.scores.set_index("position")
    for row in ranked.sample(30, random_state=0).itertuples():
        column = own[f"{row.emotion}_mean"]
        assert row.value == pytest.approx(column[row.position])
        assert row.percentile == pytest.approx(100 * (column < column[row.position]).mean())
    centred = score_corpus(organism, vectors, texts, tmp_path / "c", layer=LAYER)
    assert np.abs(values(centred)).max() <= 1
    agree = [np.corrcoef(a, b)[0, 1] for a, b in zip(values(z).T, values(centred).T, strict=True)]
    assert np.mean(agree) > 0.9
    monkeypatch.setattr(curation, "REFERENCE", 10)
    some = score_corpus(organism, vectors, texts, tmp_path / "z", layer=LAYER, kind="z", seed=1)
    same = score_corpus(organism, vectors, texts, tmp_path / "z", layer=LAYER, kind="z", seed=1)
    other = score_corpus(organism, vectors, texts, tmp_path / "z", layer=LAYER, kind="z", seed=2)
    assert some.ranking.equals(same.ranking)
    assert not some.ranking.value.equals(other.ranking.value)
    with pytest.raises(SelectionError, match="needs the spread of its corpus"):
        score_corpus(organism, vectors, texts[:1], tmp_path / "one", kind="z")
    with pytest.raises(SelectionError, match="its documents are the same"):
        score_corpus(organism, vectors, [texts[0]] * 3, tmp_path / "same", kind="z")


@pytest.mark.usefixtures("small_shards")
def test_both_ends_of_the_ranking_are_those_of_the_whole_corpus(organism, vectors, texts, tmp_path):
    found = score_corpus(organism, vectors, rows(texts), tmp_path, top=4, emotions=["calm", "sad"])
    scores = found.scores
    assert scores.columns.tolist()[4:] == [
        f"{e}_{p}" for e in ("calm", "sad") for p in ("mean", "window", "start", "end")
    ]
    for emotion in ("calm", "sad"):
        column = scores[f"{emotion}_mean"]
        for end, best in (("top", column.nlargest(4)), ("bottom", column.nsmallest(4))):
            own = found.ranking[(found.ranking.emotion == emotion) & (found.ranking.end == end)]
            assert own.position.tolist() == best.index.tolist()
            assert own["rank"].tolist() == [1, 2, 3, 4]
            assert own.id.tolist() == [f"d{i}" for i in best.index]
        top = found.ranking[(found.ranking.emotion == emotion)].iloc[0]
        row = scores.iloc[top.position]
        text = texts[top.position].text
        assert top.excerpt == text[row[f"{emotion}_start"] : row[f"{emotion}_end"]]
        assert found.spread.set_index("emotion").loc[emotion, "highest"] == column.max()
        assert found.spread.set_index("emotion").loc[emotion, "median"] == pytest.approx(
            column.median()
        )


@pytest.mark.usefixtures("small_shards")
def test_a_corpus_is_read_no_further_than_the_shard_at_work(
    organism, vectors, texts, tmp_path, monkeypatch
):
    given, seen = [0], []

    def endless():
        while True:
            given[0] += 1
            yield texts[given[0] % len(texts)].text

    score = curation._Scorer.score
    monkeypatch.setattr(
        curation._Scorer,
        "score",
        lambda s, d, first: (seen.append(given[0] - first), score(s, d, first))[1],
    )
    found = score_corpus(organism, vectors, endless(), tmp_path, limit=40)
    assert found.summary["documents"] == 40
    assert given[0] == 40
    assert max(seen) <= 8  # a shard, and the document that does not go into it any more


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
def test_a_file_is_never_held_whole(tmp_path, ending):
    lines = [{"text": f"{i} " + "lake " * 1000} for i in range(3000)]  # 15 MB
    file = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pd.DataFrame(lines).to_parquet(file, row_group_size=100)
    else:
        opened = gzip.open if ending.endswith("gz") else open
        with opened(file, "wt") as out:
            out.writelines(json.dumps(line) + "\n" for line in lines)
    next(stream_documents(file))  # imports
    tracemalloc.start()
    assert sum(len(document.text) for document in stream_documents(file)) > 15_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    assert count_documents(file) == 3000


def test_every_kind_of_source_gives_the_same_documents(tmp_path, texts, monkeypatch):
    import datasets

    own = rows(texts)
    expected = [(row["id"], row["text"]) for row in own]
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    jsonl(folder / "a.jsonl", own[:10])
    (folder / "b" / "a.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in own[10:12]).encode())
    )
    pd.DataFrame(own[12:]).assign(other=1).to_parquet(folder / "c.parquet")
    data = datasets.Dataset.from_list([row | {"picture": 1} for row in own])
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(
        str(tmp_path / "splits")
    )
    asked: dict[str, object] = {}

    def load_dataset(name, subset, *, split, streaming):
        asked.update(name=name, subset=subset, split=split, streaming=streaming)
        return data.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for source in (folder, tmp_path / "saved", str(tmp_path / "splits"), "some/corpus", own):
        found = list(stream_documents(source, subset="small"))
        assert [(d.id, d.text) for d in found] == expected
        assert count_documents(source) == (None if source == "some/corpus" else len(own))
    assert asked == {"name": "some/corpus", "subset": "small", "split": "train", "streaming": True}
    assert len(list(stream_documents(tmp_path / "splits", split="test"))) == 1
    with pytest.raises(SelectionError, match="no split 'dev': there are train, test"):
        list(stream_documents(tmp_path / "splits", split="dev"))
    assert [d.text for d in stream_documents(texts)] == [t.text for t in texts]


def test_a_dataset_that_cannot_be_had_is_told(monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(CorpusError, match="did not give split 'train' of it \\(no route\\)"):
        list(stream_documents("some/corpus"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SelectionError, match=r"pip install 'emolens\[datasets\]'"):
        list(stream_documents("some/corpus"))


BAD = [
    (b'{"text": "mira fed the goat ."}', ""),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'["a"]', "not an object"),
    (b"3", "not an object"),
    (b'{"title": "x"}', "no text field"),
    (b'{"text": null}', "no text field"),
    (b'{"text": 3, "id": 7}', "text is not a string"),
    (b'{"text": " \\n"}', "empty text"),
    (b'{"text": "\\ud800"}', "text holds half of a surrogate pair"),
    (b'{"text": "tom sat by the lake .", "id": "\\ud800x"}', ""),
]


def test_bad_rows_are_counted_and_named(organism, vectors, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b"\n".join(line for line, _ in BAD) + b"\n\n")
    found = score_corpus(organism, vectors, file, tmp_path / "out", top=1)
    assert found.scores.position.tolist() == [0, 11]
    assert found.scores.id.tolist() == ["", "?x"]
    reasons = [problem for _, problem in BAD if problem]
    assert found.summary["rows"] == len(BAD)
    assert sum(found.summary["skipped"].values()) == len(reasons)
    skipped = pd.read_csv(tmp_path / "out" / "skipped.csv", dtype={"id": str})
    assert skipped.reason.tolist() == reasons
    assert skipped["where"].tolist()[0] == f"{file}, line 2"
    assert "not scored, not JSON: 3 (the first: " in repr(found)
    assert [s["position"] for s in found.summary["skipped_first"]] == list(range(1, 11))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no documents"),
        (b'{"body": "x"}\n{"text": 3}\n', r"none of 2 rows .* no text field \(1\), text is not a"),
    ],
)
def test_a_corpus_without_any_document_is_refused(organism, vectors, tmp_path, content, said):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(CorpusError, match=said):
        score_corpus(organism, vectors, file, tmp_path / "out")


def test_other_fields_and_rules(organism, vectors, texts, tmp_path):
    made = [{"body": t.text, "name": i} for i, t in enumerate(texts)] + [{"body": "mira sat ."}]
    found = score_corpus(
        organism,
        vectors,
        made,
        tmp_path,
        text_field="body",
        id_field="name",
        positions=positions.from_token(5),
        layer=LAYER,
    )
    assert found.scores.id.tolist() == [str(i) for i in range(len(texts))]
    assert found.summary["skipped"] == {curation.NO_TOKEN: 1}
    assert found.summary["provenance"]["positions"] == {"from_token(5)": len(texts)}
    usual = emolens.record(organism, texts, layers=[LAYER], positions=positions.from_token(5)).at(
        LAYER
    )
    projected = score_corpus(
        organism,
        vectors,
        texts,
        tmp_path / "p",
        kind="projection",
        positions=positions.from_token(5),
        layer=LAYER,
    )
    expected = read_out(vectors, usual, LAYER, kind="projection").numpy()
    assert values(projected) == pytest.approx(expected, abs=1e-4)


def test_a_text_longer_than_the_context_is_cut_and_told(organism, vectors, texts, tmp_path):
    long = " ".join(t.text for t in texts)
    assert len(organism.tokenizer(long)["input_ids"]) > organism.n_ctx
    found = score_corpus(organism, vectors, [texts[0].text, long], tmp_path)
    assert found.scores.cut.tolist() == [False, True]
    assert found.summary["cut"] == 1
    assert "longer than the context, their ends not read: 1" in repr(found)
    assert found.scores.filter(like="_end").to_numpy().max() < len(long)


def test_a_folder_of_other_scores_is_refused(organism, vectors, texts, tmp_path):
    def score(folder=tmp_path, vectors=vectors, **options):
        return score_corpus(organism, vectors, texts[:3], folder, **options)

    score()
    for name, options in {
        "layer": {"layer": 2},
        "window": {"window": 3},
        "kind": {"kind": "cosine"},
        "emotions": {"emotions": ["calm"]},
        "positions": {"positions": positions.last},
        "vectors": {"vectors": replace(vectors, mean=vectors.mean + 1)},
    }.items():
        with pytest.raises(ArtefactError, match=f"differ in {name}: choose another folder"):
            score(**options)
    for content in ("{", "[]", '{"format": "emolens.scores", "version": 2, "identity": {}}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ArtefactError, match="is no manifest of"):
            score()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="choose another folder"):
        score(tmp_path / "file" / "below")


def test_what_cannot_be_is_refused_before_anything_is_read(
    organism, vectors, texts, tmp_path, tiny_folder
):
    def score(model=organism, **options):
        score_corpus(model, vectors, texts, tmp_path / "out", **options)

    for name in ("window", "limit", "top"):
        with pytest.raises(SelectionError, match=f"{name} is 0: give at least 1"):
            score(**{name: 0})
    with pytest.raises(SelectionError, match="no vectors at layer 9"):
        score(layer=9)
    with pytest.raises(SelectionError, match="hangry"):
        score(emotions=["hangry"])
    with pytest.raises(SelectionError, match="name at least one"):
        score(emotions=[])
    with pytest.raises(ModelError, match="not from this"):
        score(emolens.load(tiny_folder("llama")))
    for missing in ("nowhere.jsonl", "no where", tmp_path / "nothing"):
        with pytest.raises(CorpusError, match="no corpus at"):
            score_corpus(organism, vectors, missing, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no documents: expected files of"):
        score_corpus(organism, vectors, tmp_path / "empty", tmp_path / "out")
    for ending in ("parquet", "jsonl.gz"):
        (tmp_path / f"bad.{ending}").write_bytes(b"\x1f\x8b nothing of the kind")
        with pytest.raises(CorpusError, match="cannot read"):
            list(stream_documents(tmp_path / f"bad.{ending}"))
        with pytest.raises(CorpusError, match="cannot read"):
            count_documents(tmp_path / f"bad.{ending}")
    step = emolens.Steer(torch.zeros(organism.d_model))
    tokens = organism.tokenize(texts[:1])
    with emolens.hooked(organism, {emolens.Site(LAYER): step}):
        organism.forward(tokens.ids, tokens.mask)
        with pytest.raises(HookError, match="leave the context of the hook first"):
            score()


def test_many_shards_become_few_row_groups(organism, vectors, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(curation, "SHARD_DOCUMENTS", 2)
    monkeypatch.setattr(curation, "GROUP_ROWS", 10)
    monkeypatch.setattr(curation, "CSV_ROWS", 10)
    found = score_corpus(organism, vectors, texts[:24], tmp_path)
    assert parquet.read_metadata(tmp_path / "scores.parquet").num_row_groups == 3
    assert found.scores.position.tolist() == list(range(24))
    score_corpus(organism, vectors, texts[:9], tmp_path)
    small = pd.read_csv(tmp_path / "scores.csv", dtype={"id": str}, keep_default_na=False)
    pd.testing.assert_frame_equal(
        small, pd.read_parquet(tmp_path / "scores.parquet"), check_dtype=False
    )
    score_corpus(organism, vectors, texts[:24], tmp_path)
    assert not (tmp_path / "scores.csv").exists()


def test_the_command_leaves_everything(vectors, texts, tmp_path, monkeypatch, capsys):
    evil = "</script><script>alert(1)</script>"
    file = jsonl(tmp_path / "a.jsonl", [*rows(texts), {"id": evil, "text": evil}, {"text": 3}])
    vectors.save(tmp_path / "v.safetensors")
    words = ["score-corpus", str(file), "--vectors", str(tmp_path / "v.safetensors"), "--top", "3"]
    words += ["--emotions", "calm, desperate", "--out", str(tmp_path / "out"), "--kind", "z"]
    monkeypatch.setattr(sys, "argv", ["emolens", *words, "--json"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["schema"] == 1
    assert told["layer"] == 3
    assert (told["documents"], told["rows"]) == (len(texts) + 1, len(texts) + 2)
    assert told["tokens_per_second"] > told["documents_per_second"] > 0
    assert told["provenance"]["model"] == "organism"
    ranking = pd.read_csv(tmp_path / "out" / "ranking.csv")
    assert ranking.groupby(["emotion", "end"]).size().tolist() == [3] * 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Highest and lowest documents" in page
    assert evil not in page
    monkeypatch.setattr(sys, "argv", ["emolens", *words, "--layer", "9"])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2
    assert "emolens: error: no vectors at layer 9" in capsys.readouterr().err


def test_a_document_says_where_it_stands(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"text": "a lake", "id": 3}])
    assert list(stream_documents(file)) == [Document("a lake", "3", f"{file}, line 1")]
