"""The sections of the page, each from :class:`~astropt_db.deliver.report.facts.Facts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from astropt_db.deliver.report.chart import PALETTE, Axis, Line, Points, scatter
from astropt_db.deliver.report.facts import Facts, Rows
from astropt_db.deliver.report.html import (
    Section,
    figure,
    gallery,
    missing,
    table,
    text,
)
from astropt_db.deliver.report.metrics import redshift_metrics

Float64 = NDArray[np.float64]

_INGEST = "astropt-db ingest catalogue FOLDER"
_MOSAICS = "astropt-db ingest mosaics FOLDER"
_EMBED = ("astropt-db encoder add mini-vis_nisp_sed", "astropt-db embed")
_GREY = "#8a93a5"
_CLASS_COLOURS = {
    "smooth": PALETTE[1],
    "featured": PALETTE[9],
    "spiral": PALETTE[0],
    "barred_spiral": PALETTE[4],
    "barred": PALETTE[5],
    "edge_on": PALETTE[2],
    "merger": PALETTE[3],
    "star": PALETTE[8],
    "qso": PALETTE[6],
    "artefact": PALETTE[7],
    "galaxy": PALETTE[0],
}


def contents(facts: Facts) -> Section:
    """Tables that were loaded, and what was computed from them."""
    if not facts.rows["products"]:
        return missing("contents", "Contents", "Nothing has been ingested yet.", [_INGEST])
    loaded = table(["product", "rows", "files", "in quarantine"], facts.rows["products"])
    vectors = facts.rows["vector_counts"]
    made = [(f"vectors of {name}", count) for name, count in vectors]
    computed = table(["computed", "rows"], made) if made else ""
    return Section("contents", "Contents", f"<div class='tables'>{loaded}{computed}</div>")


def sky(facts: Facts) -> Section:
    """A map of each field."""
    rows = [row for row in facts.rows["sky"] if row[3]]
    if not rows:
        what = "There are no sources with positions in a Euclid field yet."
        return missing("sky", "Sky", what, [_INGEST])
    charts = []
    for name, group in groupby(sorted(rows, key=lambda row: row[3]), key=lambda row: row[3]):
        charts.append(_field(str(name), list(group)))
    note = _sampled(len(facts.rows["sky"]), int(facts.rows["overview"][0][0]), "sources")
    return Section("sky", "Sky", f"<div class='charts'>{''.join(charts)}</div>{note}")


def _field(name: str, rows: Rows) -> str:
    ra, dec, mag = (np.array([row[i] for row in rows], float) for i in (1, 2, 4))
    outlier = np.array([row[5] for row in rows], bool)
    # Across RA 0 the field stays in one piece.
    middle = np.degrees(np.angle(np.exp(1j * np.radians(ra)).mean()))
    x = (ra - middle + 180) % 360 - 180 + middle % 360
    with np.errstate(invalid="ignore"):
        bright = (mag < 20.5) & ~outlier
    groups = [
        Points("sources", x[~bright & ~outlier], dec[~bright & ~outlier], _GREY, 2.5, 0.6),
        Points("VIS < 20.5", x[bright], dec[bright], PALETTE[0], 4.5, 0.8),
    ]
    if outlier.any():
        groups.append(Points("outliers", x[outlier], dec[outlier], PALETTE[3], 6, 0.95))
    chart = scatter(
        groups,
        Axis.around("right ascension (deg)", x, reverse=True),
        Axis.around("declination (deg)", dec),
        f"Positions of sources in {name}",
    )
    return f"<div><h3>{text(name)}</h3>{chart}</div>"


def space(facts: Facts) -> Section:
    """The map of the embeddings, coloured by class."""
    title = "Embedding map"
    if facts.rows["map"]:
        rows = facts.rows["map"]
        x, y = (np.array([row[i] for row in rows], float) for i in (0, 1))
        method, encoder, kinds = str(rows[0][2]).upper(), rows[0][3], [row[4] for row in rows]
    elif facts.rows.get("vectors"):
        rows = facts.rows["vectors"]
        x, y = _principal(np.array([row[0] for row in rows], float))
        method, encoder, kinds = "PCA", rows[0][1], [row[2] for row in rows]
    else:
        return missing("map", title, "There are no embeddings of the current encoder yet.", _EMBED)
    names = [name for name, _ in Counter(kind or "no class" for kind in kinds).most_common(10)]
    labels = np.array([kind or "no class" for kind in kinds])
    groups = [
        Points(name, x[labels == name], y[labels == name], _CLASS_COLOURS.get(name, _GREY), 5, 0.7)
        for name in names
    ]
    chart = scatter(
        groups,
        Axis.around(f"{method} 1", x, left_out=0.1, ticks=False),
        Axis.around(f"{method} 2", y, left_out=0.1, ticks=False),
        f"{method} map of embeddings",
        height=460,
    )
    words = f"{method} of the vectors of encoder {encoder}; colours are the predicted classes."
    more = "" if facts.rows["map"] else " A UMAP, which keeps neighbours together: astropt-db map."
    note = f"<p class='note'>{text(words)}{text(more)}{text(_leakage(facts))}</p>"
    return Section("map", title, f"<div class='charts'><div>{chart}{note}</div></div>")


def _leakage(facts: Facts) -> str:
    """What ``astropt-db map`` measured: whether the vectors betray the field."""
    if not facts.rows.get("leakage"):
        return ""
    ((fields, accuracy, chance),) = facts.rows["leakage"]
    return (
        f" Field leakage: a linear classifier tells {fields} apart with a balanced accuracy of "
        f"{accuracy:.2f} ({chance:.2f} by chance)."
    )


def _principal(vectors: Float64) -> tuple[Float64, Float64]:
    """First two principal components of ``(n, d)`` vectors of unit length."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    projected = centred @ axes[:2].T
    both = np.pad(projected, ((0, 0), (0, max(0, 2 - projected.shape[1]))))
    return both[:, 0], both[:, 1]


