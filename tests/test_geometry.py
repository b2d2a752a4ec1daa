"""Clusters, similarity of sets, norms from files: planted truth, laws, outside judges."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bootstrap, pearsonr, spearmanr
from test_probes_and_geometry import ORIGIN, vectors_in_a_plane

import emolens
from emolens.cli import main
from emolens.errors import CorpusError, EmolensError, SelectionError
from emolens.experiments.geometry import geometry
from emolens.geometry import (
    circumplex,
    cluster_agreement,
    clusters,
    correlations,
    paper_clusters,
    principal_components,
    rsa,
    umap_plane,
)
from emolens.norms import (
    Ceiling,
    ceilings,
    load_norms,
    load_nrc_vad,
    load_russell_mehrabian,
    load_warriner,
    vader_reliability,
    vader_valence,
)
from emolens.vectors import EmotionVectors

RANDOM = np.random.default_rng(3)


def made(points, emotions):
    """Vectors at layers 0, 1, ... from an array of emotion x layer x d_model."""
    points = torch.as_tensor(np.asarray(points), dtype=torch.float32)
    layers = points.shape[1]
    return EmotionVectors(
        points,
        tuple(emotions),
        tuple(range(layers)),
        points.mean(0),
        torch.ones(layers),
        (0,) * layers,
        ORIGIN,
    )


def rotation(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@pytest.fixture(scope="module")
def paper_like():
    """The paper's words, each near the direction of its cluster in the paper."""
    rng, named = np.random.default_rng(0), paper_clusters()
    centre = dict(zip(dict.fromkeys(named.values()), np.eye(12), strict=False))
    points = [centre[name] + 0.05 * rng.normal(size=12) for name in named.values()]
    return made(np.array(points)[:, None], named)


# correlations


def test_a_planted_axis_is_a_component_with_its_words_its_interval_and_its_ceiling():
    rng, names = np.random.default_rng(0), [f"e{i}" for i in range(40)]
    # uncorrelated over the words, or the components would be mixtures
    valence, arousal = np.linalg.qr(np.column_stack([np.ones(40), rng.normal(size=(40, 2))]))[0].T[
        1:
    ]
    points = np.stack([3 * valence, 2 * -arousal, *0.05 * rng.normal(size=(6, 40))], 1)
    norms = {
        "valence": dict(zip(names[:30], valence, strict=False)),
        "arousal": dict(zip(names, arousal, strict=True)),
    }
    ceiling = {"arousal": Ceiling(0.7, "somewhere")}
    found = correlations(made(points[:, None], names), 0, norms, ceilings=ceiling)
    found = found.set_index(["axis", "component"])
    valence, arousal = found.loc["valence", "pc1"], found.loc["arousal", "pc2"]
    assert min(valence.r, arousal.r) > 0.95
    assert valence.low < valence.r < valence.high
    assert valence.p == pytest.approx(2 / 1001)
    assert (valence.words, arousal.words) == (30, 40)
    assert np.isnan(valence.ceiling)
    assert arousal.ceiling == 0.7
    assert found.p["arousal", "pc3"] > 0.01


def test_r_interval_and_p_agree_with_scipy():
    vectors, norms = vectors_in_a_plane(noise=0.6)
    found = correlations(vectors, 0, norms).set_index(["axis", "component"])
    x = principal_components(vectors, 0, norms).pc2.to_numpy()
    y = np.array(list(norms["valence"].values()))
    row, judge = found.loc["valence", "pc2"], pearsonr(x, y)
    assert row.r == pytest.approx(judge.statistic)
    assert row.p == pytest.approx(judge.pvalue, abs=0.05)
    other = bootstrap((x, y), lambda a, b: pearsonr(a, b).statistic, paired=True, vectorized=False)
    assert row.low == pytest.approx(other.confidence_interval.low, abs=0.1)
    assert row.high == pytest.approx(other.confidence_interval.high, abs=0.1)


def test_norms_of_nothing_are_found_significant_as_often_as_p_says():
    rng, names = np.random.default_rng(1), [f"e{i}" for i in range(20)]
    vectors = made(rng.normal(size=(20, 1, 16)), names)
    p = [
        correlations(vectors, 0, {"valence": dict(zip(names, rng.normal(size=20), strict=True))}).p
        for _ in range(30)
    ]
    assert 0.3 < np.mean(p) < 0.7


