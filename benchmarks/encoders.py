"""What the encoders have learned: losses beside what can be predicted, and linear probes.

    python benchmarks/encoders.py FIT TEST mini-vis mini-vis_nisp ... [--json FILE]

FIT (one or several, with commas between) and TEST are simulated releases (``astropt-db simulate``);
no encoder may have been trained on TEST.
Losses are those of the sources of TEST that the paper would select, over the 63 predictions that
end in the paper's vector and over all: beside the model, predicting each patch's mean (0), and a
floor: the loss of somebody who knows the noiseless patch, from the noise map, if the noise of each
pixel were its own. (That of NISP is not: pixels across a patch's edge tell of it, and a model can
go below.) "With light": patches whose light varies more than their noise. "Foreseen" is the model's
share of the way from the patch mean to the floor.

Probes are linear (ridge, logistic; strength by cross-validation on FIT), fitted on vectors of FIT
and scored on TEST, beside the same for an untrained model of the same size.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from astropy.io import fits
from scipy.stats import norm
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astropt_db.astropt import Encoder, load_encoder, sed_from_columns
from astropt_db.astropt.model import AstroPT
from astropt_db.astropt.tokens import image_tokens, patchify, sed_tokens
from astropt_db.images.mosaic import read_header
from astropt_db.images.source import BANDS
from astropt_db.images.tiles import TileSource

CENTRAL, MIDDLE = 64, 128  # patches and pixels that the paper's pooling sees
TYPES = {
    "elliptical": 0, "lenticular": 0, "spiral": 1, "barred_spiral": 1, "ring": 1, "edge_on": 2,
    "irregular": 3, "merger": 4,
}  # fmt: skip


@dataclass
class Sky:
    """Sources of a simulated release with truth, in one order.

    Windows are the middle that the paper's pooling sees; of the first bright ones also the whole
    windows, the noise of their pixels, and SEDs.
    """

    pixels: np.ndarray
    sed: np.ndarray
    truth: dict[str, np.ndarray]
    bright: np.ndarray
    whole: np.ndarray
    noise: np.ndarray
    whole_sed: np.ndarray


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fit")
    parser.add_argument("test", type=Path)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--others", type=int, default=600, help="sources beside the selection")
    parser.add_argument("--losses", type=int, default=384, help="sources for the losses")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    fit = read_skies([Path(one) for one in options.fit.split(",")], options.others, 0)
    test = read_skies([options.test], options.others, options.losses)
    print(f"{len(fit.bright):,} and {len(test.bright):,} sources, "
          f"{fit.bright.sum():,} and {test.bright.sum():,} of the paper's selection\n")  # fmt: skip
    found = {}
    for name in options.encoders:
        encoder = load_encoder(name, "cpu")
        untrained = load_encoder(name, "cpu")
        torch.manual_seed(1)
        untrained.model = AstroPT(encoder.checkpoint.model).eval()
        found[Path(name).stem] = {
            "losses": losses(load_encoder(name, "cpu", "reference"), test),
            "probes": probes(encoder, fit, test),
            "probes_untrained": probes(untrained, fit, test),
        }
        show(Path(name).stem, found[Path(name).stem])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def read_skies(folders: list[Path], others: int, whole: int) -> Sky:
    """Read the paper's selection and some other sources of releases.

    Parameters
    ----------
    others
        Sources of each release that are not of the selection.
    whole
        Sources of the selection with whole windows and noise, a quarter of them from each tile.
    """
    parts = [
        read_tile(folder, path, others // 4, whole // 4)
        for folder in folders
        for path in sorted(folder.glob("catalogs/MER_FINAL_CATALOG/*/EUC_MER_FINAL-CAT*"))
    ]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("pixels", "sed", "bright", "whole", "noise", "whole_sed")
    }
    truth = {k: np.concatenate([part.truth[k] for part in parts]) for k in parts[0].truth}
    if whole:
        # The map gives the noise of independent pixels; resampling has made neighbours alike and
        # the scatter of a single pixel smaller.
        scatter = np.nanmedian(np.abs(arrays["whole"] / arrays["noise"]), axis=(0, 2, 3))
        arrays["noise"] *= (scatter / norm.ppf(0.75))[:, None, None].astype(np.float32)
    return Sky(truth=truth, **arrays)


def read_tile(folder: Path, path: Path, others: int, whole: int) -> Sky:
    """Read the sources of a tile's catalogue."""
    table = pq.read_table(folder / "truth.parquet").to_pandas().set_index("object_id")
    table = table[table.detected]
    rows = fits.getdata(path, 1)
    rows = rows[np.isin(rows["OBJECT_ID"], table.index)]
    magnitude = 23.9 - 2.5 * np.log10(np.maximum(rows["FLUX_DETECTION_TOTAL"], 1e-9))
    area = rows["SEGMENTATION_AREA"]
    bright = (area > 700) | ((magnitude < 20.5) & (area > 200))
    some = np.random.default_rng(1).permutation(np.flatnonzero(~bright))[:others]
    keep = np.sort(np.append(np.flatnonzero(bright), some))
    rows, bright = rows[keep], bright[keep]
    ids = np.asarray(rows["OBJECT_ID"], np.int64)
    place = np.array([rows["RIGHT_ASCENSION"], rows["DECLINATION"]], float)
    mosaics = [read_header(str(one)) for one in folder.glob(f"MER/{path.parent.name}/*/*")]
    images = [one for one in mosaics if one.kind == "BGSUB"]
    maps = [replace(one, kind="BGSUB") for one in mosaics if one.kind == "RMS"]
    fluxes = [name for name in rows.dtype.names if name.endswith("_2FWHM_APER")]
    sed = sed_from_columns({name: np.asarray(rows[name], np.float32) for name in fluxes})
    chosen = np.flatnonzero(bright)[:whole]
    several = ids[chosen], *place[:, chosen]
    names = ("kind", "morphology", "redshift", "log_mass")
    return Sky(
        TileSource(images, BANDS, np.nan, MIDDLE).cutouts(ids, *place).pixels,
        sed,
        {name: table.loc[ids][name].to_numpy() for name in names},
        bright,
        TileSource(images, BANDS, np.nan).cutouts(*several).pixels,
        TileSource(maps, BANDS, np.nan).cutouts(*several).pixels,
        sed[chosen],
    )