def redshifts(facts: Facts) -> Section:
    """Photometric against spectroscopic redshifts, and masses over redshift."""
    title, parts = "Redshift and mass", []
    if facts.rows["photoz"]:
        parts.append(_photoz_chart(facts.rows["photoz"]))
    if facts.rows["mass"]:
        parts.append(_mass_chart(facts.rows["mass"]))
    if not parts:
        what = "There are no photometric redshifts or stellar masses yet."
        commands = [
            "astropt-db ingest labels DESI.fits --recipe desi",
            "astropt-db train photoz",
            "astropt-db predict photoz",
        ]
        return missing("redshift", title, what, commands)
    return Section("redshift", title, f"<div class='charts'>{''.join(parts)}</div>")


def _photoz_chart(rows: Rows) -> str:
    spec, phot, low, high = np.array(rows, float).T
    found = redshift_metrics(spec, phot, low, high)
    top = float(np.nanpercentile(np.concatenate([spec, phot]), 99.5)) * 1.05
    chart = scatter(
        [Points("", spec, phot, PALETTE[0], 6, 0.7)],
        Axis("spectroscopic redshift", 0, top),
        Axis("photometric redshift", 0, top),
        "Photometric against spectroscopic redshift",
        [
            Line([0, top], [0, top]),
            Line([0, top], [0.15, top + 0.15 * (1 + top)], dashed=True),
            Line([0, top], [-0.15, top - 0.15 * (1 + top)], dashed=True),
        ],
    )
    facts = table(
        ["N", "NMAD", "outliers", "bias", "in 68 % interval"],
        [
            (
                found.n,
                round(found.nmad, 4),
                f"{100 * found.outlier_fraction:.1f} %",
                round(found.bias, 4),
                f"{100 * found.coverage_68:.0f} %",
            )
        ],
    )
    note = (
        "Test sources only: the predictor never saw them. NMAD = 1.48 median |dz|/(1+z); outliers "
        "|dz|/(1+z) ≥ 0.15 (dashed); bias = median dz/(1+z)."
    )
    head = "<h3>Photo-z against spectra</h3>"
    return f"<div>{head}{chart}{facts}<p class='note'>{text(note)}</p></div>"


def _mass_chart(rows: Rows) -> str:
    z, mass = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], float)
    kinds = np.array([row[2] or "galaxies" for row in rows])
    groups = [
        Points(name, z[kinds == name], mass[kinds == name], _CLASS_COLOURS.get(name, _GREY), 5)
        for name, _ in Counter(kinds.tolist()).most_common(8)
    ]
    chart = scatter(
        groups,
        Axis.around("photometric redshift", z, left_out=0.3),
        Axis.around("log10 of stellar mass (M☉)", mass, left_out=0.3),
        "Stellar mass over redshift",
    )
    return f"<div><h3>Mass and redshift</h3>{chart}</div>"