def test_geometry_does_not_depend_on_the_basis():
    vectors, norms = vectors_in_a_plane(noise=0.3)
    turned = made(vectors.vectors.numpy() @ rotation(16, 5), vectors.emotions)
    for table in (lambda v: correlations(v, 0, norms), lambda v: clusters(v, 0, count=4)):
        a, b = table(vectors), table(turned)
        numbers = a.select_dtypes("number").columns
        np.testing.assert_allclose(a[numbers], b[numbers], atol=1e-4)


def test_a_set_of_two_emotions_has_one_component_and_no_correlation():
    vectors = made([[[1.0, 0, 0]], [[0, 2.0, 0]]], ["happy", "sad"])
    norms = {"valence": vader_valence(["happy", "sad"])}
    table = principal_components(vectors, 0, norms)
    assert table.share1[0] == pytest.approx(1)
    assert table.share3[0] == 0
    assert correlations(vectors, 0, norms).empty


# clusters


def test_planted_clusters_are_found_and_are_the_papers(paper_like):
    found = clusters(paper_like, 0)
    agreement = cluster_agreement(found).iloc[0]
    assert agreement.ari == 1
    assert agreement.p < 0.002
    assert agreement.silhouette > 0.8
    assert (agreement.words, agreement.paper_clusters, agreement.clusters) == (171, 10, 10)


def test_shuffled_clusters_are_not_the_papers_and_strangers_are_left_out(paper_like):
    names = list(RANDOM.permutation(paper_like.emotions))
    names[:3] = ["hangry", "meh", "zen"]
    agreement = cluster_agreement(clusters(made(paper_like.vectors, names), 0)).iloc[0]
    assert abs(agreement.ari) < 0.1
    assert agreement.p > 0.05
    assert agreement.words == 168


def test_the_papers_clusters_are_all_there():
    sizes = pd.Series(paper_clusters()).value_counts()
    assert len(paper_clusters()) == 171
    assert sizes["Fear and Overwhelm"] == 41
    assert sizes["Playful Amusement"] == 2


def test_words_of_one_cluster_of_the_paper_cannot_agree_or_disagree():
    vectors = made(RANDOM.normal(size=(6, 1, 8)), ["calm", "serene", "safe", "a", "b", "c"])
    agreement = cluster_agreement(clusters(vectors, 0, count=2)).iloc[0]
    assert np.isnan(agreement.ari)


@pytest.mark.parametrize("count", [1, 6])
def test_clusters_that_cannot_be_are_refused(count):
    vectors = made(RANDOM.normal(size=(6, 1, 8)), "abcdef")
    with pytest.raises(SelectionError, match=f"6 emotions cannot be put into {count} clusters"):
        clusters(vectors, 0, count=count)


# similarity of sets


def test_a_rotated_and_longer_copy_is_the_same_set_and_width_does_not_matter():
    points = RANDOM.normal(size=(12, 1, 8))
    wider = np.concatenate([3 * points @ rotation(8, 1), np.zeros((12, 1, 5))], -1)
    names = [f"e{i}" for i in range(12)]
    order = RANDOM.permutation(12)
    other = made(wider[order], [names[i] for i in order])
    row = rsa(made(points, names), other).iloc[0]
    assert row.rho == pytest.approx(1)
    assert row.p == pytest.approx(1 / 1001)
    assert row.words == 12


def test_unrelated_sets_are_not_alike_and_p_says_so():
    p = []
    for seed in range(20):
        points = np.random.default_rng(seed).normal(size=(2, 12, 1, 8))
        p.append(rsa(made(points[0], "abcdefghijkl"), made(points[1], "abcdefghijkl")).p[0])
    assert 0.3 < np.mean(p) < 0.7


def test_rho_is_scipys_over_the_shared_words_and_every_pair_of_layers():
    a = made(RANDOM.normal(size=(9, 2, 8)), "abcdefghi")
    b = made(RANDOM.normal(size=(7, 3, 5)), "cdefghz")
    found = rsa(a, b)
    assert len(found) == 6
    assert (found.words == 6).all()
    row = found[(found.layer_a == 1) & (found.layer_b == 2)].iloc[0]
    upper = np.triu_indices(6, 1)

    def cosines(points):
        unit = points / points.norm(dim=-1, keepdim=True)
        return (unit @ unit.T).numpy()[upper]

    judge = spearmanr(cosines(a.at(1)[2:8]), cosines(b.at(2)[:6])).statistic
    assert row.rho == pytest.approx(judge, abs=1e-6)