def losses(encoder: Encoder, sky: Sky) -> dict[str, dict[str, float]]:
    """Mean Huber losses by group of patches, and of the SED."""
    parts = [
        part_losses(encoder, sky, slice(first, first + 32))
        for first in range(0, len(sky.whole), 32)
    ]
    patches, lit = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    usable = torch.isfinite(patches).all(dim=-1)
    central = torch.zeros_like(usable)
    central[:, : CENTRAL - 1] = True
    groups = {"central": central, "central, with light": central & lit, "all": usable}
    found = {}
    for name, group in groups.items():
        mean, ours, floor = patches[group & usable].mean(dim=0).tolist()
        found[name] = {
            "share": float((group & usable).sum() / usable.sum()),
            "patch_mean": mean, "model": ours, "floor": floor,
            "foreseen": (mean - ours) / (mean - floor),
        }  # fmt: skip
    if encoder.takes_sed:
        mean, ours = np.mean([part[2] for part in parts], axis=0)
        found["sed"] = {"band_mean": float(mean), "model": float(ours)}
    return found


def part_losses(
    encoder: Encoder, sky: Sky, some: slice
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Losses of some sources.

    Returns
    -------
    tuple
        For each predicted patch, the losses of its mean, of the model and of the floor
        ``(n, 195, 3)``; whether it has more light than noise; losses of the SED, of the bands'
        means and of the model.
    """
    how = encoder.preprocessing
    images = torch.from_numpy(sky.whole[some, : how.bands])
    tokens = {"images": image_tokens(images, how.patch_size, scale=how.scale)}
    if encoder.takes_sed:
        tokens["sed"], present = sed_tokens(torch.from_numpy(sky.whole_sed[some]))
    with torch.no_grad():
        predicted = encoder.model.predict(tokens)
    scale = torch.tensor(how.scale or (1.0,) * how.bands).repeat(how.patch_size**2)
    raw = patchify(images, how.patch_size) * scale
    sigma = patchify(torch.from_numpy(sky.noise[some, : how.bands]), how.patch_size) * scale
    ratio = (sigma / raw.std(dim=-1, keepdim=True)).clamp(max=1.0)[:, 1:]
    known = torch.isfinite(raw[:, 1:]) & torch.isfinite(ratio)
    target = tokens["images"][:, 1:]
    values = [huber(target), huber(target - predicted["images"]), expected_huber(ratio)]
    patches = torch.stack([patch_mean(one, known) for one in values], dim=-1)
    sed = []
    if encoder.takes_sed:
        flux, use = tokens["sed"][..., 0], present[..., 0] > 0
        mean = (flux * use).sum(dim=0) / use.sum(dim=0)
        sed = [float(huber(flux - one)[use].mean()) for one in (mean, predicted["sed"][..., 0])]
    return patches, patch_mean(ratio**2, known) < 0.5, sed


def huber(error: torch.Tensor) -> torch.Tensor:
    """Huber loss, delta 1, of each number."""
    return torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5)


def expected_huber(sigma: torch.Tensor) -> torch.Tensor:
    """Mean Huber loss of a Gaussian of mean 0."""
    bound = 1.0 / sigma.clamp_min(1e-6)
    density = torch.exp(-0.5 * bound**2) / np.sqrt(2 * np.pi)
    inside = torch.erf(bound / np.sqrt(2.0))
    quadratic = 0.5 * sigma**2 * (inside - 2 * bound * density)
    return quadratic + 2 * sigma * density - 0.5 * (1 - inside)


def patch_mean(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean over the known pixels of each patch."""
    return torch.where(known, values, 0.0).sum(-1) / known.sum(-1)


def probes(encoder: Encoder, fit: Sky, test: Sky) -> dict[str, float]:
    """Scores of linear probes."""
    x, y = (
        encoder.embed(sky.pixels[:, : len(encoder.bands)], sky.sed if encoder.takes_sed else None)
        for sky in (fit, test)
    )
    scores = {}
    galaxies = [(sky.truth["kind"] == "galaxy") & sky.bright for sky in (fit, test)]
    kinds = [np.array([TYPES.get(m, -1) for m in sky.truth["morphology"]]) for sky in (fit, test)]
    use = [one & (kind >= 0) for one, kind in zip(galaxies, kinds, strict=True)]
    model = classifier("balanced_accuracy").fit(x[use[0]], kinds[0][use[0]])
    scores["type, balanced accuracy"] = balanced_accuracy_score(
        kinds[1][use[1]], model.predict(y[use[1]])
    )
    flags = [(sky.truth["morphology"] == "edge_on") for sky in (fit, test)]
    scores["edge-on, AUC"] = auc(x, y, flags, galaxies)
    for name, key in (("redshift", "redshift"), ("log mass", "log_mass")):
        value = [np.asarray(sky.truth[key], float) for sky in (fit, test)]
        use = [one & np.isfinite(v) for one, v in zip(galaxies, value, strict=True)]
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))
        predicted = ridge.fit(x[use[0]], value[0][use[0]]).predict(y[use[1]])
        scores[f"{name}, R2"] = r2_score(value[1][use[1]], predicted)
        scatter = predicted - value[1][use[1]]
        if key == "redshift":
            scatter = scatter / (1 + value[1][use[1]])
        deviation = np.abs(scatter - np.median(scatter))
        scores[f"{name}, NMAD"] = 1.48 * np.median(deviation)
    flags = [(sky.truth["kind"] == "star") for sky in (fit, test)]
    use = [np.isin(sky.truth["kind"], ["star", "galaxy"]) for sky in (fit, test)]
    scores["star, AUC (all sources)"] = auc(x, y, flags, use)
    return {name: float(value) for name, value in scores.items()}


