"""Vectors like those of the encoders, queries with their exact answers, and the table of results.

The vectors imitate those of the encoders: clusters of low rank with a spectrum that falls as a
power law, far from the origin, with noise in all dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
import psutil

from astropt_db.search.exact import unit

K = 10
FIRST_ID = 2_697_000_000_000_000_000


def make_vectors(n: int, dimension: int, seed: int, noise: float) -> np.ndarray:
    """Vectors like an encoder's, float16 (n, dimension)."""
    rng = np.random.default_rng(seed)
    latent = 48
    spectrum = np.arange(1, latent + 1) ** -0.8
    basis = np.linalg.qr(rng.normal(size=(dimension, latent)))[0].T.astype(np.float32)
    centres = rng.normal(size=(300, latent)) * spectrum
    share = rng.dirichlet(np.full(300, 0.7))
    points = centres[rng.choice(300, n, p=share)] + 0.6 * spectrum * rng.normal(size=(n, latent))
    scale = float(np.sqrt((points**2).sum(axis=1).mean()))
    mean = rng.normal(size=dimension)
    mean *= 1.5 * scale / np.linalg.norm(mean)
    vectors = np.empty((n, dimension), np.float16)
    for start in range(0, n, 20_000):
        part = slice(start, start + 20_000)
        block = points[part].astype(np.float32) @ basis + mean.astype(np.float32)
        block += rng.standard_normal(block.shape, np.float32) * (noise * scale / dimension**0.5)
        vectors[part] = block
    return vectors


def make_ids(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Object ids, and whether each is in the filter of 1 %."""
    rng = np.random.default_rng(2)
    ids = FIRST_ID + rng.choice(1 << 40, n, replace=False).astype(np.int64)
    return ids, rng.random(n) < 0.01


def intrinsic_dimension(vectors: np.ndarray, k: int = 20, queries: int = 500) -> float:
    """Local intrinsic dimension on the sphere (Levina & Bickel 2004), mean over some rows."""
    rows = unit(vectors)
    chosen = np.linspace(0, len(rows) - 1, min(queries, len(rows))).astype(int)
    similarity = np.sort(rows[chosen] @ rows.T, axis=1)[:, -k - 1 : -1]
    distance = np.sqrt(np.maximum(2 - 2 * similarity, 1e-9))
    return float(1 / np.mean(np.log(distance[:, :1] / distance[:, 1:]).mean(axis=1)))


class Trial:
    """Queries, the truth, and the table of results."""

    def __init__(self, ids: np.ndarray, vectors: np.ndarray, queries: int, allowed: np.ndarray):
        self.ids, self.unit = ids, unit(vectors)
        self.allowed = allowed
        self.chosen = np.random.default_rng(3).choice(len(ids), queries, replace=False)
        similarity = self.unit[self.chosen] @ self.unit.T
        similarity[np.arange(queries), self.chosen] = -np.inf
        self.truth = _largest(similarity)
        similarity[:, ~allowed] = -np.inf
        self.truth_allowed = _largest(similarity)
        self.place = {one: i for i, one in enumerate(ids.tolist())}

    def run(
        self, name: str, ask: Callable[[int], Iterable[int]], filtered: bool = False,
        rounds: int = 2, processes: Iterable[int] = (), queries: int | None = None,
    ) -> None:  # fmt: skip
        """Time a way of asking (row number to ids), and compare with the truth."""
        truth = self.truth_allowed if filtered else self.truth
        for _ in range(rounds):
            seconds, recalls, rows = [], [], []
            before = processor_seconds(processes)
            for number, row in enumerate(self.chosen[:queries].tolist()):
                start = time.perf_counter()
                found = list(ask(row))
                seconds.append(time.perf_counter() - start)
                similarity = self.unit[[self.place[one] for one in found]] @ self.unit[row]
                recalls.append((similarity >= truth[number, 0] - 1e-6).sum() / K)
                rows.append(len(found))
            used = (processor_seconds(processes) - before) / len(seconds)
        say(
            f"| {name} | {np.mean(recalls):.4f} | {min(rows)} | {1000 * np.median(seconds):.2f} | "
            f"{1000 * np.percentile(seconds, 95):.2f} | {1000 * used:.2f} |"
        )


def _largest(similarity: np.ndarray) -> np.ndarray:
    return np.sort(np.partition(similarity, -K, axis=1)[:, -K:], axis=1)


def head(title: str) -> None:
    """Begin a table."""
    say(f"\n{title}\n\n| way | recall@10 | fewest rows | median, ms | 95 %, ms | processor, ms |")
    say("|---|---:|---:|---:|---:|---:|")


def note(text: str) -> None:
    """A line between those of a table."""
    say(f"| ({text}) | | | | | |")


def processor_seconds(processes: Iterable[int]) -> float:
    """Processor time so far of this process and of server processes."""
    others = (psutil.Process(pid).cpu_times() for pid in processes)
    return time.process_time() + sum(used.user + used.system for used in others)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)