def test_a_layer_is_like_itself_and_the_table_is_symmetric():
    found = rsa(*[made(RANDOM.normal(size=(8, 3, 6)), "abcdefgh")] * 2)
    wide = found.pivot(index="layer_a", columns="layer_b", values="rho").to_numpy()
    np.testing.assert_allclose(np.diag(wide), 1)
    np.testing.assert_allclose(wide, wide.T)


def test_sets_that_share_too_little_are_refused():
    points = RANDOM.normal(size=(4, 1, 6))
    with pytest.raises(SelectionError, match="share 3 emotions, expected at least 4"):
        rsa(made(points, "abcd"), made(points, "bcde"))


# UMAP


def test_umap_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(EmolensError, match=r"pip install 'emolens\[umap\]'"):
        umap_plane(made(RANDOM.normal(size=(6, 1, 8)), "abcdef"), 0)


def test_umap_keeps_planted_clusters_together(paper_like):
    pytest.importorskip("umap", reason="umap-learn is not installed: the extra emolens[umap]")
    from sklearn.metrics import silhouette_score

    plane = umap_plane(paper_like, 0)
    named = plane.emotion.map(paper_clusters())
    big = named.map(named.value_counts()) > 10
    assert silhouette_score(plane.loc[big, ["x", "y"]], named[big]) > 0.5
    pd.testing.assert_frame_equal(plane, umap_plane(paper_like, 0))


# norms from files, on words that nobody has rated

NRC = "zib\t0.9\t0.2\t0.5\nblorp at ease\t0.25\t1\t0\nnull\t0\t0.5\t0.5\n"


def write(tmp_path, text, name="norms.txt"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("header", ["", "Word\tValence\tArousal\tDominance\n"])
def test_nrc_vad_of_version_1_with_or_without_header(tmp_path, header):
    found = load_nrc_vad(write(tmp_path, header + NRC))
    assert found["valence"] == pytest.approx({"zib": 0.8, "blorp at ease": -0.5, "null": -1})
    assert found["arousal"] == pytest.approx({"zib": -0.6, "blorp at ease": 1, "null": 0})


def test_nrc_vad_of_version_2_and_of_any_order_of_columns(tmp_path):
    text = "term\tarousal\tvalence\tdominance\nzib\t-0.6\t0.8\t0\nZorp\t1\t-0.5\t0\n"
    found = load_nrc_vad(write(tmp_path, text))
    assert found == {"valence": {"zib": 0.8, "zorp": -0.5}, "arousal": {"zib": -0.6, "zorp": 1}}


def test_warriner_runs_from_1_to_9(tmp_path):
    text = '"","Word","V.Mean.Sum","V.SD.Sum","A.Mean.Sum"\n"1","zib",9,1.2,1\n"2","nan",5,2,6\n'
    found = load_warriner(write(tmp_path, text))
    assert found == {"valence": {"zib": 1, "nan": 0}, "arousal": {"zib": -1, "nan": 0.25}}


@pytest.mark.parametrize("valence", ["Pleasure", "valence"])
def test_russell_mehrabian_by_either_name_from_a_spreadsheet(tmp_path, valence):
    text = f"\ufeffWord,{valence},Arousal,Dominance\nZib ,0.5,-0.25,0\nzib,0.7,-0.25,0\n"
    found = load_russell_mehrabian(write(tmp_path, text))
    assert found["valence"] == pytest.approx({"zib": 0.6})
    assert found["arousal"] == pytest.approx({"zib": -0.25})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (NRC, "NRC-VAD"),
        ("Word,V.Mean.Sum,A.Mean.Sum\nzib,5,5\n", "Warriner 2013"),
        ("word,valence,arousal\nzib,0.1,0.2\n", "Russell-Mehrabian 1977"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_first_line(tmp_path, text, name):
    assert load_norms(write(tmp_path, text))[0] == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as a table"),
        ("zib\t0.1\n", "expected the 4 columns word, valence"),
        ("w\tvalence\tx\ty\nzib\t0\t0\t0\n", "its header has valence but no arousal"),
        ("zib\t0.1\tlots\t0\n", "arousal of 'zib' is 'lots', expected a number in 0..1"),
        ("zib\t5\t6\t7\n", "valence of 'zib' is '5', expected a number in 0..1"),
        ("Word\tvalence\tarousal\tdominance\n", "it has no words"),
        ("V.Mean.Sum,Word\n1,zib\n", "expected the columns Word, V.Mean.Sum, A.Mean.Sum"),
        ("Word,V.Mean.Sum,A.Mean.Sum\nzib,0.5,5\n", "'0.5', expected a number in 1..9"),
        ("Word,V.Mean.Sum,A.Mean.Sum\nzib,,5\n", "valence of 'zib' is '', expected a number"),
        ("word,joy\nzib,1\n", "expected the columns word, valence (or pleasure) and arousal"),
        ("word,pleasure,arousal\nzib,0.5,3\n", "'3', expected a number in -1..1"),
        ('word,pleasure,arousal\n"zib,0.5,3\n', "cannot be read as a table"),
    ],
)
def test_a_bad_file_of_norms_is_one_line(tmp_path, text, said):
    with pytest.raises(CorpusError, match=re.escape(said)) as error:
        load_norms(write(tmp_path, text))
    assert "norms.txt" in str(error.value)


