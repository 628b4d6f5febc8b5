"""Colours and fonts of the figures, for light and dark pages."""

from typing import Any, Literal

# Okabe and Ito's colours for colour-blind readers (https://jfly.uni-koeln.de/color/),
# with a lighter blue, and without yellow and black, which fade on white or dark. Then
# four more, each the farthest from all before under simulated protan-, deuter- and
# tritanopia (Machado 2009, OKLab). All have a contrast of 2.3 to both backgrounds.
PALETTE = (
    "#1a7fc1",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#9a66fe",
    "#b0391c",
    "#7d6380",
    "#6f52ee",
)
# With dashes, lines that coincide (frameworks that agree) all stay visible. They also
# distinguish hues that look alike to a reader.
DASHES = ([1, 0], [9, 3], [4, 2], [12, 3, 3, 3], [2, 2]) * 2

INK = {"light": "#1c2127", "dark": "#e4e7eb"}
PAPER = {"light": "#ffffff", "dark": "#15181d"}
# One blue, stronger where it is better, so that it reads in grey as well; no lamp on
# a dark page. White ink is legible on the first half, black on the second.
HEAT = {
    "light": ["#08306b", "#2a6fb0", "#9ecae1", "#eef5fb"],
    "dark": ["#0a4a92", "#2f6aa6", "#7f97ae", "#8d99a6"],
}
_FAINT = {"light": "#d9dde2", "dark": "#343a43"}
_MUTED = {"light": "#57606a", "dark": "#9aa4b0"}


def config(mode: Literal["light", "dark"]) -> dict[str, Any]:
    """Vega-Lite's `config` for one mode. The background stays transparent."""
    ink, faint, muted = INK[mode], _FAINT[mode], _MUTED[mode]
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "range": {"heatmap": HEAT[mode]},
        "axis": {"titlePadding": 8, "labelLimit": 150}
        | dict.fromkeys(("gridColor", "domainColor", "tickColor"), faint),
        "legend": {
            "orient": "top",
            "columns": 5,
            "symbolType": "stroke",
            "symbolOpacity": 1,
            "symbolSize": 300,
            "labelLimit": 220,
        },
        "title": {"color": ink, "anchor": "start", "fontSize": 15, "offset": 12},
        "style": {
            "guide-label": {"fill": muted, "fontSize": 12},
            "guide-title": {"fill": ink, "fontSize": 13, "fontWeight": "normal"},
            "halo": {"stroke": PAPER[mode], "strokeWidth": 3},  # around text
        },
        "rule": {"color": muted},
        "text": {"color": ink},
        "tick": {"color": ink},
    }
