"""A whole simulated release: tiles in processes, files in the layout of the archive.

``DIR/MER/{tile}/VIS|NISP`` holds mosaics, ``DIR/catalogs/{product}/{tile}`` catalogues,
``DIR/surveys`` other surveys, ``DIR/truth.parquet`` the truth of every source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from astropt_db.errors import ConfigurationError
from astropt_db.simulate import mosaics, surveys
from astropt_db.simulate.bands import EUCLID_BANDS, FIELD_EBV, GROUND_BANDS, Field
from astropt_db.simulate.catalogue import measure_sources, write_catalogues
from astropt_db.simulate.drawing import draw, stamp_sizes
from astropt_db.simulate.measure import detect, to_microjansky
from astropt_db.simulate.mosaics import Tile
from astropt_db.simulate.photometry import measure_fluxes
from astropt_db.simulate.phz_tables import write_phz
from astropt_db.simulate.profiles import textures
from astropt_db.simulate.psf import psf_image
from astropt_db.simulate.scene import Scene, concatenate, draw_scene, take
from astropt_db.simulate.seds import photometry, require_galsim
from astropt_db.simulate.shapes import measure_shapes
from astropt_db.simulate.spectra import write_spectra

Float64 = NDArray[np.float64]

SOURCES_PER_SQUARE_ARCMIN = 46.0
"""Density that decides the default tile size; Q1 has 132, most of them too faint to see."""
TRUE_TILE_SIZE = 19200
_SMALLEST_TILE = 512
_SCENE, _PIXELS, _TABLES, _SURVEYS = range(4)
"""Independent random streams, so that a change in one part leaves the others as they were."""


@dataclass(frozen=True)
class SimulationSummary:
    """What a simulation wrote.

    Attributes
    ----------
    directory
        Root of the release.
    files
        Every file written, in a fixed order.
    tiles
        Tile indices.
    tile_size
        Pixels on a side of the mosaics.
    sources, detected
        Sources drawn, and rows of the catalogues.
    seconds
        Wall time.
    """

    directory: Path
    files: tuple[Path, ...]
    tiles: tuple[int, ...]
    tile_size: int
    sources: int
    detected: int
    seconds: float


@dataclass(frozen=True)
class _Task:
    directory: Path
    tile: Tile
    scene: Scene
    seed: int


@dataclass(frozen=True)
class _TileResult:
    files: list[Path]
    truth: pd.DataFrame


_Run = Callable[[list[_Task]], Iterator[_TileResult]]


def simulate(
    directory: Path,
    sources: int,
    tiles: int,
    field: str,
    seed: int,
    tile_size: int | None = None,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> SimulationSummary:
    """Write a small Q1-like release with known truth. Same arguments, same bytes.

    Parameters
    ----------
    directory
        Folder to write to; must be absent or empty.
    sources
        Sources drawn in the cores of all tiles together: galaxies, stars, QSOs, artefacts.
    tiles
        Number of tiles.
    field
        ``EDF-N``, ``EDF-S`` or ``EDF-F``.
    seed
        Seed of everything.
    tile_size
        Pixels on a side of the mosaics; by default as many as give about 46 sources per square
        arcminute. 19200 is the size of a real tile, and needs about 19 GB of memory per job.
    jobs
        Processes, one tile each.
    progress
        Called with one line per finished step.

    Raises
    ------
    ConfigurationError
        If an argument is out of range or the folder is not empty.
    MissingExtraError
        If GalSim is not installed.
    """
    start = time.perf_counter()
    known = _check(directory, sources, tiles, field, tile_size)
    size = tile_size or default_tile_size(sources, tiles)
    report = progress or (lambda line: None)
    layout = mosaics.lay_out(known, tiles, size)
    files: list[Path] = []
    truths: list[pd.DataFrame] = []
    require_galsim()
    # Tiles are what is done in parallel: BLAS threads of several processes would wait for each
    # other, at the expense of the rest, and their number would decide the last bits.
    with threadpool_limits(1, "blas"), _workers(min(jobs, tiles), known) as run:
        sky = _draw_sky(layout, sources, seed)
        report(f"drew {len(sky.truth)} sources on {tiles} tiles of {size} x {size} px")
        tasks = [_Task(directory, tile, _on_tile(sky, tile), seed) for tile in layout]
        for tile, result in zip(layout, run(tasks), strict=True):
            files += result.files
            truths.append(result.truth)
            report(f"tile {tile.index}: {int(result.truth['detected'].sum())} catalogued sources")
    truth = pd.concat(truths).sort_values("source").reset_index(drop=True)
    files += _write_outside(directory, truth, seed)
    return SimulationSummary(
        directory=directory,
        files=tuple(files),
        tiles=tuple(tile.index for tile in layout),
        tile_size=size,
        sources=len(truth),
        detected=int(truth["detected"].sum()),
        seconds=time.perf_counter() - start,
    )


def default_tile_size(sources: int, tiles: int) -> int:
    """Pixels on a side at which the sources are spread realistically, a multiple of 64."""
    side = np.sqrt(sources / tiles / SOURCES_PER_SQUARE_ARCMIN) * 600.0 + 2 * mosaics.MARGIN
    return int(np.clip(np.ceil(side / 64.0) * 64, _SMALLEST_TILE, TRUE_TILE_SIZE))


def _check(directory: Path, sources: int, tiles: int, field: str, tile_size: int | None) -> Field:
    """Validate arguments; the field, with its type."""
    known: dict[str, Field] = {name: name for name in GROUND_BANDS}
    if field not in known:
        raise ConfigurationError(f"Field {field!r} is unknown; choose one of {', '.join(known)}.")
    if tiles < 1 or sources < 10 * tiles:
        raise ConfigurationError(
            f"{sources} sources on {tiles} tiles cannot be simulated: "
            "give at least one tile and 10 sources per tile."
        )
    if tile_size is not None and not _SMALLEST_TILE <= tile_size <= TRUE_TILE_SIZE:
        raise ConfigurationError(
            f"A tile size of {tile_size} px is out of range; "
            f"choose {_SMALLEST_TILE} to {TRUE_TILE_SIZE}."
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(
            f"{directory} exists and is not an empty folder. Name a new folder: "
            "files of two simulations must not mix."
        )
    return known[field]


def _draw_sky(layout: list[Tile], sources: int, seed: int) -> Scene:
    """All sources of all tiles, with sky positions and their home tile."""
    light = photometry(layout[0].field)
    scenes = []
    share = np.diff(np.linspace(0, sources, len(layout) + 1).astype(int))
    for tile, number in zip(layout, share, strict=True):
        random = np.random.default_rng([seed, _SCENE, tile.number])
        scene = draw_scene(int(number), light, random)
        margin = (tile.size - tile.core) / 2.0
        pixel = margin + random.random((int(number), 2)) * (tile.core - 1)
        ra, dec = tile.wcs.all_pix2world(pixel[:, 0], pixel[:, 1], 0)
        truth = scene.truth.assign(home=tile.number, ra=ra, dec=dec)
        scenes.append(Scene(truth, scene.flux))
    sky = concatenate(scenes)
    reddened = sky.flux * 10.0 ** (-0.4 * FIELD_EBV[layout[0].field] * light.extinction)
    total = reddened.sum(axis=1)
    columns = {f"flux_{name}": total[:, i] for i, name in enumerate(light.bands)}
    truth = sky.truth.assign(
        source=np.arange(len(sky.truth)),
        vis_magnitude=23.9 - 2.5 * np.log10(total[:, 0]),
        **columns,
    )
    return Scene(truth.assign(gaia_id=surveys.gaia_ids(truth)), reddened)


def _on_tile(sky: Scene, tile: Tile) -> Scene:
    """The sources whose stamps touch a tile, with their pixel positions."""
    x, y = tile.wcs.all_world2pix(sky.truth["ra"], sky.truth["dec"], 0)
    reach = stamp_sizes(sky.truth, sky.total[:, 0]) / 2.0
    near = (np.abs(x - tile.size / 2) < tile.size / 2 + reach) & (
        np.abs(y - tile.size / 2) < tile.size / 2 + reach
    )
    scene = take(Scene(sky.truth.assign(x=x, y=y), sky.flux), np.flatnonzero(near))
    return scene


@contextmanager
def _workers(jobs: int, field: Field) -> Iterator[_Run]:
    """A function that simulates tiles in this process or in several; results keep their order."""
    if jobs <= 1:
        yield lambda tasks: map(_simulate_tile, tasks)
        return
    # A forked child of a process with threads (BLAS, a database client) can deadlock.
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_prepare, initargs=(field,)) as pool:
        for _ in range(jobs):
            # Something to do starts a process: it gets ready while this one draws the sky.
            pool.submit(int)
        yield lambda tasks: pool.map(_simulate_tile, tasks)


def _prepare(field: Field) -> None:
    """Compute what every tile needs once per process."""
    threadpool_limits(1, "blas")
    photometry(field)
    textures()
    for band in EUCLID_BANDS:
        psf_image(band, 1)


def _simulate_tile(task: _Task) -> _TileResult:
    """Draw, expose, measure and write one tile."""
    directory, tile, scene, seed = task.directory, task.tile, task.scene, task.seed
    light = photometry(tile.field)
    pixels = np.random.default_rng([seed, _PIXELS, tile.number])
    tables = np.random.default_rng([seed, _TABLES, tile.number])
    truth = scene.truth
    position = truth[["x", "y"]].to_numpy()
    canvas = draw(scene, position, (tile.size, tile.size))
    images, owner = canvas.images, canvas.owner
    del canvas  # Its dominance is another 1.5 GB on a real tile.
    mosaics.add_trails(images[0], tile, pixels)
    defects = mosaics.draw_defects(tile, pixels)
    # As deep as the noisy image is: cores of bright stars are cut off.
    noiseless = np.minimum(images[0], np.float32(EUCLID_BANDS[0].saturation))
    maps, files = [], []
    for image, band in zip(images, EUCLID_BANDS, strict=True):
        rms = mosaics.expose(image, band, defects.missing[band.name], pixels)
        files += mosaics.write_mosaics(directory, tile, band, image, rms, seed)
        maps.append(rms)
    exposure = to_microjansky(images, maps)
    del defects
    found = detect(exposure, owner, position, tables)
    shapes = measure_shapes(exposure.images[0], exposure.rms[0], found)
    fluxes = measure_fluxes(exposure, noiseless, found, shapes, scene.total, tile.field, tables)
    measured = measure_sources(tile, truth, exposure, found, shapes, fluxes, tables)
    bands = (light.bands, light.wavelengths)
    files += write_catalogues(directory, tile, measured, truth, shapes, bands, seed, tables)
    paths, _ = write_phz(directory, tile, measured, fluxes, light, seed, tables)
    with np.errstate(invalid="ignore", divide="ignore"):
        h_magnitude = 23.9 - 2.5 * np.log10(fluxes.total[measured.rows, 3])
    chosen = truth.iloc[measured.rows]
    spectra = write_spectra(directory, tile, measured, chosen, h_magnitude, seed, tables)
    object_id = np.zeros(len(truth), dtype=np.int64)
    object_id[measured.rows] = measured.object_id
    home = truth.assign(object_id=object_id, detected=object_id != 0, tile=tile.index)
    return _TileResult([*files, *paths, spectra], home[home["home"] == tile.number])


def _write_outside(directory: Path, truth: pd.DataFrame, seed: int) -> list[Path]:
    """The other surveys and the truth."""
    random = np.random.default_rng([seed, _SURVEYS])
    _, when = mosaics.stamp(seed, "surveys")
    files = surveys.write_desi(directory, truth, when, random)
    files.append(surveys.write_gaia(directory, truth, when, random))
    path = directory / "truth.parquet"
    columns = ["source", "object_id", "detected", "tile", "ra", "dec"]
    rest = [
        name for name in truth.columns if name not in columns and name not in ("home", "x", "y")
    ]
    truth[columns + rest].to_parquet(path, index=False)
    return [*files, path]
