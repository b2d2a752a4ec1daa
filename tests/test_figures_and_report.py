"""Charts are read back, and the report neither fetches nor runs anything it should not."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html import unescape

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch
import vl_convert

from emolens import figures
from emolens.errors import SelectionError
from emolens.report import Exhibit, Section, TokenView, write_report, write_tables
from emolens.report.safe import data_island

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


@pytest.fixture(scope="module")
def page(tmp_path_factory, dose):
    path = tmp_path_factory.mktemp("report") / "r.html"
    table = pd.DataFrame({"emotion": [EVIL, *["calm"] * 40], "p": [0.123456, *[float("nan")] * 40]})
    evil_dose = dose.assign(direction=EVIL, kind=EVIL)
    picture, other = figures.dose_response(evil_dose, EVIL), figures.dose_response(dose, "cheat")
    view = TokenView(EVIL, [EVIL, "\u202egood"], torch.tensor([[1.0], [-2.0]]), [EVIL])
    sections = [
        Section(EVIL, EVIL, [Exhibit(EVIL, picture, table, "a b/steering")], details={EVIL: EVIL}),
        Section("Second", "text", [Exhibit(chart=other), Exhibit(tokens=[view, view])]),
        Section("Lens", "", not_applicable=f"an encoder {EVIL}"),
    ]
    summary = pd.DataFrame({"experiment": ["Second", EVIL], "verdict": ["failed", EVIL]})
    write_report(
        path, title=EVIL, facts={"model": f"{EVIL}\u202e"}, sections=sections, summary=summary
    )
    return path.read_text("utf-8")


def test_nothing_a_model_or_corpus_wrote_reaches_the_page_unescaped(page):
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\\u003cscript\\u003ealert(1)" in page
    assert "\u202e" not in page
    assert page.count("\u2039U+202E\u203a") == 6  # two strips, two views, and a fact twice


def test_the_page_fetches_nothing_and_holds_each_library_once(page):
    assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page) == []
    assert "<link" not in page
    assert page.count("var CircuitsVis=") == 1
    assert page.count('class="scroll chart"') == 2
    assert len(page) < 2_500_000


def test_only_scripts_of_the_page_itself_may_run(page):
    policy = unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    run = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = [b64encode(sha256(s.encode()).digest()).decode() for s in run]
    assert len(run) == 3
    assert re.findall(r"'sha256-([^']+)'", policy) == allowed


def test_what_does_not_apply_is_said_and_tables_are_cut_with_notice(page):
    assert "Not applicable: an encoder &lt;script" in page
    assert "the first 30 of 41 rows here" in page
    assert "0.123" in page
    assert 'href="tables/a%20b/steering.csv"' in page
    assert "nothing here shows that a model feels anything" in page


def test_the_summary_leads_to_the_sections_and_says_verdicts_in_words(page):
    row = re.search(r'<th scope="rowgroup"[^>]*><a href="#part-2">Second</a>(.*?)</tr>', page, re.S)
    assert '<span class="badge failed"><span aria-hidden="true">!</span> failed</span>' in row[1]
    assert page.count('<th scope="col">') == 4


def test_a_part_that_failed_is_not_called_inapplicable(tmp_path):
    part = Section("Lens", verdict="failed", not_applicable="it stopped: out of memory")
    write_report(tmp_path / "r.html", title="t", facts={}, sections=[part])
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Failed: it stopped: out of memory" in page
    assert "Not applicable" not in page


def test_specs_are_compact_and_hold_no_more_than_four_digits():
    island = data_island({"a": [1 / 3, 2.0, float("nan"), 12345.678, "x\x1b"], "b": True})
    assert json.loads(island) == {"a": [0.3333, 2, None, 12350, "x\u2039U+001B\u203a"], "b": True}
    assert " " not in island


def test_a_tables_file_may_stand_in_a_folder(tmp_path):
    write_tables(tmp_path, {"lens/words.of": pd.DataFrame({"a": [1]})})
    assert pd.read_csv(tmp_path / "tables/lens/words.of.csv").a.tolist() == [1]
    assert pd.read_parquet(tmp_path / "tables/lens/words.of.parquet").a.tolist() == [1]


def test_colours_of_tokens_are_scaled_to_the_99th_percentile_over_all_names():
    values = torch.linspace(-1, 1, 202).reshape(101, 2)
    values[0, 1] = float("nan")
    view = TokenView("ramp", [f"w{i}" for i in range(101)], values, ["calm", "sad"])
    expected = np.nanquantile(values.abs().numpy(), 0.99)
    assert view.unit == pytest.approx(expected)
    assert json.loads(view.properties)["values"][1][0] == pytest.approx(
        float(values[1, 0]) / expected, rel=1e-3
    )
    assert [level for _, level, _ in view.strip][::25] == ["n10", "n5", "", "p5", "p10"]


def test_a_token_view_wants_one_value_for_each_token_and_name():
    with pytest.raises(SelectionError, match=r"values have shape \(2, 1\), .* are \(1, 1\)"):
        TokenView("x", ["a"], torch.zeros(2, 1), ["calm"])


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


def labels(spec, mark):
    """What every mark of a kind says of its row, as drawn."""
    svg = vl_convert.vegalite_to_svg(json.dumps(spec, allow_nan=False))
    return re.findall(
        rf'aria-roledescription="{mark}"[^>]*aria-label="([^"]*)"', svg
    ) or re.findall(rf'aria-label="([^"]*)"[^>]*aria-roledescription="{mark}"', svg)


def cells(names, layers=(0,)):
    rows = [
        (layer, a, b, np.nan if (i, j) == (0, 1) else (layer + 1) * (i - j) / 8)
        for layer in layers
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    return pd.DataFrame(rows, columns=["layer", "emotion", "other", "cosine"])


def test_a_grid_draws_every_cell_that_was_measured_in_order_of_appearance():
    spec = figures.grid(
        cells(["sad", "calm", "afraid"]), row="emotion", column="other", value="cosine"
    ).to_dict()
    drawn = labels(spec, "rect mark")
    assert len(drawn) == 8
    assert "column: sad; row: afraid; cosine: 0.25; emotion: afraid; other: sad" in drawn
    assert spec["encoding"]["y"]["sort"] == ["sad", "calm", "afraid"]
    assert spec["encoding"]["color"]["scale"]["domain"] == [-0.25, 0.25]
    assert [t["title"] for t in spec["encoding"]["tooltip"]] == ["emotion", "other", "cosine"]


def test_a_grids_slider_begins_at_two_thirds_and_picks_one_layer():
    table = cells(["sad", "calm"], layers=range(0, 14, 2))
    made = figures.grid(table, row="emotion", column="other", value="cosine", slider="layer")
    spec = made.to_dict()
    (slider,) = spec["params"]
    assert slider["value"] == 8
    assert {**slider["bind"], "name": ""} == {
        "input": "range",
        "min": 0,
        "max": 12,
        "step": 2,
        "name": "",
    }
    assert "column: sad; row: calm; cosine: 1.125; emotion: calm; other: sad" in labels(
        spec, "rect mark"
    )
    slider["value"] = 0
    assert "column: sad; row: calm; cosine: 0.125; emotion: calm; other: sad" in labels(
        spec, "rect mark"
    )


def test_a_grid_of_all_emotions_is_small_and_of_few_is_readable():
    many = figures.grid(
        cells([f"e{i}" for i in range(171)]), row="emotion", column="other", value="cosine"
    ).to_dict()
    few = figures.grid(
        cells(list("abcd")), row="emotion", column="other", value="cosine", limit=1.0
    ).to_dict()
    assert len(data_island(many)) < 250_000
    assert many["usermeta"]["embedOptions"]["renderer"] == "canvas"
    assert (many["width"], few["width"]) == (620, 144)
    assert few["encoding"]["color"]["scale"]["domain"] == [-1, 1]


def test_a_grid_refuses_two_values_of_one_cell():
    twice = pd.concat([cells(["a"]), cells(["a"])])
    with pytest.raises(SelectionError, match="a pair of emotion and other occurs twice"):
        figures.grid(twice, row="emotion", column="other", value="cosine")


def points(count):
    x = np.arange(count) - 3.0
    table = pd.DataFrame({"r": x, "rise": 2 * x + 100, "word": [f"w{i}" for i in range(count)]})
    table.loc[1, "r"] = np.nan
    return table


def test_a_scatter_has_names_a_trend_and_a_zero_line_where_values_cross_it():
    spec = figures.scatter(points(8), x="r", y="rise", label="word").to_dict()
    assert marks(spec) == ["line", "rule", "circle", "text"]
    assert spec["layer"][0]["transform"] == [{"on": "x", "regression": "y"}]
    drawn = labels(spec, "circle")
    assert len(drawn) == len(spec["datasets"][spec["layer"][-1]["data"]["name"]]) == 7
    assert "r: \u22123; rise: 94; word: w0" in drawn or "r: -3; rise: 94; word: w0" in drawn
    assert "text" not in marks(figures.scatter(points(80), x="r", y="rise", label="word").to_dict())


def test_bars_are_sorted_with_intervals_and_grey_controls():
    table = pd.DataFrame(
        {
            "way": ["a", "random", "b", "lost"],
            "p": [0.2, 0.3, 0.7, np.nan],
            "low": [0.1, 0.2, np.nan, np.nan],
            "high": [0.3, 0.4, np.nan, np.nan],
            "kind": ["emotion", "control", "emotion", "emotion"],
        }
    )
    chart = figures.bars(
        table, name="way", value="p", low="low", high="high", kind="kind", baseline=0.25
    )
    spec = chart.to_dict()
    bar = spec["layer"][0]
    assert bar["encoding"]["y"]["sort"] == ["b", "random", "a", "lost"]
    assert bar["encoding"]["x2"] == {"datum": 0.25}
    svg = vl_convert.vegalite_to_svg(spec)
    assert svg.count(f'fill="{figures.RANDOM}"') == 1
    assert svg.count(f'fill="{figures.SKY}"') == 2
    assert len(labels(spec, "rule mark")) == 3


def test_lines_keep_controls_below_and_out_of_the_legend():
    rows = [
        (task, name, "control" if name == "random" else "emotion", x, x / 4, 0.0, 1.0)
        for task in ("threat", "cheat")
        for name in ("random", "calm", "sad")
        for x in range(4)
    ]
    columns = ["task", "name", "kind", "layer", "p", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)
    table.loc[table.name.eq("calm") & table.layer.eq(2), ["p", "low", "high"]] = np.nan
    same = {"x": "layer", "y": "p", "name": "name", "kind": "kind", "low": "low", "high": "high"}
    one = figures.lines(table[table.task == "threat"], **same, ordinal=True).to_dict()
    assert marks(one) == ["line", "area", "line"]
    assert one["layer"][0]["mark"]["color"] == figures.RANDOM
    assert one["layer"][-1]["encoding"]["color"]["scale"]["domain"] == ["calm", "sad"]
    assert len(labels(one, "point")) == 7  # of eight: one is missing
    panels = figures.lines(table, **same, facet="task", columns=2).to_dict()
    assert panels["facet"]["sort"] == ["threat", "cheat"]
    assert panels["columns"] == 2


def test_more_curves_than_colours_differ_in_their_dashes():
    names = [f"e{i}" for i in range(14)]
    table = pd.DataFrame({"layer": [0] * 14, "r": 0.5, "name": names})
    encoding = figures.lines(table, x="layer", y="r", name="name").to_dict()["layer"][0]["encoding"]
    ranges = (encoding[k]["scale"]["range"] for k in ("color", "strokeDash"))
    assert len({(colour, tuple(dash)) for colour, dash in zip(*ranges, strict=True)}) == 14