def morphology(facts: Facts) -> Section:
    """The brightest galaxies of each class."""
    if not facts.rows["morphology"]:
        commands = [
            "astropt-db ingest labels --recipe zoobot",
            "astropt-db train morphology",
            "astropt-db predict morphology",
        ]
        what = "There are no predicted morphologies yet."
        return missing("morphology", "Morphology", what, commands)
    parts = []
    for (name, count), group in groupby(facts.rows["morphology"], key=lambda row: (row[0], row[1])):
        pictures = [
            figure(facts.png(one), f"{name} {one}", _caption(one, mag, z))
            for _, _, one, mag, z in group
        ]
        title = str(name).replace("_", " ")
        head = f"<h3>{text(title)} <small>{count:,}</small></h3>"
        parts.append(head + gallery(pictures))
    return Section("morphology", "Morphology", "".join(parts) + _picture_note(facts))


def similarity(facts: Facts) -> Section:
    """A few sources with their nearest neighbours."""
    found = [one for one in facts.similar if one[2]]
    if not found:
        what = "There are no embeddings to compare yet."
        return missing("similar", "Similar objects", what, [*_EMBED, "astropt-db similar ID"])
    parts = []
    for kind, one, rows in found:
        figures = [figure(facts.png(one), f"query {one}", [f"query {one}"], "query")]
        figures += [
            figure(facts.png(near), f"similar {near}", [f"{cosine:.3f}", str(near)])
            for near, cosine, _ in rows
        ]
        title = str(kind).replace("_", " ")
        parts.append(f"<h3>{text(title)}</h3>{gallery(figures)}")
    note = "Left the query; then its nearest neighbours with their cosine similarity."
    body = f"<p class='note'>{note}</p>{''.join(parts)}"
    return Section("similar", "Similar objects", body)


def outliers(facts: Facts) -> Section:
    """The oddest sources and why."""
    if not facts.rows["outliers"]:
        what = "Outliers have not been searched for yet."
        return missing("outliers", "Outliers", what, [*_EMBED, "astropt-db outliers"])
    figures = [
        figure(
            facts.png(one),
            f"outlier {one}",
            [f"{rank}. score {score:.3f}", ", ".join(reasons or ["no known reason"]), str(one)],
        )
        for one, score, rank, reasons, _ in facts.rows["outliers"]
    ]
    note = (
        "The sources least like all others, with what may explain them. A reason such as "
        "artefact or blended makes a source less interesting, none makes it more so."
    )
    return Section("outliers", "Outliers", f"<p class='note'>{note}</p>{gallery(figures)}")


def provenance(facts: Facts) -> Section:
    """Which models and which jobs made all that."""
    parts = []
    for name, headings, title in (
        (
            "encoders",
            ["encoder", "modalities", "dimension", "weights", "current", "run"],
            "Encoders",
        ),
        (
            "predictors",
            ["task", "head", "features", "encoder", "labels", "trained on", "run"],
            "Current predictors",
        ),
        ("runs", ["run", "command", "state", "version", "started", "seconds"], "Latest runs"),
    ):
        if facts.rows[name]:
            parts.append(f"<h3>{title}</h3>" + table(headings, _plain(facts.rows[name])))
    return Section("provenance", "Provenance", "".join(parts) or "<p>There are no runs yet.</p>")


def _plain(rows: Rows) -> Rows:
    """Numbers of PostgreSQL's numeric type as floats."""
    return [tuple(float(v) if type(v).__name__ == "Decimal" else v for v in row) for row in rows]


def _caption(object_id: int, mag: float | None, z: float | None) -> Sequence[str]:
    facts = [f"VIS {mag:.1f}"] if mag is not None else []
    facts += [f"z {z:.2f}"] if z is not None else []
    return [", ".join(facts), str(object_id)]


def _sampled(shown: int, total: int, what: str) -> str:
    if shown >= total:
        return ""
    return f"<p class='note'>{shown:,} of {total:,} {what} are drawn, chosen by a hash.</p>"


def _picture_note(facts: Facts) -> str:
    if facts.picture_problem:
        return f"<p class='missing'>{text(facts.picture_problem)}</p>"
    if not facts.pictures:
        return f"<p class='missing'>No pictures: no mosaic is registered.</p><pre>{_MOSAICS}</pre>"
    return "<p class='note'>Pictures are 12.8″ wide: VIS blue, Y green, H red; north is up.</p>"


SECTIONS = (
    contents, sky, space, redshifts, morphology, similarity, outliers, provenance,
)  # fmt: skip
