"""Scatter plots as SVG: sharp at every size, in the colours of the page, a few bytes a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

PALETTE = (
    "#4878cf", "#e1812c", "#3a923a", "#c03d3e", "#9372b2", "#845b53", "#d684bd", "#7f7f7f",
    "#a9aa35", "#2eabb8",
)  # fmt: skip
"""Told apart by people with the common forms of colour blindness, on white and on dark grey."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 14, 12, 48


@dataclass(frozen=True)
class Points:
    """A group of points of one colour.

    Attributes
    ----------
    label
        In the legend; empty for none.
    x, y
        float64 ``(n,)``; values that are not finite are left out.
    colour
        CSS colour.
    size
        Diameter in pixels.
    opacity
        0 to 1.
    """

    label: str
    x: Float64
    y: Float64
    colour: str
    size: float = 4.0
    opacity: float = 0.6


@dataclass(frozen=True)
class Line:
    """A curve drawn over the points."""

    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its title, and its limits in the direction in which they are drawn."""

    title: str
    start: float
    end: float
    ticks: bool = True

    @classmethod
    def around(
        cls, title: str, values: Float64, reverse: bool = False, left_out: float = 0, **more: bool
    ) -> Axis:
        """Limits that hold finite values with a margin, but a percentage at either end."""
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, [left_out, 100 - left_out]) if len(finite) else (0.0, 1.0)
        low, high = float(low), float(high)
        margin = 0.04 * (high - low) or 0.5
        ends = (low - margin, high + margin)
        return cls(title, *(reversed(ends) if reverse else ends), **more)

    def scale(self, values: Float64, first: float, last: float) -> Float64:
        """Positions between two pixels."""
        return first + (values - self.start) / (self.end - self.start) * (last - first)


def scatter(
    groups: Sequence[Points],
    x: Axis,
    y: Axis,
    title: str,
    lines: Sequence[Line] = (),
    width: int = 560,
    height: int = 420,
) -> str:
    """An SVG scatter plot with a legend below it, as HTML.

    Parameters
    ----------
    title
        What a screen reader says.
    width, height
        In pixels of the drawing, which scales with the page.
    """
    left, right, top, bottom = _LEFT, width - _RIGHT, _TOP, height - _BOTTOM
    parts = [_frame(left, right, top, bottom), *_ticks(x, y, left, right, top, bottom)]
    for group in groups:
        keep = np.isfinite(group.x) & np.isfinite(group.y)
        px = x.scale(group.x[keep], left, right)
        py = y.scale(group.y[keep], bottom, top)
        inside = (px >= left) & (px <= right) & (py >= top) & (py <= bottom)
        parts.append(_dots(group, px[inside], py[inside]))
    for line in lines:
        px = x.scale(np.asarray(line.x, float), left, right)
        py = y.scale(np.asarray(line.y, float), bottom, top)
        path = "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
        dash = " stroke-dasharray='5 4'" if line.dashed else ""
        parts.append(f"<path class='line' d='M{path}'{dash}/>")
    body = "".join(parts)
    clip = f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{_text(title)}'>"
    return f"<div class='chart'>{clip}{body}</svg>{_legend(groups)}</div>"


def _dots(group: Points, px: Float64, py: Float64) -> str:
    """All points of a group as one path: round caps of lines without length."""
    steps = np.unique(np.round(np.column_stack([px, py]), 1), axis=0)
    path = "".join(f"M{a:g},{b:g}h0" for a, b in steps.tolist())
    return (
        f"<path class='dots' d='{path}' stroke='{group.colour}' stroke-width='{group.size:g}' "
        f"stroke-opacity='{group.opacity:g}'/>"
    )


def _frame(left: float, right: float, top: float, bottom: float) -> str:
    return (
        f"<rect class='frame' x='{left}' y='{top}' width='{right - left}' height='{bottom - top}'/>"
    )


def _ticks(x: Axis, y: Axis, left: float, right: float, top: float, bottom: float) -> list[str]:
    parts = [
        f"<text class='title' x='{(left + right) / 2}' y='{bottom + 40}' "
        f"text-anchor='middle'>{_text(x.title)}</text>",
        f"<text class='title' transform='translate(16,{(top + bottom) / 2}) rotate(-90)' "
        f"text-anchor='middle'>{_text(y.title)}</text>",
    ]
    for value in _nice(x) if x.ticks else []:
        at = float(x.scale(np.array(value), left, right))
        parts.append(f"<path class='grid' d='M{at:.1f},{top}V{bottom}'/>")
        parts.append(f"<text x='{at:.1f}' y='{bottom + 19}' text-anchor='middle'>{value:g}</text>")
    for value in _nice(y) if y.ticks else []:
        at = float(y.scale(np.array(value), bottom, top))
        parts.append(f"<path class='grid' d='M{left},{at:.1f}H{right}'/>")
        parts.append(f"<text x='{left - 7}' y='{at + 4.5:.1f}' text-anchor='end'>{value:g}</text>")
    return parts


def _nice(axis: Axis) -> list[float]:
    """About five round numbers within the axis."""
    low, high = sorted((axis.start, axis.end))
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _legend(groups: Sequence[Points]) -> str:
    named = [group for group in groups if group.label]
    items = "".join(
        f"<li><i style='background:{g.colour}'></i>{_text(g.label.replace('_', ' '))} "
        f"<small>{len(g.x):,}</small></li>"
        for g in named
    )
    return f"<ul class='legend'>{items}</ul>" if named else ""


def _text(text: str) -> str:
    return escape(text, quote=True)
