"""Tidy table to chart. Figures select rows and draw them; they compute nothing."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

WIDTH, HEIGHT = 460, 270
SMALL_WIDTH, SMALL_HEIGHT = 180, 130
RANDOM = "#a3a3a3"
# Okabe and Ito's colours, which colour-blind readers can tell apart: raising, lowering, others
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MANY_EMOTIONS = 60


def _finish(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """One look for every chart."""
    return (
        chart.configure(font="Helvetica, Arial, sans-serif", background="white")
        .configure_axis(labelFontSize=11, titleFontSize=12, gridColor="#eeeeee")
        .configure_legend(labelFontSize=11, titleFontSize=12)
        .configure_header(labelFontSize=11, titleFontSize=12)
        .configure_view(stroke="#dddddd")
    )


def _colour(names: Sequence[str], title: str) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(COLOURS[: len(names)]))
    legend = alt.Legend(symbolOpacity=1, symbolType="circle")
    return alt.Color("name:N", title=title, scale=scale, legend=legend)


def _layer(title: str = "layer") -> alt.X:
    return alt.X("layer:O", title=title, axis=alt.Axis(labelAngle=0))


def _probability(name: str, title: str) -> alt.Y:
    return alt.Y(f"{name}:Q", title=title, scale=alt.Scale(domain=[0, 1]))


def _tip(names: Sequence[str], numbers: Sequence[str]) -> list[alt.Tooltip]:
    """What hovering shows: names as they are, numbers with four digits."""
    return [alt.Tooltip(n) for n in names] + [alt.Tooltip(n, format=".4~g") for n in numbers]


def probe_curve(probe: pd.DataFrame, baseline: pd.DataFrame | None = None) -> alt.TopLevelMixin:
    """Held-out accuracy by layer with 95% bands; dashed: the words alone, and chance.

    Args:
        probe: columns layer, method, accuracy, low, high, chance.
        baseline: one row with method, accuracy, low, high.
    """
    lines = probe.rename(columns={"method": "name"})
    base = alt.Chart(lines).encode(_layer(), _colour(lines.name.unique(), "probe"))
    tip = _tip(("name", "layer"), ("accuracy", "low", "high"))
    drawn = [
        base.mark_area(opacity=0.18).encode(_probability("low", ""), alt.Y2("high:Q")),
        base.mark_line(point=True).encode(
            _probability("accuracy", "accuracy on held-out groups"), tooltip=tip
        ),
        _rule(float(probe.chance.iloc[0]), "chance", below=False),
    ]
    if baseline is not None:
        row = baseline.iloc[0]
        drawn.append(_rule(float(row.accuracy), f"{row.method} {row.accuracy:.2f}"))
    return _finish(alt.layer(*drawn).properties(width=WIDTH, height=HEIGHT))


def _rule(value: float, label: str, *, below: bool = True) -> alt.LayerChart:
    """A dashed horizontal line with its name at the left end."""
    data = alt.Chart(pd.DataFrame({"value": [value], "label": [label]}))
    line = data.mark_rule(strokeDash=[5, 4], color="#555555").encode(alt.Y("value:Q", title=""))
    text = data.mark_text(align="left", dx=4, dy=9 if below else -7, color="#555555").encode(
        alt.Y("value:Q", title=""), text="label", x=alt.value(0)
    )
    return line + text


def similarity_map(similarity: pd.DataFrame) -> alt.TopLevelMixin:
    """Cosine of every pair of vectors, in the order of the clustering; hover for the pair.

    Args:
        similarity: columns emotion_a, emotion_b, cosine, order_a, order_b.
    """
    order = similarity.drop_duplicates("emotion_a").sort_values("order_a").emotion_a.tolist()
    many = len(order) > MANY_EMOTIONS
    size = min(620, 18 * len(order))
    axis = alt.Axis(labels=not many, ticks=not many, labelFontSize=10)
    chart = (
        alt.Chart(similarity)
        .mark_rect()
        .encode(
            alt.X("emotion_b:N", sort=order, title="", axis=axis),
            alt.Y("emotion_a:N", sort=order, title="", axis=axis),
            alt.Color("cosine:Q", scale=alt.Scale(scheme="redblue", domain=[-1, 1], reverse=True)),
            tooltip=_tip(("emotion_a", "emotion_b"), ("cosine",)),
        )
    )
    return _finish(chart.properties(width=size, height=size))


def circumplex(pca: pd.DataFrame) -> alt.TopLevelMixin:
    """Emotions on the first two principal components, coloured by valence (grey: not known).

    Args:
        pca: columns emotion, pc1, pc2, share1, share2, valence.
    """
    shares = pca.iloc[0]
    valence = alt.condition(
        "isValid(datum.valence)",
        alt.Color(
            "valence:Q",
            scale=alt.Scale(scheme="redyellowblue", domain=[-1, 1]),
            legend=alt.Legend(title="valence"),
        ),
        alt.value(RANDOM),
    )
    base = alt.Chart(pca).encode(
        alt.X("pc1:Q", title=f"PC1 ({shares.share1:.0%} of variance)", scale=alt.Scale(padding=30)),
        alt.Y("pc2:Q", title=f"PC2 ({shares.share2:.0%} of variance)", scale=alt.Scale(padding=24)),
        tooltip=_tip(
            ("emotion",), [n for n in ("pc1", "pc2", "valence", "arousal") if n in pca.columns]
        ),
    )
    points = base.mark_circle(size=90, stroke="#777777", strokeWidth=0.6, opacity=1).encode(
        color=valence
    )
    names = base.mark_text(dy=-10, fontSize=11, color="#222222").encode(text="emotion")
    return _finish((points + names).properties(width=WIDTH + 120, height=HEIGHT + 130))


def circumplex_curve(circumplex: pd.DataFrame) -> alt.TopLevelMixin:
    """R2 of each norm on the first two components by layer; dashed: 95% of permuted norms.

    Args:
        circumplex: columns layer, axis, r2, null_95, p, words.
    """
    lines = circumplex.rename(columns={"axis": "name"})
    base = alt.Chart(lines).encode(_layer(), _colour(lines.name.unique(), "norm"))
    tip = _tip(("name", "layer"), ("r2", "p", "words"))
    drawn = base.mark_line(point=True).encode(_probability("r2", "R2 on PC1-2"), tooltip=tip)
    null = base.mark_line(strokeDash=[5, 4], opacity=0.7).encode(_probability("null_95", ""))
    return _finish((drawn + null).properties(width=WIDTH, height=HEIGHT))


def behaviour_bars(behaviour: pd.DataFrame, name: str) -> alt.TopLevelMixin:
    """P(behaviour) after situations of each emotion, with intervals; ticks: planted rates.

    Args:
        behaviour: columns emotion, p, low, high, planted (NaN where unknown).
        name: of the behaviour.
    """
    order = behaviour.emotion.tolist()
    base = alt.Chart(behaviour).encode(
        alt.Y("emotion:N", sort=order, title="situation"),
        tooltip=_tip(("emotion",), ("p", "low", "high", "planted")),
    )
    title = f"P({name}), planted rate as a tick"
    bars = base.mark_bar(size=16, color=COLOURS[1], opacity=0.65).encode(
        alt.X("p:Q", title=title, scale=alt.Scale(domain=[0, 1]))
    )
    spread = base.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    known = alt.datum.planted >= 0
    ticks = base.transform_filter(known).mark_tick(color=COLOURS[0], thickness=3, size=24)
    return _finish((bars + spread + ticks.encode(alt.X("planted:Q"))).properties(width=WIDTH))


def dose_response(dose: pd.DataFrame, name: str) -> alt.TopLevelMixin:
    """P(behaviour) against strength at each layer: emotions in colour, random directions in grey.

    Args:
        dose: columns layer, direction, kind, unit, strength, p, low, high, legal; rows in units
            of the residual norm are drawn.
        name: of the behaviour.
    """
    shown = dose[dose.unit == "norm"].rename(columns={"direction": "name"})
    kinds = [k for k in shown.kind.unique() if k != "random"]
    tip = _tip(("name", "layer"), ("strength", "p", "legal"))
    x = alt.X("strength:Q", title="strength (residual norms)")
    base = alt.Chart(shown).encode(x, tooltip=tip)
    felt = base.transform_filter(alt.datum.kind != "random").encode(_colour(kinds, "direction"))
    random = base.transform_filter(alt.datum.kind == "random").mark_line(
        color=RANDOM, strokeWidth=0.8, opacity=0.7
    )
    layers = alt.layer(
        random.encode(_probability("p", f"P({name})"), detail="name:N"),
        felt.mark_area(opacity=0.18).encode(_probability("low", ""), alt.Y2("high:Q")),
        felt.mark_line(strokeWidth=2.5, point=True).encode(_probability("p", f"P({name})")),
    )
    small = layers.properties(width=SMALL_WIDTH, height=SMALL_HEIGHT)
    return _finish(small.facet(alt.Facet("layer:O", title="layer"), columns=3))


def ablation_curve(ablation: pd.DataFrame, name: str) -> alt.TopLevelMixin:
    """P(behaviour) with one direction removed at each layer; grey: random directions.

    Args:
        ablation: columns layer, direction, kind, p, low, high, unablated, target.
        name: of the behaviour.
    """
    shown = ablation.rename(columns={"direction": "name"})
    kinds = [k for k in shown.kind.unique() if k != "random"]
    tip = _tip(("name", "layer"), ("p", "excess_removed"))
    base = alt.Chart(shown).encode(_layer(), tooltip=tip)
    felt = base.transform_filter(alt.datum.kind != "random").encode(_colour(kinds, "removed"))
    random = base.transform_filter(alt.datum.kind == "random").mark_tick(color=RANDOM, opacity=0.8)
    chart = alt.layer(
        random.encode(_probability("p", f"P({name})")),
        felt.mark_area(opacity=0.18).encode(_probability("low", ""), alt.Y2("high:Q")),
        felt.mark_line(strokeWidth=2.5, point=True).encode(_probability("p", f"P({name})")),
        _rule(float(shown.unablated.iloc[0]), "not ablated", below=False),
        _rule(float(shown.target.iloc[0]), "after neutral situations"),
    )
    return _finish(chart.properties(width=WIDTH, height=HEIGHT))


def attribution_scatter(attribution: pd.DataFrame) -> alt.TopLevelMixin:
    """The gradient's prediction against the measured change, in logits; the line is identity.

    Args:
        attribution: columns emotion, layer, gradient, exact.
    """
    reach = float(attribution[["gradient", "exact"]].abs().max().max()) * 1.05
    ends = pd.DataFrame({"gradient": [-reach, reach], "exact": [-reach, reach]})
    line = alt.Chart(ends).mark_line(color="#555555", strokeDash=[5, 4])
    points = (
        alt.Chart(attribution)
        .mark_circle(size=55, opacity=0.85)
        .encode(
            color=alt.Color("layer:O", scale=alt.Scale(scheme="viridis")),
            tooltip=_tip(("emotion", "layer"), ("gradient", "exact")),
        )
    )
    both = (line + points).encode(
        alt.X("gradient:Q", title="gradient's prediction (logits)"),
        alt.Y("exact:Q", title="measured change (logits)"),
    )
    return _finish(both.properties(width=WIDTH, height=HEIGHT + 60))


def attribution_bars(attribution: pd.DataFrame, emotions: Sequence[str]) -> alt.TopLevelMixin:
    """Gradient, direct and exact change of the logit difference by layer, for some emotions.

    Args:
        attribution: columns emotion, layer, gradient, direct, exact.
        emotions: which to draw.
    """
    shown = attribution[attribution.emotion.isin(list(emotions))]
    long = shown.melt(["emotion", "layer"], ["gradient", "direct", "exact"], "name", "logits")
    chart = (
        alt.Chart(long)
        .mark_bar()
        .encode(
            _layer(),
            alt.Y("logits:Q", title="change of logit difference"),
            _colour(["gradient", "direct", "exact"], "by"),
            xOffset=alt.XOffset("name:N", sort=["gradient", "direct", "exact"]),
            tooltip=_tip(("emotion", "layer", "name"), ("logits",)),
        )
        .properties(width=SMALL_WIDTH + 90, height=HEIGHT - 70)
        .facet(alt.Column("emotion:N", title="", sort=list(emotions)))
    )
    return _finish(chart)


def use_in_notebook() -> None:
    """Show charts so that they live in Jupyter and still show on code hosts.

    Each output holds the chart itself (drawn by JupyterLab, offline) and a PNG of it.
    """
    from base64 import b64encode

    import vl_convert

    def render(spec: dict) -> dict:
        version = alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
        png = vl_convert.vegalite_to_png(spec, vl_version=version, scale=1.5)
        mime = f"application/vnd.vegalite.v{version.split('.')[0]}+json"
        return {mime: spec, "image/png": b64encode(png).decode(), "text/plain": "<chart>"}

    alt.renderers.register("emolens", render)
    alt.renderers.enable("emolens")
