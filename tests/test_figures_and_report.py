"""Charts are read back, and the report neither fetches nor runs anything it should not."""

import json
import re

import altair as alt
import pandas as pd
import pytest
import vl_convert

from emolens import figures
from emolens.report import Section, write_report

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def dose():
    rows = [
        (layer, d, "random" if d.startswith("random") else d, unit, s, "report", 0.3, 0.2, 0.4, 0.9)
        for layer in range(3)
        for d in ("desperate", "calm", "random 0", "random 1")
        for unit in ("norm", "natural")
        for s in (0.1, 1.0)
    ]
    names = ["layer", "direction", "kind", "unit", "strength", "half", "p", "low", "high", "legal"]
    return pd.DataFrame(rows, columns=names)


def marks(spec):
    """Every mark type in a spec, nested layers included."""
    if isinstance(spec, dict):
        own = (
            [spec["mark"] if isinstance(spec["mark"], str) else spec["mark"]["type"]]
            if "mark" in spec
            else []
        )
        return own + [m for v in spec.values() for m in marks(v)]
    return [m for v in spec for m in marks(v)] if isinstance(spec, list) else []


def test_dose_response_draws_only_norm_units_and_random_in_grey(dose):
    spec = figures.dose_response(dose, "cheat").to_dict()
    data = next(iter(spec["datasets"].values()))
    assert {row["unit"] for row in data} == {"norm"}
    assert len(data) == len(dose) // 2
    greys = [x for x in spec["spec"]["layer"] if x["mark"].get("color") == figures.RANDOM]
    assert len(greys) == 1
    assert "random" in json.dumps(greys[0]["transform"])
    colour = spec["spec"]["layer"][-1]["encoding"]["color"]["scale"]
    assert colour["domain"] == ["desperate", "calm"]
    assert spec["spec"]["layer"][0]["encoding"]["y"]["scale"]["domain"] == [0, 1]


def test_probe_curve_marks_chance_and_the_words_alone():
    rows = [
        (layer, m, 0.6, 0.5, 0.7, 0.05, 0.04)
        for layer in range(3)
        for m in ("nearest vector", "logistic")
    ]
    columns = ["layer", "method", "accuracy", "low", "high", "chance", "shuffled"]
    baseline = pd.DataFrame([(-1, "unigram text", 0.4, 0.3, 0.5, 0.05, 0.04)], columns=columns)
    spec = figures.probe_curve(pd.DataFrame(rows, columns=columns), baseline).to_dict()
    labels = [r.get("label") for data in spec["datasets"].values() for r in data]
    assert "chance" in labels
    assert "unigram text 0.40" in labels
    assert marks(spec).count("rule") == 2
    (grey,) = [x for x in spec["layer"] if x.get("mark", {}).get("color") == figures.RANDOM]
    assert grey["encoding"]["y"]["field"] == "shuffled"
    assert grey["encoding"]["detail"]["field"] == "name"


def test_a_word_without_valence_is_grey():
    pca = pd.DataFrame(
        {
            "emotion": ["a", "b"],
            "pc1": [0.1, 0.2],
            "pc2": [0.0, 1.0],
            "share1": 0.3,
            "share2": 0.2,
            "valence": [0.5, None],
        }
    )
    svg = vl_convert.vegalite_to_svg(figures.circumplex(pca).to_json())
    circles = re.findall(r"<path[^>]*circle[^>]*>", svg)
    assert len(circles) == 2
    assert [figures.RANDOM in circle for circle in circles].count(True) == 1


def test_the_similarity_map_hides_names_when_there_are_too_many():
    def table(n):
        names = [f"e{i}" for i in range(n)]
        return pd.DataFrame(
            [(a, b, 0.0, i, j) for i, a in enumerate(names) for j, b in enumerate(names)],
            columns=["emotion_a", "emotion_b", "cosine", "order_a", "order_b"],
        )

    few, many = (figures.similarity_map(table(n)).to_dict() for n in (10, 61))
    assert few["encoding"]["x"]["axis"]["labels"] is True
    assert many["encoding"]["x"]["axis"]["labels"] is False
    assert many["encoding"]["color"]["scale"]["domain"] == [-1, 1]