def test_norms_that_are_missing_or_no_text_are_one_line(tmp_path):
    with pytest.raises(CorpusError, match="cannot be read as a table"):
        load_norms(tmp_path / "nowhere.txt")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(CorpusError, match="cannot be read as a table"):
        load_norms(tmp_path / "picture.txt")


# what humans reach


def test_vaders_reliability_is_the_intraclass_correlation_of_its_printed_deviations():
    """From each word's mean and standard deviation in the lexicon, not its single ratings."""
    from importlib.util import find_spec
    from pathlib import Path

    words = ["happy", "sad", "angry", "calm", "desperate", "proud", "weary", "afraid"]
    lexicon = Path(find_spec("vaderSentiment").origin).with_name("vader_lexicon.txt")
    rows = [line.split("\t") for line in lexicon.read_text("utf-8").splitlines()]
    mean, sd = np.array([[float(r[1]), float(r[2])] for r in rows if r[0] in words]).T
    judge = 1 - (sd**2 / 9).mean() / mean.var(ddof=1)
    assert vader_reliability(words) == pytest.approx(judge, abs=1e-3)
    assert 0.9 < vader_reliability(paper_clusters()) < 1
    assert np.isnan(vader_reliability(["happy", "zib"]))


def test_a_ceiling_that_nobody_measured_is_not_a_number_and_says_so():
    assert np.isnan(ceilings("VADER", ["happy", "sad"])["arousal"].value)
    for axis in ("valence", "arousal"):
        assert np.isnan(ceilings("Russell-Mehrabian 1977", [])[axis].value)
        assert ceilings("Russell-Mehrabian 1977", [])[axis].source == "not known"
        assert "126" in ceilings("Warriner 2013", [])[axis].source


# the command


@pytest.fixture
def npz(tmp_path):
    """A third party's file: 24 emotions at two layers, valence planted on the first axis."""
    rng, words = np.random.default_rng(0), list(paper_clusters())[::7]
    valence = vader_valence(words)
    arrays = {}
    for layer in (5, 9):
        for word in words:
            noise = 0.05 * rng.normal(size=8)
            noise[0] += valence.get(word, 0)
            arrays[f"layer_{layer}__{word}"] = noise.astype("float32")
    np.savez(tmp_path / "v.npz", **arrays)
    return tmp_path / "v.npz"


