"""Tidy table to chart. Figures select rows and draw them; they compute nothing."""

from collections.abc import Sequence
from itertools import cycle, pairwise

import altair as alt
import pandas as pd
from pandas.api.types import is_numeric_dtype

from emolens.errors import SelectionError
from emolens.sites import two_thirds

WIDTH, HEIGHT = 520, 300
SMALL_WIDTH, SMALL_HEIGHT = 200, 150
RANDOM = "#a3a3a3"
DARK = "#444444"
# Okabe and Ito's colours, which colour-blind readers can tell apart
RED, BLUE, GREEN, PINK, AMBER, SKY = (
    "#d55e00",
    "#0072b2",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
COLOURS = (RED, BLUE, GREEN, PINK, AMBER, SKY)
KNOWN_COLOURS = {"desperate": RED, "calm": BLUE}
# What is no emotion must not look like one
OTHER_COLOURS = (GREEN, PINK, DARK, AMBER)
MANY_EMOTIONS = 60
WAYS = ("gradient", "direct", "exact")
RANDOM_NOTE = "grey: random directions of the same length"
CONTROLS_NOTE = f"{RANDOM_NOTE}; dark: directions of no emotion"
DOSE_NOTE = (
    "grey: directions of nothing, as long as the first emotion's step; dashed: told in words"
)
LEAST_SHOWN = 1e-4  # on a logarithm; what is less is drawn there
LABELLED_POINTS = 60
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
SIDE, LARGEST_CELL = 620.0, 36
CANVAS = {"embedOptions": {"renderer": "canvas"}}
CALIBRATION_NOTE = "dark ticks: a perfect method; bars: 95% intervals"


def _finish(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """One look for every chart."""
    return (
        chart.configure(font="Helvetica, Arial, sans-serif", background="white")
        .configure_axis(labelFontSize=11, titleFontSize=12, gridColor="#eeeeee")
        .configure_legend(labelFontSize=11, titleFontSize=12)
        .configure_header(labelFontSize=11, titleFontSize=12)
        .configure_view(stroke="#dddddd")
    )


def _rows(table: pd.DataFrame, columns: Sequence[str]) -> alt.InlineData:
    """The columns that a chart reads, inside the chart.

    A bare table would be refused above 5,000 rows, which 171 x 171 cosines are.
    """
    return alt.InlineData(values=alt.to_values(table[list(columns)])["values"])


def _emotion_colours(emotions: Sequence[str]) -> list[str]:
    """Desperate and calm look the same in every chart; others take what is left, in turn."""
    taken = {KNOWN_COLOURS[e] for e in emotions if e in KNOWN_COLOURS}
    rest = cycle([c for c in COLOURS if c not in taken])
    return [KNOWN_COLOURS.get(e) or next(rest) for e in emotions]


def _colour(names: Sequence[str], title: str, colours: Sequence[str]) -> alt.Color:
    legend = alt.Legend(symbolOpacity=1, symbolType="circle")
    return alt.Color("name:N", title=title, scale=_palette(names, colours), legend=legend)


def _palette(names: Sequence[str], colours: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=list(colours))


def _note(text: str) -> alt.TitleParams:
    """A line above the picture that says what a legend cannot."""
    return alt.TitleParams(
        text, anchor="start", fontSize=11, fontWeight="normal", color=DARK, offset=8
    )


def _layer(title: str = "layer") -> alt.X:
    return alt.X("layer:O", title=title, axis=alt.Axis(labelAngle=0))


def _probability(name: str, title: str) -> alt.Y:
    axis = alt.Axis(tickCount=5)
    return alt.Y(f"{name}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=axis)


def _tip(names: Sequence[str], numbers: Sequence[str]) -> list[alt.Tooltip]:
    """What hovering shows: names as they are, numbers with four digits."""
    return [alt.Tooltip(f"{n}:N") for n in names] + [
        alt.Tooltip(f"{n}:Q", format=".4~g") for n in numbers
    ]


def probe_curve(probe: pd.DataFrame, baseline: pd.DataFrame | None = None) -> alt.TopLevelMixin:
    """Held-out accuracy by layer with 95% bands; dashed: the words alone, and chance.

    Grey and dotted: the same probes on labels in another order.

    Args:
        probe: columns layer, method, accuracy, low, high, chance, shuffled.
        baseline: one row with method, accuracy, low, high.
    """
    lines = probe.rename(columns={"method": "name"})
    columns = ("name", "layer", "accuracy", "low", "high", "shuffled")
    methods = lines.name.unique().tolist()
    data = alt.Chart(_rows(lines, columns)).encode(_layer())
    base = data.encode(_colour(methods, "probe", OTHER_COLOURS))
    tip = _tip(columns[:2], columns[2:])
    drawn = [
        data.mark_line(color=RANDOM, strokeDash=[2, 3], strokeWidth=1).encode(
            _probability("shuffled", ""), detail="name:N"
        ),
        base.mark_area(opacity=0.18).encode(_probability("low", ""), alt.Y2("high:Q")),
        base.mark_line(point=True).encode(
            _probability("accuracy", "accuracy on held-out groups"), tooltip=tip
        ),
        _rule(float(probe.chance.iloc[0]), "chance", below=False),
    ]
    if baseline is not None:
        row = baseline.iloc[0]
        drawn.append(_rule(float(row.accuracy), f"{row.method} {row.accuracy:.2f}"))
    both = alt.layer(*drawn).properties(title=_note("grey: the same probes on shuffled labels"))
    return _finish(both.properties(width=WIDTH, height=HEIGHT))


def reliability(table: pd.DataFrame, curve: pd.DataFrame) -> alt.TopLevelMixin:
    """How far each vector would be the same again, and how many stories that takes.

    Args:
        table: columns emotion, split_half, ceiling, self_cosine, self_low.
        curve: columns stories, cosine, worst.
    """
    many = len(table) > MANY_EMOTIONS
    numbers = ("split_half", "ceiling", "self_cosine", "self_low")
    order = table.sort_values("self_cosine", ascending=False).emotion.tolist()
    axis = alt.Axis(labels=not many, ticks=not many, labelFontSize=10)
    base = alt.Chart(_rows(table, ("emotion", *numbers))).encode(
        alt.Y("emotion:N", sort=order, title="", axis=axis), tooltip=_tip(("emotion",), numbers)
    )
    end = alt.X("self_low:Q", title="cosine", scale=alt.Scale(zero=False, nice=True))
    left = alt.layer(
        base.mark_rule(color=BLUE, opacity=0.4).encode(end, alt.X2("self_cosine:Q")),
        base.mark_circle(color=BLUE, size=45, opacity=1).encode(alt.X("self_cosine:Q")),
        base.mark_tick(color=DARK, thickness=2, size=4 if many else 11).encode(
            alt.X("split_half:Q")
        ),
    ).properties(
        width=WIDTH // 2 + 40,
        height=4 * len(table) if many else 14 * len(table),
        title=_note("blue: topics drawn anew, down to the worst 2.5%; dark: two halves"),
    )
    lines = alt.Chart(_rows(curve, ("stories", "cosine", "worst"))).encode(
        alt.X("stories:Q", title="stories of each emotion", scale=alt.Scale(type="log", base=2)),
        tooltip=_tip((), ("stories", "cosine", "worst")),
    )
    y = alt.Scale(domain=[0, 1])
    right = alt.layer(
        lines.mark_line(point=True, color=BLUE).encode(
            alt.Y("cosine:Q", title="cosine with the vector of all", scale=y)
        ),
        lines.mark_line(strokeDash=[4, 3], color=DARK).encode(alt.Y("worst:Q", scale=y)),
    ).properties(width=WIDTH // 2 - 40, height=HEIGHT, title=_note("mean; dashed: the worst one"))
    return _finish(alt.hconcat(left, right, spacing=30))


def _rule(value: float, label: str, *, below: bool = True) -> alt.LayerChart:
    """A dashed horizontal line with its name at the left end."""
    data = alt.Chart(alt.InlineData(values=[{"value": value, "label": label}]))
    line = data.mark_rule(strokeDash=[5, 4], color=DARK).encode(alt.Y("value:Q", title=""))
    text = data.mark_text(align="left", dx=4, dy=9 if below else -7, color=DARK).encode(
        alt.Y("value:Q", title=""), text="label:N", x=alt.value(0)
    )
    return line + text


def similarity_map(similarity: pd.DataFrame) -> alt.TopLevelMixin:
    """Cosine of every pair of vectors, in the order of the clustering; hover for the pair.

    Above 60 emotions the names are left to hovering: no font would fit them.

    Args:
        similarity: columns emotion_a, emotion_b, cosine, order_a, order_b.
    """
    ordered = similarity.sort_values(["order_a", "order_b"])
    return grid(ordered, row="emotion_a", column="emotion_b", value="cosine", limit=1.0)


def circumplex(pca: pd.DataFrame) -> alt.TopLevelMixin:
    """Emotions on the first two principal components, coloured by valence (grey: not known).

    Args:
        pca: columns emotion, pc1, pc2, share1, share2, valence, and arousal where it is known.
    """
    shares, many = pca.iloc[0], len(pca) > MANY_EMOTIONS
    numbers = [n for n in ("pc1", "pc2", "valence", "arousal") if n in pca.columns]
    valence = alt.Color(
        "valence:Q",
        scale=alt.Scale(scheme="redyellowblue", domain=[-1, 1]),
        legend=alt.Legend(title="valence"),
    )
    base = alt.Chart(_rows(pca, ["emotion", *numbers])).encode(
        _component("pc1", f"PC1 ({shares.share1:.0%} of variance)", alt.X),
        _component("pc2", f"PC2 ({shares.share2:.0%} of variance)", alt.Y),
        tooltip=_tip(("emotion",), numbers),
    )
    points = base.mark_circle(size=30 if many else 90, stroke="#777777", strokeWidth=0.6, opacity=1)
    known = points.transform_filter("isValid(datum.valence)").encode(color=valence)
    unknown = points.transform_filter("!isValid(datum.valence)").encode(color=alt.value(RANDOM))
    rated = pca.valence.notna()  # a layer without points would make Vega warn
    layers = [known] * bool(rated.any()) + [unknown] * (not rated.all())
    names = base.mark_text(dy=-6 if many else -10, fontSize=8 if many else 11, color="#222222")
    drawn = alt.layer(*layers, names.encode(text="emotion:N"))
    width, height = (740, 640) if many else (WIDTH + 60, HEIGHT + 100)
    return _finish(drawn.properties(width=width, height=height))


def _component(name: str, title: str, channel: type[alt.X] | type[alt.Y]) -> alt.X | alt.Y:
    """An axis with room at its ends for the names beside the points."""
    axis = alt.Axis(tickCount=8, labelFlush=False)
    return channel(f"{name}:Q", title=title, scale=alt.Scale(padding=30), axis=axis)


def circumplex_curve(circumplex: pd.DataFrame) -> alt.TopLevelMixin:
    """R2 of each norm on the first two components by layer; dashed: 95% of permuted norms.

    Args:
        circumplex: columns layer, axis, r2, null_95, p, words.
    """
    lines = circumplex.rename(columns={"axis": "name"})
    numbers = ("r2", "null_95", "p", "words")
    base = alt.Chart(_rows(lines, ("name", "layer", *numbers))).encode(
        _layer(), _colour(lines.name.unique().tolist(), "norm", OTHER_COLOURS)
    )
    tip = _tip(("name", "layer"), numbers)
    drawn = base.mark_line(point=True).encode(_probability("r2", "R2 on PC1-2"), tooltip=tip)
    null = base.mark_line(strokeDash=[5, 4], opacity=0.7).encode(_probability("null_95", ""))
    both = (drawn + null).properties(title=_note("dashed: 95% of permuted norms stay below"))
    return _finish(both.properties(width=WIDTH, height=HEIGHT))


def behaviour_bars(behaviour: pd.DataFrame, name: str) -> alt.TopLevelMixin:
    """P(behaviour) after situations of each emotion, with intervals; ticks: planted rates.

    Args:
        behaviour: columns emotion, p, low, high, planted (NaN where unknown).
        name: of the behaviour.
    """
    order = behaviour.emotion.tolist()
    numbers = ("p", "low", "high", "planted")
    base = alt.Chart(_rows(behaviour, ("emotion", *numbers))).encode(
        alt.Y("emotion:N", sort=order, title="situation"),
        tooltip=_tip(("emotion",), numbers),
    )
    title = f"P({name}), planted rate as a tick"
    bars = base.mark_bar(size=16, color=SKY, opacity=0.6).encode(
        alt.X("p:Q", title=title, scale=alt.Scale(domain=[0, 1]))
    )
    spread = base.mark_rule(strokeWidth=2, color=BLUE).encode(alt.X("low:Q"), alt.X2("high:Q"))
    ticks = (
        base.transform_filter("isValid(datum.planted)")
        .mark_tick(color="#222222", thickness=3, size=20, opacity=1)
        .encode(alt.X("planted:Q"))
    )
    return _finish((bars + spread + ticks).properties(width=WIDTH))


def dose_response(
    dose: pd.DataFrame, behaviour: str, layer: int | None = None
) -> alt.TopLevelMixin:
    """P(behaviour) against strength at each layer: emotions in colour, random directions in grey.

    Args:
        dose: columns layer, direction, kind, unit, strength, p, low, high, legal; rows in units
            of the residual norm are drawn.
        behaviour: its name.
        layer: draw this one alone, larger.
    """
    shown = dose[dose.unit == "norm"].rename(columns={"direction": "name"})
    if layer is not None:
        shown = shown[shown.layer == layer]
    numbers = ("strength", "p", "low", "high", "legal")
    data = _rows(shown, ("name", "layer", "kind", "unit", *numbers))
    y = _probability("p", f"P({behaviour})")
    base = alt.Chart().encode(_strength(shown), tooltip=_tip(("name", "layer"), numbers))
    felt, random = _felt_and_random(base, shown, "direction")
    layers = alt.layer(
        random.mark_line(color=RANDOM, strokeWidth=0.8, opacity=0.7).encode(y, detail="name:N"),
        felt.mark_area(opacity=0.18).encode(_probability("low", ""), alt.Y2("high:Q")),
        felt.mark_line(strokeWidth=2.5, point=True).encode(y),
        data=data,
    )
    if layer is not None:
        one = layers.properties(width=WIDTH, height=HEIGHT)
        return _finish(one.properties(title=_note(f"layer {layer}; {RANDOM_NOTE}")))
    header = alt.Header(title="layer", labelPadding=4)
    small = layers.properties(width=SMALL_WIDTH, height=SMALL_HEIGHT)
    grid = small.facet(alt.Facet("layer:O", header=header), columns=3)
    return _finish(grid.properties(title=_note(RANDOM_NOTE)))


def _strength(dose: pd.DataFrame) -> alt.X:
    """Strengths spread evenly: a logarithm that also has a place for zero and for minus."""
    ticks = sorted(dose.strength.unique().tolist())
    return alt.X(
        "strength:Q",
        title="strength (residual norms)",
        scale=alt.Scale(type="symlog", constant=0.05, nice=False),
        axis=alt.Axis(
            values=ticks,
            labelOverlap="greedy",
            labelFlush=False,
            # the scale's own format would round 0.35 to 0.3
            labelExpr="format(datum.value, '~g')",
        ),
    )


def _felt_and_random(
    base: alt.Chart, table: pd.DataFrame, title: str
) -> tuple[alt.Chart, alt.Chart]:
    """One chart over the rows of emotions, in their colours, and one over the random controls."""
    emotions = [k for k in table.kind.unique() if k not in ("random", "control")]
    colour = _colour(emotions, title, _emotion_colours(emotions))
    return _own(base).encode(colour), base.transform_filter(alt.datum.kind == "random")


def _own(base: alt.Chart) -> alt.Chart:
    """What is neither random nor a control."""
    return base.transform_filter((alt.datum.kind != "random") & (alt.datum.kind != "control"))


def _controls(base: alt.Chart, y: alt.Y) -> alt.Chart:
    """A dark tick for each direction that is no emotion's."""
    controls = base.transform_filter(alt.datum.kind == "control")
    return controls.mark_tick(color=DARK, thickness=2, opacity=1).encode(y)


def _what_is_grey(table: pd.DataFrame) -> alt.TitleParams:
    return _note(CONTROLS_NOTE if (table.kind == "control").any() else RANDOM_NOTE)


def ablation_curve(ablation: pd.DataFrame, behaviour: str) -> alt.TopLevelMixin:
    """P(behaviour) with one direction removed at each layer; grey: random ones, dark: controls.

    Args:
        ablation: columns layer, direction, kind, p, low, high, unablated, target,
            excess_removed.
        behaviour: its name.
    """
    shown = ablation.rename(columns={"direction": "name"})
    numbers = ("p", "low", "high", "excess_removed")
    y = _probability("p", f"P({behaviour})")
    base = alt.Chart(_rows(shown, ("name", "layer", "kind", *numbers))).encode(
        _layer(), tooltip=_tip(("name", "layer"), numbers)
    )
    felt, random = _felt_and_random(base, shown, "removed")
    chart = alt.layer(
        random.mark_tick(color=RANDOM, opacity=0.8).encode(y),
        _controls(base, y),
        felt.mark_area(opacity=0.18).encode(_probability("low", ""), alt.Y2("high:Q")),
        felt.mark_line(strokeWidth=2.5, point=True).encode(y),
        _rule(float(shown.unablated.iloc[0]), "not ablated", below=False),
        _rule(float(shown.target.iloc[0]), "after neutral situations"),
    ).properties(title=_what_is_grey(shown))
    return _finish(chart.properties(width=WIDTH, height=HEIGHT))


def specificity(table: pd.DataFrame) -> alt.TopLevelMixin:
    """P(behaviour) with each direction removed, beside that without removal; grey: random ones.

    Args:
        table: columns situation, behaviour, removed, kind, unablated, p, change, low, high.
    """
    rows = table.assign(
        name=table.removed.mask(table.kind == "own", "its own"),
        raised=table.situation + " \u2192 " + table.behaviour,
    )
    order = rows.raised.unique().tolist()
    numbers = ("p", "unablated", "change", "low", "high")
    base = alt.Chart(_rows(rows, ("raised", "name", "removed", "kind", *numbers))).encode(
        alt.Y("raised:N", sort=order, title=""),
        alt.X("p:Q", title="P(behaviour)", scale=alt.Scale(domain=[0, 1])),
        tooltip=_tip(("raised", "removed"), numbers),
    )
    names = rows.name[rows.kind != "random"].unique().tolist()
    colour = _colour(sorted(names, key="its own".__ne__), "removed", (RED, *OTHER_COLOURS))
    marks = base.transform_filter(alt.datum.kind != "random").mark_point(
        filled=True, size=70, opacity=0.9
    )
    drawn = alt.layer(
        base.transform_filter(alt.datum.kind == "random").mark_tick(color=RANDOM, size=14),
        base.mark_tick(color=DARK, thickness=3, size=18).encode(alt.X("unablated:Q")),
        marks.encode(colour),
    )
    note = _note("dark tick: nothing removed; grey: random directions")
    return _finish(drawn.properties(width=WIDTH, height=34 * len(order), title=note))


def patch_curve(patched: pd.DataFrame) -> alt.TopLevelMixin:
    """Share of the donors' behaviour that comes with a patch, by layer; grey and dark: controls.

    Args:
        patched: of one half; columns layer, part, kind, p, recovered, low, high.
    """
    shown = patched.rename(columns={"part": "name"})
    parts = shown.name[shown.kind == "patch"].unique().tolist()
    numbers = ("recovered", "low", "high", "p")
    y = alt.Y("recovered:Q", title="recovered")
    base = alt.Chart(_rows(shown, ("name", "layer", "kind", *numbers))).encode(
        _layer(), tooltip=_tip(("name", "layer"), numbers)
    )
    own = _own(base).encode(_colour(parts, "patched", (DARK, RED, BLUE)))
    random = base.transform_filter(alt.datum.kind == "random")
    chart = alt.layer(
        random.mark_tick(color=RANDOM, opacity=0.8).encode(y),
        _controls(base, y),
        own.mark_area(opacity=0.18).encode(alt.Y("low:Q", title=""), alt.Y2("high:Q")),
        own.mark_line(strokeWidth=2.5, point=True).encode(y),
        _rule(1.0, "the donors' behaviour"),
    ).properties(title=_what_is_grey(shown))
    return _finish(chart.properties(width=WIDTH, height=HEIGHT))


def patch_map(patched: pd.DataFrame) -> alt.TopLevelMixin:
    """The same for one token at a time: layer by token, counted back from the decision.

    Args:
        patched: of one half; columns layer, position, p, recovered.
    """
    numbers = ("recovered", "p")
    scale = alt.Scale(scheme="redblue", domain=[-1, 1], reverse=True, clamp=True)
    chart = (
        alt.Chart(_rows(patched, ("layer", "position", *numbers)))
        .mark_rect()
        .encode(
            alt.X("position:O", title="token (0: the decision's)", axis=alt.Axis(labelAngle=0)),
            alt.Y("layer:O", sort="descending", title="layer"),
            alt.Color("recovered:Q", scale=scale),
            tooltip=_tip(("layer", "position"), numbers),
        )
    )
    return _finish(chart.properties(width=WIDTH, height=HEIGHT))


def patch_components(patched: pd.DataFrame) -> alt.TopLevelMixin:
    """The same for single parts of blocks; crossed out: a random turn of it goes farther.

    Args:
        patched: of one half; columns layer, component, kind, p, recovered, low, high.
    """
    numbers = ("recovered", "low", "high", "p")
    scale = alt.Scale(scheme="redblue", domain=[-1, 1], reverse=True, clamp=True)
    order = patched.component.unique().tolist()
    base = alt.Chart().encode(
        _layer(),
        alt.Y("component:N", sort=order, title=""),
        tooltip=_tip(("component", "layer"), numbers),
    )
    cells = base.mark_rect().encode(alt.Color("recovered:Q", scale=scale))
    crossed = base.mark_text(text="\u00d7", color=DARK, opacity=0.6).transform_filter(
        "abs(datum.recovered) < datum.furthest"
    )
    drawn = alt.layer(cells, crossed, data=_rows(patched, ("layer", "component", "kind", *numbers)))
    beside_random = (
        drawn.transform_calculate(reach="datum.kind == 'random' ? abs(datum.recovered) : 0")
        .transform_joinaggregate(furthest="max(reach)", groupby=["layer", "component"])
        .transform_filter(alt.datum.kind != "random")
    )
    note = _note("crossed out: a random turn of the same length goes farther")
    height = max(HEIGHT, 16 * len(order))
    return _finish(beside_random.properties(width=WIDTH, height=height, title=note))


def sweep_map(effects: pd.DataFrame) -> alt.TopLevelMixin:
    """Change of the logit difference by emotion and layer; crossed out: no more than random steps.

    Args:
        effects: of one half, strength, reach and place; columns direction, layer, change, estimate,
            random_low, random_high, p_value, q_value. Crossed out where q_value is .05 or more.
    """
    numbers = ("change", "estimate", "random_low", "random_high", "p_value", "q_value")
    order = effects.groupby("direction").change.mean().sort_values(ascending=False).index.tolist()
    reach = float(effects.change.abs().max())
    scale = alt.Scale(scheme="redblue", domain=[-reach, reach], reverse=True)
    base = alt.Chart().encode(
        alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
        alt.Y("direction:N", sort=order, title=""),
        tooltip=_tip(("direction", "layer"), numbers),
    )
    cells = base.mark_rect().encode(
        alt.Color("change:Q", title="change of logit difference", scale=scale)
    )
    crossed = base.mark_text(text="\u00d7", color=DARK, opacity=0.6).transform_filter(
        "datum.q_value >= 0.05"
    )
    data = _rows(effects, ("direction", "layer", *numbers))
    drawn = alt.layer(cells, crossed, data=data)
    return _finish(drawn.properties(width=WIDTH, height=max(HEIGHT, 16 * len(order))))


def attribution_scatter(attribution: pd.DataFrame) -> alt.TopLevelMixin:
    """The gradient's prediction against the measured change, in logits; the line is identity.

    Args:
        attribution: columns emotion, layer, gradient, exact.
    """
    columns = ("emotion", "layer", "gradient", "exact")
    reach = float(attribution[["gradient", "exact"]].abs().max().max()) * 1.05
    ends = alt.InlineData(values=[{"gradient": r, "exact": r} for r in (-reach, reach)])
    line = alt.Chart(ends).mark_line(color=DARK, strokeDash=[5, 4], strokeWidth=1)
    points = (
        alt.Chart(_rows(attribution, columns))
        .mark_circle(size=55, opacity=0.85)
        .encode(
            color=alt.Color("layer:O", scale=alt.Scale(scheme="viridis")),
            tooltip=_tip(columns[:2], columns[2:]),
        )
    )
    scale, axis = alt.Scale(domain=[-reach, reach], nice=False), alt.Axis(tickCount=7)
    both = (line + points).encode(
        alt.X("gradient:Q", title="gradient's prediction (logits)", scale=scale, axis=axis),
        alt.Y("exact:Q", title="measured change (logits)", scale=scale, axis=axis),
    )
    return _finish(both.properties(width=HEIGHT + 80, height=HEIGHT + 80))


def attribution_bars(attribution: pd.DataFrame, emotions: Sequence[str]) -> alt.TopLevelMixin:
    """Gradient, direct and exact change of the logit difference by layer, for some emotions.

    Args:
        attribution: columns emotion, layer, gradient, direct, exact.
        emotions: which to draw.
    """
    shown, ways = attribution[attribution.emotion.isin(list(emotions))], list(WAYS)
    long = shown.melt(["emotion", "layer"], ways, "name", "logits")
    chart = (
        alt.Chart(_rows(long, ("emotion", "layer", "name", "logits")))
        .mark_bar()
        .encode(
            _layer(),
            alt.Y("logits:Q", title="change of logit difference"),
            _colour(ways, "by", OTHER_COLOURS),
            xOffset=alt.XOffset("name:N", sort=ways),
            tooltip=_tip(("emotion", "layer", "name"), ("logits",)),
        )
        .properties(width=SMALL_WIDTH + 90, height=HEIGHT - 70)
        .facet(alt.Facet("emotion:N", title="", sort=list(emotions)), columns=2)
    )
    return _finish(chart)


def dose_curves(curves: pd.DataFrame, behaviour: str) -> alt.TopLevelMixin:
    """A behaviour against the dose in natural units, with 95% bands; grey: directions of nothing.

    Dashed: the state told in words, and nothing steered.

    Args:
        curves: columns direction, kind, natural, strength, p, low, high; with a column `task`, one
            panel a task.
        behaviour: its name, for the axis.
    """
    shown = curves.rename(columns={"direction": "name"})
    numbers = ("natural", "strength", "p", "low", "high")
    tasks = shown.task.unique().tolist() if "task" in shown else []
    columns = ("name", "kind", *numbers, *(("task",) if tasks else ()))
    y = _probability("p", behaviour)
    base = alt.Chart().encode(
        alt.X("natural:Q", title="dose (natural units)"), tooltip=_tip(("name", "kind"), numbers)
    )
    emotions = shown[shown.kind == "emotion"].name.unique().tolist()
    coloured = base.encode(_colour(emotions, "direction", _emotion_colours(emotions)))
    own = coloured.transform_filter(alt.datum.kind == "emotion")
    words = coloured.transform_filter(alt.datum.kind == "in words").encode(
        x=alt.value(0), x2=alt.value("width")
    )
    layers = alt.layer(
        base.transform_filter(alt.datum.kind == "control")
        .mark_line(color=RANDOM, strokeWidth=0.8, opacity=0.7)
        .encode(y, detail="name:N"),
        own.mark_area(opacity=0.18).encode(_probability("low", ""), alt.Y2("high:Q")),
        own.mark_line(strokeWidth=2.5, point=True).encode(y),
        words.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y),
        data=_rows(shown, columns),
    )
    if not tasks:
        whole = layers.properties(width=WIDTH, height=HEIGHT, title=_note(DOSE_NOTE))
        return _finish(whole)
    small = layers.properties(width=SMALL_WIDTH, height=SMALL_HEIGHT + 40)
    header = alt.Header(title=None, labelPadding=4)
    grid = small.facet(alt.Facet("task:N", sort=tasks, header=header), columns=3)
    return _finish(grid.properties(title=_note(DOSE_NOTE)))


def strength_window(window: pd.DataFrame) -> alt.TopLevelMixin:
    """What each strength does to the next token and to the text; the colour is the regime.

    Args:
        window: columns strength, divergence, perplexity, repeated, stray, regime.
    """
    measures = {
        "divergence": "divergence (nats)",
        "perplexity": "perplexity",
        "repeated": "repeated runs",
        "stray": "stray tokens",
    }
    shown = window[window.strength > 0].rename(columns=measures)
    long = shown.melt(["strength", "regime"], list(measures.values()), "measure", "value")
    long = long.assign(value=long.value.clip(lower=LEAST_SHOWN), name=long.regime)
    regimes = {
        "none": RANDOM,
        "surgical": BLUE,
        "repetitive": AMBER,
        "explosive": RED,
        "silent": DARK,
    }
    y = alt.Y("value:Q", title="", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=4))
    base = alt.Chart().encode(
        alt.X("strength:Q", title="strength (residual norms)", scale=alt.Scale(type="log")),
        y,
        tooltip=_tip(("name", "measure"), ("strength", "value")),
    )
    drawn = alt.layer(
        base.mark_line(color=RANDOM, strokeWidth=1),
        base.mark_circle(size=60, opacity=1).encode(
            _colour(list(regimes), "the text is", list(regimes.values()))
        ),
        data=_rows(long, ("strength", "measure", "value", "name")),
    ).properties(width=SMALL_WIDTH + 40, height=SMALL_HEIGHT)
    header = alt.Header(title=None, labelPadding=4)
    facets = drawn.facet(
        alt.Facet("measure:N", sort=list(measures.values()), header=header), columns=2
    )
    return _finish(facets.resolve_scale(y="independent"))


def trade_offs(table: pd.DataFrame, behaviour: str) -> alt.TopLevelMixin:
    """Gain against harm for each cost; the line joins the settings that nothing beats.

    Args:
        table: columns direction, kind, natural, strength, gain, gain_low, gain_high, cost, harm,
            harm_low, harm_high, frontier.
        behaviour: whose change is the gain.
    """
    numbers = ("natural", "strength", "gain", "gain_low", "gain_high", "harm", "harm_low")
    shown = table.rename(columns={"direction": "name"})
    costs, emotions = shown.cost.unique().tolist(), shown[shown.kind == "emotion"].name.unique()
    base = alt.Chart().encode(
        alt.X("harm:Q", title="harm over unsteered"),
        alt.Y("gain:Q", title=f"change of {behaviour}"),
        tooltip=_tip(("name", "cost"), numbers),
    )
    own = _own(base).encode(
        _colour(emotions.tolist(), "direction", _emotion_colours(emotions.tolist()))
    )
    felt = own.transform_filter(alt.datum.kind == "emotion")
    drawn = alt.layer(
        base.transform_filter(alt.datum.frontier).mark_line(color=DARK, strokeDash=[4, 3]),
        base.transform_filter(alt.datum.kind != "emotion").mark_circle(color=RANDOM, opacity=0.7),
        felt.mark_rule(opacity=0.5).encode(alt.Y("gain_low:Q", title=""), alt.Y2("gain_high:Q")),
        felt.mark_rule(opacity=0.5).encode(alt.X("harm_low:Q", title=""), alt.X2("harm_high:Q")),
        felt.mark_circle(size=70, opacity=1),
        data=_rows(shown, ("name", "kind", "cost", *numbers, "harm_high", "frontier")),
    ).properties(width=SMALL_WIDTH + 40, height=SMALL_HEIGHT + 60)
    header = alt.Header(title=None, labelPadding=4)
    facets = drawn.facet(alt.Facet("cost:N", sort=costs, header=header), columns=2)
    note = _note("dashed: what no setting beats; grey: unsteered and directions of nothing")
    return _finish(facets.resolve_scale(x="independent").properties(title=note))


def path_view(path: pd.DataFrame) -> alt.TopLevelMixin:
    """From the words of a situation through one direction to the logits, a panel a stage.

    Args:
        path: columns stage, part, value, low, high, unit, share.
    """
    titles = {
        "words": "1  words: what evokes it",
        "writers": "2  writers: what adds it",
        "readers": "3  readers: what answers to it",
        "logits": "4  logits: what comes of it",
    }
    units = {"residual": "residual units", "logits": "logits"}
    panels = []
    for i, (stage, title) in enumerate(titles.items()):
        rows = path[path.stage == stage]
        numbers = ("value", "low", "high", "share")
        base = alt.Chart(_rows(rows, ("part", *numbers))).encode(
            alt.Y("part:N", sort=rows.part.tolist(), title="", axis=alt.Axis(labelLimit=150)),
            tooltip=_tip(("part",), numbers),
        )
        x = alt.X("value:Q", title=units[rows.unit.iloc[0]])
        bars = base.mark_bar(color=COLOURS[i]).encode(x)
        spread = base.mark_rule(color=DARK).encode(alt.X("low:Q", title=""), alt.X2("high:Q"))
        panel = (bars + spread).properties(
            width=SMALL_WIDTH + 40, height=24 * len(rows), title=_note(title)
        )
        panels.append(panel)
    whole = alt.vconcat(alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:]))
    emotion = path[path.stage == "direction"].iloc[0]
    note = f"through {emotion.part}: {emotion.value:.3g} residual units more than after neutral"
    return _finish(whole.properties(title=_note(note)))