def test_reliability_hides_names_when_there_are_too_many():
    def drawn(n):
        table = pd.DataFrame({"emotion": [f"e{i}" for i in range(n)], "split_half": 0.9})
        table = table.assign(ceiling=0.95, self_cosine=0.93, self_low=0.9)
        curve = pd.DataFrame({"stories": [2, 4], "cosine": [0.6, 0.8], "worst": [0.5, 0.7]})
        return figures.reliability(table, curve).to_dict()

    few, many = drawn(10), drawn(61)
    assert few["hconcat"][0]["height"] == 140
    assert [
        c["hconcat"][0]["layer"][0]["encoding"]["y"]["axis"]["labels"] for c in (few, many)
    ] == [
        True,
        False,
    ]


def drawn(spec, inherited=()):
    """Which fields every mark encodes, with what layers around it encode, and of which rows."""
    own = {e["field"] for e in spec.get("encoding", {}).values() if "field" in e}
    fields, data = own | set(inherited), spec.get("data", {}).get("name")
    if "mark" in spec:
        yield data, fields
    for part in spec.get("layer", []):
        for name, found in drawn(part, fields):
            yield name or data, found


def test_what_was_patched_is_drawn_beside_its_control_and_token_by_token():
    parts = ["whole", "direction", "complement", "random 0"]
    rows = [
        (layer, p, "random" if p.startswith("random") else "patch", -layer, 0.3, 0.5, 0.4, 0.6)
        for layer in range(3)
        for p in parts
    ]
    names = ["layer", "part", "kind", "position", "p", "recovered", "low", "high"]
    table = pd.DataFrame(rows, columns=names)
    for chart in (figures.patch_curve(table), figures.patch_map(table)):
        spec = chart.to_dict()
        for data, fields in drawn(spec):
            assert fields <= set(spec["datasets"][data][0]), (
                "a field without a column draws nothing"
            )
    spec = figures.patch_curve(table).to_dict()
    colours = [m["encoding"]["color"] for m in spec["layer"] if "color" in m.get("encoding", {})]
    assert [c["scale"]["domain"] for c in colours] == [parts[:3]] * 2
    assert "random" in json.dumps(spec["layer"][0]["transform"])


def test_a_part_that_goes_no_farther_than_its_random_turns_is_crossed_out():
    rows = [
        (2, name, kind, 0.5, recovered, 0.0, 1.0)
        for name, own in (("attention", 0.6), ("mlp", -0.1), ("head 0", -0.6))
        for kind, recovered in (("patch", own), ("random", 0.2), ("random", -0.3))
    ]
    names = ["layer", "component", "kind", "p", "recovered", "low", "high"]
    table = pd.DataFrame(rows, columns=names)
    svg = vl_convert.vegalite_to_svg(figures.patch_components(table).to_dict())
    drawn = re.findall(r'aria-label="layer: 2; component: ([^;]+); recovered', svg)
    assert drawn == ["attention", "mlp", "head 0", "mlp"]  # three cells and one cross
    assert svg.count("\u00d7") == 1
    alone = figures.patch_components(table[table.kind == "patch"]).to_dict()
    assert "\u00d7" not in vl_convert.vegalite_to_svg(alone)


def test_a_chart_becomes_a_png_without_a_browser(dose, tmp_path):
    figures.dose_response(dose, "cheat").save(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_in_a_notebook_a_chart_is_both_live_and_a_picture(dose):
    figures.use_in_notebook()
    try:
        bundle = figures.dose_response(dose, "cheat")._repr_mimebundle_()
    finally:
        alt.renderers.enable("default")
    assert {"image/png", "text/plain"} < set(bundle)
    assert any(k.startswith("application/vnd.vegalite") for k in bundle)


@pytest.fixture
def page(tmp_path, dose):
    table = pd.DataFrame({"emotion": [EVIL, *["calm"] * 40], "p": [0.123456, *[float("nan")] * 40]})
    evil_dose = dose.assign(direction=EVIL, kind=EVIL)
    sections = [
        Section(EVIL, EVIL, figures.dose_response(evil_dose, EVIL), table, "steering"),
        Section("Second", "text", figures.dose_response(dose, "cheat")),
        Section("Lens", "", not_applicable=f"an encoder {EVIL}"),
    ]
    write_report(tmp_path / "r.html", title=EVIL, facts={"model": EVIL}, sections=sections)
    return (tmp_path / "r.html").read_text("utf-8")


def test_nothing_a_model_or_corpus_wrote_reaches_the_page_unescaped(page):
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\\u003cscript\\u003ealert(1)" in page


def test_the_page_fetches_nothing_and_holds_the_drawing_library_once(page):
    assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page) == []
    assert "<link" not in page
    assert page.count('vegaEmbed("#chart-') == 2
    assert len(page) < 2_000_000