@pytest.fixture
def run(monkeypatch, capsys):
    """`emolens geometry` with these words: exit status, what it printed, its one line of error."""

    def go(*words):
        monkeypatch.setattr(sys, "argv", ["emolens", "geometry", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return stop.value.code, shown.out, shown.err

    return go


def test_the_command_prints_shares_correlations_clusters_and_layers(run, npz):
    assert "\nlayer 5: share" in run(npz)[1]  # two thirds through what the file has
    code, shown, _ = run(npz, "--layer", 9)
    assert code == 0
    assert "25 emotions, d_model 8, layers 5, 9" in shown
    assert re.search(r"layer 9: share of variance PC1 \d\d%, PC2", shown)
    assert re.search(r"VADER valence +PC1 1\.00 +0\.99 to 1\.00 0\.002 +0\.98 +18", shown)
    assert re.search(r"k-means, 10 clusters: silhouette 0\.\d\d; adjusted Rand index", shown)
    assert re.search(r"over layers: Spearman 0\.\d\d \(layers 5 and 9\)", shown)


def test_the_command_leaves_json_tables_and_a_picture_without_the_users_norms(run, npz, tmp_path):
    words = list(paper_clusters())[::7]
    text = "".join(f"{w}\t0.{i + 10}1357\t0.{i + 10}2468\t0\n" for i, w in enumerate(words))
    norms, out = write(tmp_path, text), tmp_path / "out"
    code, shown, _ = run(npz, "--norms", norms, "--layer", 5, "--out", out, "--json")
    assert code == 0
    found = json.loads((out / "geometry.json").read_text())
    assert found == json.loads(shown)
    assert found["schema"] == 1
    assert found["layer"] == 5
    assert {(r["norm"], r["axis"]) for r in found["correlations"]} == {
        ("VADER", "valence"),
        ("NRC-VAD", "valence"),
        ("NRC-VAD", "arousal"),
    }
    assert found["ceiling_sources"]["VADER"]["arousal"] == "not known"
    assert (out / "circumplex.png").read_bytes()[:4] == b"\x89PNG"
    tables = {p.stem: pd.read_csv(p) for p in (out / "tables").glob("*.csv")}
    assert len(tables) == 7
    values = load_nrc_vad(norms)
    rated = {round(v, 6) for axis in values.values() for v in axis.values()}
    for name, table in tables.items():
        numbers = table.select_dtypes("number").to_numpy().ravel().round(6)
        assert not rated & set(numbers.tolist()), name


def test_the_command_takes_our_own_file_and_says_what_does_not_apply(run, tmp_path):
    points = RANDOM.normal(size=(3, 1, 6))
    made(points, ["happy", "sad", "zib"]).save(tmp_path / "v.safetensors")
    code, shown, _ = run(tmp_path / "v.safetensors")
    assert code == 0
    assert "not applicable: norms (fewer than four" in shown
    assert "not applicable: clusters (3 emotions cannot be put into 10" in shown
    found = geometry(tmp_path / "v.safetensors")
    assert "rsa" not in found.tables
    assert json.loads(found.to_json())["not_applicable"].keys() == {"norms", "clusters"}


FIRST = "layer_5__afraid"
SPOILT = {
    "gap": lambda arrays: {k: v for k, v in arrays.items() if k != FIRST},
    "pickle": lambda arrays: {**arrays, FIRST: np.array([{}] * 8, dtype=object)},
    "one emotion": lambda arrays: {FIRST: arrays[FIRST]},
    "nothing": lambda _: {},
}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("gap", "has no direction for emotion 'afraid' at layer 5"),
        ("pickle", "holds more than plain arrays (Object arrays cannot be loaded"),
        ("one emotion", "has one emotion, afraid: geometry needs two"),
        ("nothing", "has no tensor called like"),
    ],
)
def test_a_spoilt_npz_is_one_line(run, npz, how, said):
    with np.load(npz) as archive:
        arrays = dict(archive)
    np.savez(npz, **SPOILT[how](arrays))
    code, _, error = run(npz)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert said in error


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short", None])
def test_what_is_no_npz_is_one_line(run, tmp_path, content):
    file = tmp_path / "v.npz"
    if content is None:
        np.save(tmp_path / "v.npy", np.ones(3))
        (tmp_path / "v.npy").rename(file)
    else:
        file.write_bytes(content)
    code, _, error = run(file)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert "v.npz is missing, damaged or holds" in error


def test_wrong_options_are_one_line(run, npz, tmp_path):
    for words, said in (
        (["--layer", 6], "no directions at layer 6"),
        (["--norms", write(tmp_path, NRC), "--norms", write(tmp_path, NRC, "b.txt")], "twice"),
        (["--out", npz], "cannot write into"),
    ):
        code, _, error = run(npz, *words)
        assert code == 2
        assert len(error.strip().splitlines()) == 1
        assert said in error


def test_the_public_names_are_there():
    assert emolens.rsa is rsa
    assert emolens.load_norms is load_norms


def test_a_norm_that_does_not_vary_is_left_out(paper_like):
    flat = {"valence": dict.fromkeys(paper_like.emotions, 0.5)}
    assert circumplex(paper_like, paper_like.layers, flat).empty


def test_components_do_not_depend_on_what_others_drew():
    points = np.random.default_rng(0).normal(size=(12, 1, 600))
    vectors = made(points, [f"e{i}" for i in range(12)])
    found = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 (what scikit-learn draws from unless told not to)
        found.append(principal_components(vectors, vectors.layers[0], {}))
    pd.testing.assert_frame_equal(*found, check_exact=True)
