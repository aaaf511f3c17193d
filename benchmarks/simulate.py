"""Speed of the simulation, and what its truth is worth: photo-z from the noisy fluxes.

    python benchmarks/simulate.py [--sources 2400] [--jobs 2]

Prints sources per second in four bands, processor time per source, and the NMAD of photometric
redshifts of bright galaxies: of the template fit in the catalogue, and of gradient-boosted
trees on the catalogue's fluxes in five-fold cross-validation.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

from astropt_db.simulate import simulate

LIMIT = 21.5
"""VIS magnitude of the DESI-like sample."""


def catalogue(folder: Path) -> pd.DataFrame:
    """Fluxes and PHZ_MEDIAN of every catalogued source, with its truth."""
    parts = []
    for path in sorted(folder.glob("catalogs/MER_FINAL_CATALOG/*/*FINAL-CAT_*.fits")):
        (redshifts,) = folder.glob(f"catalogs/PHZ_PF_OUTPUT_CATALOG/{path.parent.name}/*PHZCAT*")
        data = fits.getdata(path, 1)
        names = ["OBJECT_ID", "FLUX_DETECTION_TOTAL"]
        names += [n for n in data.names if n.startswith("FLUX_") and n.endswith("_TEMPLFIT")]
        names = [n for n in names if "VIS_TO" not in n]
        frame = pd.DataFrame({n: data[n].astype(data[n].dtype.newbyteorder("=")) for n in names})
        frame["PHZ_MEDIAN"] = fits.getdata(redshifts, 1)["PHZ_MEDIAN"].astype(np.float64)
        parts.append(frame)
    truth = pd.read_parquet(folder / "truth.parquet")
    return pd.concat(parts).merge(truth, left_on="OBJECT_ID", right_on="object_id")


def nmad(predicted: np.ndarray, true: np.ndarray) -> float:
    error = (predicted - true) / (1.0 + true)
    return float(1.48 * np.median(np.abs(error - np.median(error))))


def photo_z(table: pd.DataFrame) -> tuple[int, float, float]:
    """Number of galaxies, NMAD of the template fit, NMAD of the trees."""
    # Worker processes import this module: they need no learning.
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.model_selection import cross_val_predict

    sample = table[(table["kind"] == "galaxy") & (table["vis_magnitude"] < LIMIT)]
    columns = [n for n in sample.columns if n.startswith("FLUX_") and sample[n].notna().any()]
    fluxes = np.arcsinh(sample[columns].to_numpy(np.float64) / 0.1)
    features = np.concatenate([fluxes, fluxes - fluxes[:, :1]], axis=1)
    true = sample["redshift"].to_numpy()
    trees = HistGradientBoostingRegressor(max_iter=250, learning_rate=0.06, random_state=0)
    predicted = cross_val_predict(trees, features, true, cv=5)
    return len(sample), nmad(sample["PHZ_MEDIAN"].to_numpy(), true), nmad(predicted, true)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, default=2400)
    parser.add_argument("--tiles", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sky = Path(folder) / "sky"
        summary = simulate(sky, arguments.sources, arguments.tiles, "EDF-N", 1, jobs=arguments.jobs)
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
        size = sum(path.stat().st_size for path in summary.files) / 1e6
        print(
            f"{summary.sources} sources, {arguments.tiles} tiles of {summary.tile_size} px, "
            f"{size:.0f} MB, {arguments.jobs} jobs: {summary.seconds:.1f} s, "
            f"{summary.sources / summary.seconds:.0f} sources/s, "
            f"{1000 * seconds / summary.sources:.1f} ms of processor time per source"
        )
        number, fitted, learnt = photo_z(catalogue(sky))
        print(
            f"photo-z of {number} galaxies with VIS < {LIMIT}: "
            f"NMAD {fitted:.4f} template fit, {learnt:.4f} gradient-boosted trees"
        )


if __name__ == "__main__":
    main()