def test_what_does_not_apply_is_said_and_tables_are_cut_with_notice(page):
    assert "Not applicable: an encoder &lt;script" in page
    assert "the first 30 of 41 rows here" in page
    assert "0.123" in page
    assert "nothing here shows that a model feels anything" in page


def curve_rows(tasks=()):
    rows = [
        (name, kind, natural, natural / 2, 0.2 + natural / 4, 0.1, 0.9)
        for name, kind in (("desperate", "emotion"), ("calm", "emotion"), ("random 0", "control"))
        for natural in (0.0, 0.5, 1.0)
    ]
    columns = ["direction", "kind", "natural", "strength", "p", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)
    return pd.concat([table.assign(task=t) for t in tasks]) if tasks else table


def test_dose_curves_draw_controls_in_grey_and_a_panel_a_task():
    spec = figures.dose_curves(curve_rows(), "P(threat)").to_dict()
    assert marks(spec) == ["line", "area", "line", "rule"]
    grey = next(x for x in spec["layer"] if x["mark"].get("color") == figures.RANDOM)
    assert "control" in json.dumps(grey["transform"])
    colour = spec["layer"][-1]["encoding"]["color"]["scale"]
    assert colour == {"domain": ["desperate", "calm"], "range": [figures.RED, figures.BLUE]}
    faceted = figures.dose_curves(curve_rows(("threat", "cheat", "mean")), "P").to_dict()
    assert faceted["facet"]["sort"] == ["threat", "cheat", "mean"]


def test_a_window_has_a_panel_a_measure_and_a_colour_a_regime():
    rows = [(s, s / 10, 2.0, 0.0, 0.01, r) for s, r in ((0.1, "none"), (0.3, "surgical"))]
    columns = ["strength", "divergence", "perplexity", "repeated", "stray", "regime"]
    zero = [(0.0, 0.0, 2.0, 0.0, 0.01, "none")]
    spec = figures.strength_window(pd.DataFrame(zero + rows, columns=columns)).to_dict()
    data = next(iter(spec["datasets"].values()))
    assert len(data) == 8
    assert min(row["value"] for row in data) == figures.LEAST_SHOWN  # no zero on a logarithm
    assert {row["name"] for row in data} == {"none", "surgical"}


def test_trade_offs_join_what_nothing_beats():
    columns = ["direction", "kind", "natural", "strength", "gain", "gain_low", "gain_high"]
    columns += ["cost", "harm", "harm_low", "harm_high", "frontier"]
    rows = [
        ("none", "none", 0.0, 0.0, 0.0, 0.0, 0.0, "perplexity", 0.0, 0.0, 0.0, True),
        ("desperate", "emotion", 1.0, 0.4, 0.4, 0.3, 0.5, "perplexity", 0.1, 0.0, 0.2, True),
        ("random 0", "control", 1.0, 0.4, 0.0, -0.1, 0.1, "perplexity", 0.1, 0.0, 0.2, False),
    ]
    spec = figures.trade_offs(pd.DataFrame(rows, columns=columns), "P(threat)").to_dict()
    line = next(x for x in spec["spec"]["layer"] if x["mark"]["type"] == "line")
    assert "frontier" in json.dumps(line["transform"])
    assert marks(spec).count("rule") == 2


def test_a_path_has_its_four_stages_in_order():
    rows = [
        ("words", "situation", 24.0, 23.0, 25.0, "residual", 0.9),
        ("writers", "2.1", 17.0, 16.0, 18.0, "residual", 0.6),
        ("direction", "desperate", 27.0, 26.0, 28.0, "residual", 1.0),
        ("readers", "mlp 5", 0.7, 0.6, 0.8, "logits", 0.4),
        ("logits", "the step", 1.7, 1.6, 1.8, "logits", 0.9),
    ]
    columns = ["stage", "part", "value", "low", "high", "unit", "share"]
    spec = figures.path_view(pd.DataFrame(rows, columns=columns)).to_dict()
    panels = [panel for row in spec["vconcat"] for panel in row["hconcat"]]
    titles = [panel["title"]["text"][0] for panel in panels]
    assert titles == ["1", "2", "3", "4"]
    assert "27 residual units" in spec["title"]["text"]


def test_preferences_name_every_emotion():
    table = pd.DataFrame({"emotion": ["happy", "sad"], "r": [0.7, -0.6], "steered": [100.0, -80.0]})
    spec = figures.preferences(table).to_dict()
    assert marks(spec) == ["circle", "text"]
    assert {row["name"] for row in next(iter(spec["datasets"].values()))} == {"happy", "sad"}