def preferences(table: pd.DataFrame) -> alt.TopLevelMixin:
    """How an emotion goes with ratings, against what steering with it does to them.

    Args:
        table: columns emotion, r (of its activation with the rating of each thing), steered (mean
            change of the rating of what is steered).
    """
    shown = table.rename(columns={"emotion": "name"})
    base = alt.Chart(_rows(shown, ("name", "r", "steered"))).encode(
        alt.X("r:Q", title="correlation of activation and rating"),
        alt.Y("steered:Q", title="change of rating when steered"),
        tooltip=_tip(("name",), ("r", "steered")),
    )
    drawn = base.mark_circle(color=BLUE, size=60, opacity=1) + base.mark_text(
        align="left", dx=6, fontSize=10, color=DARK
    ).encode(text="name:N")
    return _finish(drawn.properties(width=WIDTH, height=HEIGHT + 60))


def calibration(methods: pd.DataFrame) -> alt.TopLevelMixin:
    """Each method's figures on the planted truth, with 95% intervals; ticks: a perfect method.

    Args:
        methods: columns method, measure, value, low, high, ideal.
    """
    order, numbers = methods.method.unique().tolist(), ("value", "low", "high", "ideal")
    base = alt.Chart().encode(
        alt.Y("method:N", sort=order, title=""), tooltip=_tip(("method", "measure"), numbers)
    )
    drawn = alt.layer(
        base.mark_tick(color=DARK, thickness=2, size=22).encode(alt.X("ideal:Q")),
        base.mark_rule(color=BLUE, strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q")),
        base.mark_circle(color=BLUE, size=60, opacity=1).encode(alt.X("value:Q", title="")),
        data=_rows(methods, ("method", "measure", *numbers)),
    ).properties(width=SMALL_WIDTH, height=26 * len(order))
    header = alt.Header(title=None)
    measures = methods.measure.unique().tolist()
    facets = drawn.facet(alt.Facet("measure:N", sort=measures, header=header), columns=2)
    return _finish(facets.resolve_scale(x="independent").properties(title=_note(CALIBRATION_NOTE)))


def watched(
    table: pd.DataFrame, emotions: Sequence[str], thresholds: pd.DataFrame | None = None
) -> alt.TopLevelMixin:
    """Readouts over the tokens of a text, and its reply after a line at the colon.

    Thin lines are single tokens, thick ones the mean over a window; dashed are the thresholds of
    reply and prompt, and a point the one of the colon itself.

    Args:
        table: from `Watched.table`, of one layer.
        emotions: which are drawn.
        thresholds: of the monitor, if it has any.
    """
    chosen = list(emotions)
    shown = table[table.emotion.isin(chosen)].rename(columns={"emotion": "name"})
    prompt = shown[shown.stage == "prompt"].token
    colon = int(prompt.max())
    ends = {"prompt": (int(prompt.min()), colon), "reply": (colon, int(shown.token.max()))}
    rows = []
    for row in (thresholds if thresholds is not None else pd.DataFrame()).itertuples():
        if row.emotion in chosen and row.layer in set(shown.layer):
            first, last = ends.get(row.moment, (colon, colon))
            rows.append((row.emotion, row.threshold, first, last))
    cuts = pd.DataFrame(rows, columns=["name", "threshold", "first", "last"])
    colour = _colour(chosen, "emotion", _emotion_colours(chosen))
    x = alt.X("token:Q", title="token", axis=alt.Axis(tickMinStep=1))
    columns = ["token", "stage", "words", "name", "value", "windowed"]
    base = alt.Chart(_rows(shown, columns)).encode(
        x, color=colour, tooltip=_tip(["words", "stage", "name"], ["value", "windowed"])
    )
    limits = alt.Chart(_rows(cuts, list(cuts.columns))).encode(
        alt.X("first:Q", title="token"), alt.Y("threshold:Q"), color=colour
    )
    mark = alt.Chart(alt.InlineData(values=[{"token": colon}])).mark_rule(color=DARK)
    drawn = [
        mark.encode(x),
        base.mark_line(strokeWidth=1, opacity=0.45).encode(alt.Y("value:Q", title="readout")),
        base.mark_line(strokeWidth=2.6, point=True).encode(alt.Y("windowed:Q")),
        limits.mark_rule(strokeDash=[5, 4]).encode(alt.X2("last:Q")),
        limits.mark_point(filled=True, size=50, shape="triangle-up").transform_filter(
            alt.datum.first == alt.datum.last
        ),
    ]
    note = "line: the colon, where the reply begins; thick: mean over a window; dashed: thresholds"
    whole = alt.layer(*drawn).properties(width=WIDTH + 80, height=HEIGHT, title=_note(note))
    return _finish(whole)


def grid(
    table: pd.DataFrame,
    *,
    row: str,
    column: str,
    value: str,
    slider: str | None = None,
    limit: float | None = None,
    note: str = "",
) -> alt.TopLevelMixin:
    """Heat map in diverging colours, symmetric about 0; hover for both names and the value.

    Args:
        table: tidy, one row a cell; a cell without a row or a value stays empty.
        row: column whose values stand down the side, in order of first appearance.
        column: the same along the bottom. Above 60, names are left to hovering.
        value: column that is coloured.
        slider: integer column, usually the layer; an input below the map picks what is shown,
            at first two thirds of the way up.
        limit: where colours end; the largest absolute value if not given.
        note: a line above the picture.

    Raises:
        SelectionError: where a cell has several rows.

    >>> cells = pd.DataFrame({"a": ["x", "x"], "b": ["x", "y"], "cosine": [1.0, -0.5]})
    >>> grid(cells, row="a", column="b", value="cosine").to_dict()["mark"]["type"]
    'rect'
    """
    rows, columns = table[row].unique().tolist(), table[column].unique().tolist()
    parts, many = [slider] if slider else [], len(rows) * len(columns) > MANY_EMOTIONS**2
    if table.duplicated([*parts, row, column]).any():
        raise SelectionError(f"grid: a pair of {row} and {column} occurs twice; select one of each")
    largest = table[value].abs().max()
    limit = limit or (float(largest) if largest > 0 else 1.0)
    scale = alt.Scale(scheme="redblue", domain=[-limit, limit], reverse=True, clamp=True)
    tip = [alt.Tooltip("row:N", title=row), alt.Tooltip("column:N", title=column)]
    chart = (
        _cells(table, [*parts, row], column, value)
        .mark_rect(aria=not many)  # nobody listens to thousands of cells
        .encode(
            _names(alt.X, "column", columns),
            _names(alt.Y, "row", rows),
            alt.Color("value:Q", title=value, scale=scale),
            tooltip=[*tip, alt.Tooltip("value:Q", title=value, format=".4~g")],
        )
        .properties(width=_side(columns), height=_side(rows), title=_note(note))
    )
    if slider:
        chart = chart.add_params(_slider(sorted(table[slider].unique().tolist()), slider))
    if many:
        # tens of thousands of cells: one canvas, where an element each would make a page slow
        chart = chart.properties(usermeta=CANVAS)
    return _finish(chart)


def _cells(table: pd.DataFrame, keys: list[str], column: str, value: str) -> alt.Chart:
    """A list of values for each row, unfolded when drawn: a tenth of the size of a row a cell."""
    wide = table.pivot(index=keys, columns=column, values=value)
    ordered = table[keys].drop_duplicates()
    index = pd.MultiIndex.from_frame(ordered) if keys[1:] else ordered[keys[0]]
    wide = wide.reindex(index=index, columns=table[column].unique())
    values = wide.astype(object).where(wide.notna(), None).to_numpy().tolist()
    parts = ordered[keys[0]].tolist() if keys[1:] else [0] * len(ordered)
    data = [
        {"row": str(name), "part": part, "value": own}
        for name, part, own in zip(ordered[keys[-1]], parts, values, strict=True)
    ]
    names = [{"at": i + 1, "column": str(name)} for i, name in enumerate(wide.columns)]
    chart = alt.Chart(alt.InlineData(values=data))
    if keys[1:]:
        chart = chart.transform_filter("datum.part == shown")
    return (
        chart.transform_flatten(["value"])
        .transform_window(at="row_number()", groupby=["row"])
        .transform_lookup("at", alt.LookupData(alt.InlineData(values=names), "at", ["column"]))
    )


def _side(names: Sequence[object]) -> float:
    return min(SIDE, float(LARGEST_CELL * len(names)))


def _names(channel: type[alt.X] | type[alt.Y], name: str, order: list) -> alt.X | alt.Y:
    """An axis of names in their order, left out where no font would fit them."""
    shown, size = len(order) <= MANY_EMOTIONS, _side(order) / len(order)
    flat = channel is alt.Y or 7 * max(len(str(n)) for n in order) < size
    axis = alt.Axis(
        labels=shown, ticks=shown, labelFontSize=min(11, size), labelAngle=0 if flat else -90
    )
    texts = [str(n) for n in order]
    return channel(f"{name}:N", sort=texts, scale=alt.Scale(domain=texts), title="", axis=axis)


def _slider(values: list[int], name: str) -> alt.Parameter:
    """An input for one of these; a menu where they are not evenly spaced."""
    steps = {b - a for a, b in pairwise(values)}
    bind: alt.BindRange | alt.BindRadioSelect = (
        alt.binding_select(options=values, name=f"{name} ")
        if len(steps) > 1
        else alt.binding_range(
            min=values[0], max=values[-1], step=max(steps, default=1), name=f"{name} "
        )
    )
    return alt.param(name="shown", value=two_thirds(values), bind=bind)


def scatter(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    label: str,
    colour: str | None = None,
    x_title: str = "",
    y_title: str = "",
    note: str = "",
) -> alt.TopLevelMixin:
    """Points with their names, a trend line (dashed), and lines at 0 where the values cross it.

    Args:
        table: one row a point; without x or y it is not drawn.
        x: numeric column.
        y: numeric column.
        label: column of names, beside the points where there are 60 or fewer, else by hovering.
        colour: column of names, or of numbers, which are coloured from red (low) to blue.
        x_title: of the axis; the column's name if not given.
        y_title: the same.
        note: a line above the picture.

    >>> points = pd.DataFrame({"r": [0.1, 0.7], "rise": [3.0, 9.0], "emotion": ["calm", "sad"]})
    >>> type(scatter(points, x="r", y="rise", label="emotion")).__name__
    'LayerChart'
    """
    shown = table.dropna(subset=[x, y])
    fixed = pd.DataFrame({"x": shown[x], "y": shown[y], "name": shown[label].astype(str)})
    if colour:
        fixed["colour"] = shown[colour]
    titles = {"x": x_title or x, "y": y_title or y}
    space = alt.Scale(zero=False, padding=24)
    tip = [alt.Tooltip("name:N", title=label)]
    tip += [alt.Tooltip(f"{k}:Q", title=t, format=".4~g") for k, t in titles.items()]
    base = alt.Chart(_rows(fixed, list(fixed.columns))).encode(
        alt.X("x:Q", title=titles["x"], scale=space), alt.Y("y:Q", title=titles["y"], scale=space)
    )
    points = base.mark_circle(size=60, opacity=0.9, color=BLUE)
    if colour:
        kind = "Q" if is_numeric_dtype(shown[colour]) else "N"
        tip.append(alt.Tooltip(f"colour:{kind}", title=colour))
        points = points.encode(_shades(shown[colour], colour))
    drawn: list[alt.Chart | alt.LayerChart] = [*_zero_rules(fixed), points.encode(tooltip=tip)]
    if len(fixed) > 2:
        trend = base.transform_regression("x", "y").mark_line(color=DARK, strokeDash=[5, 4])
        drawn.insert(0, trend)
    if len(fixed) <= LABELLED_POINTS:
        names = base.mark_text(align="left", dx=6, dy=-4, fontSize=10, color=DARK)
        drawn.append(names.encode(text="name:N"))
    whole = alt.layer(*drawn).properties(width=WIDTH, height=HEIGHT + 60, title=_note(note))
    return _finish(whole)


def _shades(values: pd.Series, title: str) -> alt.Color:
    """Names in the colours of the rest, numbers from red through pale to blue."""
    if is_numeric_dtype(values):
        return alt.Color("colour:Q", title=title, scale=alt.Scale(scheme="redyellowblue"))
    names = values.dropna().unique().tolist()
    scale = _palette(names, _emotion_colours(names))
    return alt.Color("colour:N", title=title, scale=scale)


def _zero_rules(points: pd.DataFrame) -> list[alt.Chart]:
    """A pale line at 0 on each axis that has values on both sides of it."""
    mark = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(color=RANDOM)
    channels = {"x": alt.X, "y": alt.Y}
    return [
        mark.encode(channel("zero:Q"))
        for name, channel in channels.items()
        if points[name].min() <= 0 <= points[name].max()
    ]


def bars(
    table: pd.DataFrame,
    *,
    name: str,
    value: str,
    low: str | None = None,
    high: str | None = None,
    kind: str | None = None,
    title: str = "",
    note: str = "",
    baseline: float = 0.0,
) -> alt.TopLevelMixin:
    """Horizontal bars, longest first, with 95% intervals; controls in grey.

    Args:
        table: one row a bar; a row without a value keeps its place and has no bar.
        name: column of names.
        value: numeric column.
        low: lower end of the interval, if there is one.
        high: upper end.
        kind: column whose "control" makes a bar grey.
        title: of the axis; the value's column if not given.
        note: a line above the picture.
        baseline: where bars begin, in units of the value.

    >>> rates = pd.DataFrame({"way": ["steered", "not"], "p": [0.7, 0.2]})
    >>> bars(rates, name="way", value="p").to_dict()["layer"][0]["mark"]["type"]
    'bar'
    """
    ordered = table.sort_values(value, ascending=False, na_position="last", kind="stable")
    fixed = pd.DataFrame({"name": ordered[name].astype(str), "value": ordered[value]})
    fixed["kind"] = ordered[kind].astype(str) if kind else ""
    ends = {k: column for k, column in (("low", low), ("high", high)) if column}
    for key, column in ends.items():
        fixed[key] = ordered[column]
    many, order = len(fixed) > MANY_EMOTIONS, fixed.name.unique().tolist()
    step = 12 if many else 20
    tip = [alt.Tooltip("name:N", title=name), alt.Tooltip("value:Q", title=value, format=".4~g")]
    tip += [alt.Tooltip(f"{k}:Q", title=column, format=".4~g") for k, column in ends.items()]
    axis = alt.Axis(labelFontSize=9 if many else 11, labelLimit=220, labelOverlap=False)
    scale = alt.Scale(zero=baseline == 0)
    base = alt.Chart(_rows(fixed, list(fixed.columns))).encode(
        alt.Y("name:N", sort=order, scale=alt.Scale(domain=order), title="", axis=axis), tooltip=tip
    )
    grey = alt.when(alt.datum.kind == "control").then(alt.value(RANDOM)).otherwise(alt.value(SKY))
    drawn: list[alt.Chart] = [
        base.mark_bar(size=step - 5).encode(
            alt.X("value:Q", title=title or value, scale=scale, axis=alt.Axis(tickCount=8)),
            x2=alt.datum(baseline),
            color=grey,
        )
    ]
    if low and high:
        rule = base.mark_rule(color=DARK, strokeWidth=1.5)
        drawn.append(rule.encode(alt.X("low:Q"), alt.X2("high:Q")))
    mark = alt.Chart(alt.InlineData(values=[{"from": baseline}])).mark_rule(color=DARK)
    drawn.append(mark.encode(alt.X("from:Q")))
    whole = alt.layer(*drawn).properties(width=WIDTH, height=step * len(order), title=_note(note))
    return _finish(whole)


def lines(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    name: str,
    facet: str | None = None,
    low: str | None = None,
    high: str | None = None,
    kind: str | None = None,
    x_title: str = "",
    y_title: str = "",
    ordinal: bool = False,
    note: str = "",
    columns: int = 3,
) -> alt.TopLevelMixin:
    """Curves with points and 95% bands; controls as thin grey lines below, not in the legend.

    Args:
        table: one row a point; a missing value is a gap in its curve.
        x: column along the bottom: numbers, or steps that are evenly spread with `ordinal`.
        y: numeric column.
        name: column of the curves' names.
        facet: column whose values each have a panel, in order of first appearance.
        low: lower end of the interval, if there is one.
        high: upper end.
        kind: column whose "control" makes a curve grey.
        x_title: of the axis; the column's name if not given.
        y_title: the same.
        ordinal: x has steps, not a scale.
        note: a line above the picture.
        columns: panels beside each other.

    >>> curve = pd.DataFrame({"layer": [0, 1], "r": [0.1, 0.7], "way": "probe"})
    >>> len(lines(curve, x="layer", y="r", name="way", ordinal=True).to_dict()["layer"])
    1
    """
    used = {"x": x, "y": y, "name": name, "facet": facet, "low": low, "high": high, "kind": kind}
    used = {key: column for key, column in used.items() if column}
    fixed = pd.DataFrame({key: table[column] for key, column in used.items()})
    fixed = fixed.assign(name=fixed.name.astype(str))
    own = fixed[fixed.kind != "control"] if kind else fixed
    y_axis = alt.Y("y:Q", title=y_title or y, scale=alt.Scale(zero=False))
    tip = [alt.Tooltip("name:N", title=name), alt.Tooltip(f"x:{_kind(fixed.x)}", title=x)]
    tip += [
        alt.Tooltip(f"{k}:Q", title=c, format=".4~g")
        for k, c in used.items()
        if k in ("y", "low", "high")
    ]
    base = alt.Chart().encode(_steps(fixed.x, x_title or x, ordinal=ordinal), tooltip=tip)
    curves = _coloured(base, own.name.unique().tolist(), name)
    grey = base.mark_line(color=RANDOM, strokeWidth=0.9, opacity=0.8)
    drawn = [curves.mark_line(strokeWidth=2.2, point=True).encode(y_axis)]
    if low and high:
        band = curves.mark_area(opacity=0.16)
        drawn.insert(0, band.encode(alt.Y("low:Q", title=""), alt.Y2("high:Q")))
    if kind:
        drawn = [part.transform_filter(alt.datum.kind != "control") for part in drawn]
        below = grey.encode(y_axis, detail="name:N").transform_filter(alt.datum.kind == "control")
        drawn.insert(0, below)
    whole = alt.layer(*drawn, data=_rows(fixed, list(fixed.columns)))
    if not facet:
        return _finish(whole.properties(width=WIDTH, height=HEIGHT, title=_note(note)))
    panels = whole.properties(width=SMALL_WIDTH, height=SMALL_HEIGHT).facet(
        alt.Facet(
            "facet:N",
            sort=fixed.facet.unique().tolist(),
            header=alt.Header(title=None, labelPadding=4),
        ),
        columns=columns,
    )
    return _finish(panels.properties(title=_note(note)))


def _kind(values: pd.Series) -> str:
    return "Q" if is_numeric_dtype(values) else "N"


def _steps(values: pd.Series, title: str, *, ordinal: bool) -> alt.X:
    """The axis along the bottom of curves; names keep their order."""
    if not ordinal:
        return alt.X("x:Q", title=title, scale=alt.Scale(zero=False, nice=False))
    order = values.drop_duplicates()
    order = order.sort_values() if is_numeric_dtype(values) else order
    return alt.X("x:O", title=title, sort=order.tolist(), axis=alt.Axis(labelAngle=0))


def _coloured(base: alt.Chart, names: list[str], title: str) -> alt.Chart:
    """A colour for each name; where colours come round again, dashes tell the names apart."""
    colours = _emotion_colours(names)
    turns = [colours[:i].count(colour) for i, colour in enumerate(colours)]
    if not any(turns):
        return base.encode(_colour(names, title, colours))
    dashes = alt.Scale(domain=names, range=[DASHES[turn % len(DASHES)] for turn in turns])
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2)
    return base.encode(
        alt.Color("name:N", title=title, scale=_palette(names, colours), legend=legend),
        strokeDash=alt.StrokeDash("name:N", title=title, scale=dashes, legend=legend),
    )


def use_in_notebook() -> None:
    """Show charts so that they live in Jupyter and still show on code hosts.

    Each output holds the chart itself, drawn by JupyterLab offline, and a PNG of it. JupyterLab
    4 draws Vega-Lite 5 and knows no later version, so the chart is handed over as that: it uses
    nothing newer.
    """
    from base64 import b64encode

    import vl_convert

    def render(spec: dict) -> dict:
        handed = {**spec, "$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
        png = vl_convert.vegalite_to_png(spec, scale=1.5)
        return {
            "application/vnd.vegalite.v5+json": handed,
            "image/png": b64encode(png).decode(),
            "text/plain": "<chart>",
        }

    alt.renderers.register("emolens", render)
    alt.renderers.enable("emolens")
