"""Draw the pictures of docs/simulation.md from one simulated sky.

    python benchmarks/simulation_pages.py [SKY_FOLDER]

Without a folder a sky is simulated first (2,400 sources, about a minute). Needs matplotlib.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image

from astropt_db.simulate import simulate

mpl.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
CLASSES = (
    *("elliptical", "lenticular", "spiral", "barred_spiral", "edge_on", "ring"),
    *("irregular", "merger", "lens", "star", "qso", "artefact"),
)
COLUMNS = 9
ZERO_POINTS = {"VIS": 24.6, "NIR-Y": 29.8, "NIR-J": 30.0, "NIR-H": 29.9}


@dataclass
class Sky:
    """A simulated release in memory: images in microjansky, truth, catalogue."""

    images: dict[int, dict[str, np.ndarray]]
    wcs: dict[int, WCS]
    truth: pd.DataFrame
    catalogue: pd.DataFrame
    photo_z: np.ndarray


def read(folder: Path) -> Sky:
    truth = pd.read_parquet(folder / "truth.parquet")
    images, wcs = {}, {}
    for tile in truth["tile"].unique():
        images[tile] = {}
        for band, zero_point in ZERO_POINTS.items():
            (path,) = folder.glob(f"MER/{tile}/*/EUC_MER_BGSUB-MOSAIC-{band}_*.fits")
            with fits.open(path) as hdus:
                scale = 10.0 ** (-0.4 * (zero_point - 23.9))
                images[tile][band] = hdus[0].data.astype(np.float32) * scale
                wcs[tile] = WCS(hdus[0].header)
    parts, redshifts = [], []
    for path in sorted(folder.glob("catalogs/MER_FINAL_CATALOG/*/*FINAL-CAT_*.fits")):
        data = fits.getdata(path, 1)
        names = ["OBJECT_ID", "FLUX_DETECTION_TOTAL", "FLUX_Y_TEMPLFIT", "FLUX_H_TEMPLFIT",
                 "SEGMENTATION_AREA", "FLUXERR_DETECTION_TOTAL"]  # fmt: skip
        parts.append(
            pd.DataFrame({n: data[n].astype(data[n].dtype.newbyteorder("=")) for n in names})
        )
    for path in sorted(folder.glob("catalogs/PHZ_PF_OUTPUT_CATALOG/*/*PHZCAT*.fits")):
        redshifts.append(fits.getdata(path, 1)["PHZ_MEDIAN"].astype(np.float64))
    return Sky(images, wcs, truth, pd.concat(parts), np.concatenate(redshifts))


def cut_out(sky: Sky, row: pd.Series, half: int, band: str = "VIS") -> np.ndarray:
    x, y = sky.wcs[row["tile"]].all_world2pix(row["ra"], row["dec"], 0)
    x, y = round(float(x)), round(float(y))
    padded = np.pad(sky.images[row["tile"]][band], half)
    return padded[y : y + 2 * half, x : x + 2 * half]


def half_width(row: pd.Series) -> int:
    """Half a frame about a source: a few times its size."""
    size = max(row["half_light_radius"], 0.8 * row["einstein_radius"])
    return int(np.clip(round(38 * size + 14), 24, 112))


def choose(sky: Sky, morphology: str, count: int) -> pd.DataFrame:
    """Sources of a class from bright to faint, down to where the eye gives up."""
    truth = sky.truth
    group = truth[truth["morphology"] == morphology]
    if morphology == "artefact":
        group = truth[truth["kind"] == "artefact"]
    limit = 23.0 if morphology in ("star", "qso", "artefact") else 21.6
    group = group[group["detected"] & (group["vis_magnitude"] < limit)]
    group = group[(group["vis_magnitude"] > 16.4) | (group["kind"] == "star")]
    group = group.sort_values("vis_magnitude")
    return group.iloc[np.unique(np.linspace(0, len(group) - 1, min(count, len(group))).astype(int))]


def stretch(image: np.ndarray, softening: float = 0.004) -> np.ndarray:
    curved = np.arcsinh(image / softening)
    top = max(np.percentile(curved, 99.6), 2.0)
    return np.clip((curved + 0.4) / (top + 0.4), 0.0, 1.0)


def class_page(sky: Sky) -> None:
    figure, axes = plt.subplots(
        len(CLASSES), COLUMNS, figsize=(COLUMNS * 0.98, len(CLASSES) * 1.05)
    )
    for axis in axes.flat:
        axis.axis("off")
    for line, morphology in zip(axes, CLASSES, strict=True):
        line[0].text(-0.08, 0.5, morphology.replace("_", " "), rotation=90, fontsize=7,
                     ha="right", va="center", transform=line[0].transAxes)  # fmt: skip
        chosen = choose(sky, morphology, COLUMNS)
        for axis, (_, row) in zip(line, chosen.iterrows(), strict=False):
            half = half_width(row)
            axis.imshow(
                stretch(cut_out(sky, row, half)), cmap="gray", origin="lower", vmin=0, vmax=1
            )
            what = row["morphology"] if row["kind"] == "artefact" else f"{row['vis_magnitude']:.1f}"
            if np.isfinite(row["redshift"]):
                what += f"  z {row['redshift']:.2f}"
            axis.set_title(f'{what}  {half / 5:.0f}"', fontsize=4.5, pad=1.5)
    figure.subplots_adjust(0.035, 0.004, 0.998, 0.985, 0.03, 0.14)
    save(figure, "simulation_classes.png", 118, 9)


def band_page(sky: Sky) -> None:
    """Some galaxies in the four bands: each band has its PSF, its noise, its stars."""
    names = ("elliptical", "barred_spiral", "edge_on", "merger", "lens")
    figure, axes = plt.subplots(4, len(names) * 2, figsize=(len(names) * 2 * 0.9, 3.7))
    rows = [choose(sky, name, 5).iloc[k] for name in names for k in (0, 2)]
    for column, row in enumerate(rows):
        for line, (band, softening) in enumerate(
            zip(ZERO_POINTS, (0.004, 0.01, 0.01, 0.01), strict=True)
        ):
            axis = axes[line, column]
            axis.imshow(stretch(cut_out(sky, row, half_width(row), band), softening), cmap="gray",
                        origin="lower", vmin=0, vmax=1)  # fmt: skip
            axis.axis("off")
            if column == 0:
                axis.text(-0.08, 0.5, band, rotation=90, fontsize=7, ha="right", va="center",
                          transform=axis.transAxes)  # fmt: skip
    figure.subplots_adjust(0.03, 0.01, 0.998, 0.99, 0.03, 0.03)
    save(figure, "simulation_bands.png", 100, 9)


def field_page(sky: Sky) -> None:
    """A piece of sky in VIS, Y and H as blue, green and red."""
    images = next(iter(sky.images.values()))
    side = 900
    low = (images["VIS"].shape[0] - side) // 2
    window = np.s_[low : low + side, low : low + side]
    layers = [images[band][window] for band in ("NIR-H", "NIR-Y", "VIS")]
    light = np.stack(layers, axis=-1) * np.array([0.55, 0.8, 1.7])
    curved = np.clip(np.arcsinh(np.maximum(light + 0.004, 0.0) / 0.012) / 5.5, 0.0, 1.0)
    small = Image.fromarray((curved[::-1] * 255).astype(np.uint8)).resize((560, 560))
    Image.fromarray(coarser(np.asarray(small), 8)).save(
        IMAGES / "simulation_field.png", optimize=True
    )


def population_page(sky: Sky) -> None:
    table = sky.catalogue.assign(photo_z=sky.photo_z).merge(
        sky.truth, left_on="OBJECT_ID", right_on="object_id"
    )
    galaxy = table[table["kind"] == "galaxy"]
    magnitude = 23.9 - 2.5 * np.log10(galaxy["FLUX_DETECTION_TOTAL"])
    figure, axes = plt.subplots(2, 3, figsize=(10, 6))
    _counts(axes[0, 0], sky.truth[sky.truth["kind"] == "galaxy"])
    axis = axes[0, 1]
    for limit, colour in ((24.5, "0.7"), (22.5, "tab:blue"), (20.5, "tab:red")):
        part = galaxy[galaxy["vis_magnitude"] < limit]
        axis.hist(part["redshift"], np.arange(0, 3.01, 0.1), color=colour, label=f"VIS < {limit}")
    axis.set(xlabel="true redshift", ylabel="galaxies", yscale="log")
    axis.legend(fontsize=7)
    axis = axes[0, 2]
    with np.errstate(invalid="ignore"):
        for kind, colour in (("galaxy", "0.5"), ("star", "tab:orange"), ("qso", "tab:blue")):
            part = table[table["kind"] == kind]
            blue = -2.5 * np.log10(part["FLUX_DETECTION_TOTAL"] / part["FLUX_Y_TEMPLFIT"])
            red = -2.5 * np.log10(part["FLUX_Y_TEMPLFIT"] / part["FLUX_H_TEMPLFIT"])
            axis.plot(blue, red, ".", ms=2, color=colour, label=kind)
    axis.set(xlabel="VIS - Y", ylabel="Y - H", xlim=(-1, 4), ylim=(-1.5, 2))
    axis.legend(fontsize=7)
    axis = axes[1, 0]
    for quiescent, colour in ((False, "tab:blue"), (True, "tab:red")):
        part = (galaxy["sed_type"] < 0.7) == quiescent
        label = "quiescent" if quiescent else "star-forming"
        axis.plot(
            magnitude[part], galaxy["half_light_radius"][part], ".", ms=2, color=colour, label=label
        )
    axis.set(xlabel="VIS magnitude", ylabel="true half-light radius [arcsec]", yscale="log")
    axis.legend(fontsize=7)
    axis = axes[1, 1]
    bright = galaxy[galaxy["vis_magnitude"] < 23]
    axis.plot(bright["redshift"], bright["photo_z"], ".", ms=2, color="0.4")
    axis.plot([0, 2.5], [0, 2.5], color="tab:red", lw=0.8)
    axis.set(xlabel="true redshift", ylabel="PHZ_MEDIAN", xlim=(0, 2.5), ylim=(0, 2.5))
    axis.set_title("VIS < 23", fontsize=8)
    axis = axes[1, 2]
    kinds = galaxy["morphology"].value_counts()
    axis.barh(kinds.index[::-1], kinds.to_numpy()[::-1], color="0.5")
    axis.set(xlabel="galaxies")
    figure.tight_layout()
    save(figure, "simulation_population.png", 80, 4, "RGB")


def _counts(axis: plt.Axes, galaxies: pd.DataFrame) -> None:
    """Weighted counts against a fit to deep i-band counts of the literature."""
    edges = np.arange(17.0, 24.6, 0.5)
    magnitude = galaxies["vis_magnitude"]
    real, _ = np.histogram(magnitude, edges, weights=galaxies["weight"])
    drawn, _ = np.histogram(magnitude, edges)
    middle = edges[:-1] + 0.25
    # The weights are per tile: every tile estimates the density of the same sky.
    tiles = galaxies["tile"].nunique()
    axis.plot(middle, real / tiles / 0.5, "o-", color="tab:blue", label="simulated, weighted")
    axis.plot(middle, 9e3 * 10 ** (0.36 * (middle - 22.0)), "--", color="0.4",
              label="i-band counts, 0.36 dex/mag")  # fmt: skip
    axis.plot(middle, drawn / 0.5, ".-", color="tab:orange", label="drawn (this sky)")
    axis.set(xlabel="VIS magnitude", ylabel="galaxies / deg$^2$ / mag", yscale="log")
    axis.legend(fontsize=7)


def coarser(pixels: np.ndarray, step: int) -> np.ndarray:
    """Fewer grey levels: noise compresses better, the eye sees no difference."""
    return np.minimum((pixels.astype(np.int64) + step // 2) // step * step, 255).astype(np.uint8)


def save(figure: plt.Figure, name: str, dpi: int, step: int, mode: str = "L") -> None:
    path = IMAGES / name
    figure.savefig(path, dpi=dpi, facecolor="white")
    plt.close(figure)
    picture = np.asarray(Image.open(path).convert(mode))
    Image.fromarray(coarser(picture, step)).save(path, optimize=True)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        pages(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        sky = Path(folder) / "sky"
        simulate(sky, 2400, 2, "EDF-N", 11, jobs=2, progress=print)
        pages(sky)


def pages(folder: Path) -> None:
    sky = read(folder)
    class_page(sky)
    band_page(sky)
    field_page(sky)
    population_page(sky)
    for path in sorted(IMAGES.glob("simulation_*.png")):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