def auc(x: np.ndarray, y: np.ndarray, flags: list[np.ndarray], use: list[np.ndarray]) -> float:
    """Area under the ROC curve of a linear classifier."""
    model = classifier("roc_auc").fit(x[use[0]], flags[0][use[0]])
    return float(roc_auc_score(flags[1][use[1]], model.decision_function(y[use[1]])))


def classifier(scoring: str) -> Any:
    """Logistic regression whose strength is chosen on the fitting sky."""
    logistic = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 5), cv=4, scoring=scoring, class_weight="balanced", max_iter=400
    )
    return make_pipeline(StandardScaler(), logistic)


def show(name: str, found: dict[str, Any]) -> None:
    """Print what was found for an encoder."""
    print(f"{name}\n{'loss':28}{'patches':>9}{'mean':>9}{'model':>9}{'floor':>9}{'foreseen':>9}")
    for group, one in found["losses"].items():
        if group == "sed":
            print(f"{'SED, beside band means':37}{one['band_mean']:9.4f}{one['model']:9.4f}")
            continue
        print(f"{group:28}{one['share']:9.1%}{one['patch_mean']:9.4f}{one['model']:9.4f}"
              f"{one['floor']:9.4f}{one['foreseen']:9.1%}")  # fmt: skip
    print(f"{'probe':37}{'trained':>9}{'untrained':>11}")
    for probe, score in found["probes"].items():
        print(f"{probe:37}{score:9.3f}{found['probes_untrained'][probe]:11.3f}")
    print()


if __name__ == "__main__":
    main()
