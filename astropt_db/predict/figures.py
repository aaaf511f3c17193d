"""Figures of an evaluation: metrics against label fraction; one predictor's scatter and PIT."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from astropt_db.predict.comparing import Shown
from astropt_db.predict.evaluation import Result
from astropt_db.predict.metrics import reliability
from astropt_db.predict.tasks import Task

_LABELS = {
    "nmad": "NMAD",
    "crps": "CRPS",
    "outlier_percent": "outliers [%]",
    "coverage_68": "in the 68 % interval [%]",
    "coverage_95": "in the 95 % interval [%]",
    "roc_auc": "ROC-AUC",
}
_NOMINAL = {"coverage_68": 68.0, "coverage_95": 95.0, "bias": 0.0}
"""Where the metric should be, if that lies inside its scale."""

_PANELS = ("embedding", "embedding+flux", "flux")
_OTHERS = {"trees": "tab:gray", "paper_cnn": "tab:brown", "resnet": "tab:pink"}
_NAMES = {"trees": "trees on fluxes", "paper_cnn": "paper's CNN", "resnet": "residual CNN"}


def label_efficiency(path: Path, task: Task, results: Sequence[Result], metric: str) -> Path:
    """A metric against the fraction of labels, with the scatter over seeds as error bars.

    One panel for each kind of features; rivals and the catalogue stand in all of them.
    """
    found = [one for one in results if np.isfinite(one.metrics.get(metric, np.nan))]
    heads = [one for one in found if one.model not in (*_OTHERS, "phz")]
    panels = [one for one in _PANELS if any(result.features == one for result in heads)]
    colours = {name: f"C{k}" for k, name in enumerate(sorted({one.encoder or "" for one in heads}))}
    lines = dict(zip(sorted({one.model for one in heads}), ("-", ":", "-."), strict=False))
    figure = Figure(figsize=(2.6 + 3 * max(len(panels), 1), 4.2), layout="constrained")
    legend: dict[str, Artist] = {}
    grid = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels or ("",), strict=True):
        curves: dict[tuple[str, str], dict[float, list[float]]]
        curves = defaultdict(lambda: defaultdict(list))
        for one in found:
            if one.model == "phz":
                axes.axhline(one.metrics[metric], color="k", linestyle="--", label="catalogue PHZ")
            elif one.features == panel or one.model in _OTHERS:
                curves[one.model, one.encoder or ""][one.fraction].append(one.metrics[metric])
        for number, ((model, encoder), points) in enumerate(sorted(curves.items())):
            fractions = np.array(sorted(points))
            values = [np.array(points[f]) for f in fractions]
            axes.errorbar(
                fractions * 1.02**number,
                [v.mean() for v in values],
                [v.std() for v in values],
                marker="o", markersize=3, linewidth=1,
                label=_NAMES.get(model) or f"{model} {encoder or 'fluxes alone'}",
                color=_OTHERS.get(model, colours.get(encoder, "k")),
                linestyle="--" if model in _OTHERS else lines.get(model, "-"),
            )  # fmt: skip
        if metric in _NOMINAL:
            axes.axhline(_NOMINAL[metric], color="k", linewidth=0.6)
        ticks = sorted({one.fraction for one in found if one.fraction})
        axes.set(xscale="log", xlabel="training labels [%]", title=panel)
        axes.set_xticks(ticks, _apart(ticks), fontsize=7)
        axes.minorticks_off()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
    figure.legend(legend.values(), legend.keys(), loc="outside right upper", fontsize=7)
    grid[0].set_ylabel(_in_words(metric))
    figure.suptitle(task.name.replace("_", " "))
    figure.savefig(path, dpi=110)
    return path


def _in_words(metric: str) -> str:
    """``edge_on.roc_auc`` as people write it."""
    of, _, name = metric.rpartition(".")
    return f"{of.replace('_', ' ')} {_LABELS.get(name, name.replace('_', ' '))}".strip()


def _apart(ticks: Sequence[float]) -> list[str]:
    """Labels of a logarithmic axis; none where it would touch that of the next larger tick."""
    following = [*ticks[1:], np.inf]
    return [f"{a:g}" if b / a > 1.4 else "" for a, b in zip(ticks, following, strict=True)]


def density_figure(path: Path, task: Task, shown: Shown, title: str) -> Path:
    """Predicted against true values, and the distribution of the PIT."""
    assert shown.pit is not None
    truth = shown.targets[:, 0].astype(np.float64)
    prefix = task.prefix
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = shown.columns[f"{prefix}_median"]
    low, high = shown.columns[f"{prefix}_lower_68"], shown.columns[f"{prefix}_upper_68"]
    left.errorbar(
        truth, middle, [middle - low, high - middle], fmt=".", markersize=3, linewidth=0.3
    )
    ends = [truth.min(), truth.max()]
    left.plot(ends, ends, "k", linewidth=0.8)
    left.set(xlabel=f"true {prefix}", ylabel=f"predicted {prefix}, 68 % interval")
    right.hist(shown.pit, bins=20, range=(0, 1), density=True)
    right.axhline(1, color="k", linewidth=0.8)
    right.set(xlabel="PIT", ylabel="density")
    figure.suptitle(f"{title}, {len(truth):,} test sources")
    figure.savefig(path, dpi=110)
    return path


def reliability_figure(path: Path, task: Task, shown: Shown, title: str) -> Path:
    """How often what is predicted with some probability is true."""
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "k", linewidth=0.8)
    for number, name in enumerate(task.outputs):
        column = shown.columns[f"prob_{name}" if task.kind == "classes" else name]
        present = np.isfinite(shown.targets[:, number])
        if not present.any() or not column.any():
            continue
        truth = shown.targets[present, number] >= 0.5
        mean, share, count = reliability(truth, column[present])
        used = count >= 5
        axes.plot(mean[used], share[used], marker="o", markersize=3, label=name)
    axes.set(xlabel="predicted", ylabel="true share", title=title)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path


def draw_all(
    folder: Path, task: Task, results: Sequence[Result], metrics: Sequence[str]
) -> list[Path]:
    """All figures of a task; returns their files."""
    made = []
    for metric in metrics:
        if any(metric in one.metrics for one in results):
            path = folder / f"{task.name}_{metric.replace('.', '_')}.png"
            made.append(label_efficiency(path, task, results, metric))
    draw = density_figure if task.kind == "density" else reliability_figure
    what = "scatter" if task.kind == "density" else "reliability"
    for one in results:
        if one.shown is not None:
            parts = [task.name, one.model, one.features, one.encoder or ""]
            path = folder / f"{'_'.join(filter(None, parts))}_{what}.png".replace("+", "_")
            made.append(draw(path, task, one.shown, " ".join(parts).strip()))
    return made
