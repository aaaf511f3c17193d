"""How many planted oddities stand at the top, and how well classes keep together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astropt_db.database.connect import READER, Database, connect
from astropt_db.database.encoders import list_encoders
from astropt_db.database.resources import named_queries
from astropt_db.database.vectors import load_vectors
from astropt_db.errors import FileError
from astropt_db.outliers.graph import neighbour_graph

ARTEFACTS = ("ghost", "cosmic_ray", "streak")
PLANTED = ("lens", "merger", "ring", "artefact")
GATHERED = ("star", "edge_on", "merger", "ring", "artefact")
NEIGHBOURS = 15


@dataclass(frozen=True)
class Planted:
    """One kind among the top of one method.

    Attributes
    ----------
    encoder, method, kind
        Whose scores; ``combined`` is the mean of the methods; which oddity.
    total, found
        In all, and in the top fraction.
    expected
        In the top by chance.
    """

    encoder: str
    method: str
    kind: str
    total: int
    found: int
    expected: float

    @property
    def enrichment(self) -> float:
        """Found over expected."""
        return self.found / self.expected if self.expected else 0.0


@dataclass(frozen=True)
class Gathered:
    """How well a class keeps together in an embedding.

    Attributes
    ----------
    encoder, kind
        Whose space, which class.
    total
        Sources of the class.
    purity
        Mean share of the class among the 15 nearest neighbours of its members.
    recall
        Share of its members whose 15 neighbours hold at least 8 of the class.
    base
        Share of the class among all: the purity of chance.
    """

    encoder: str
    kind: str
    total: int
    purity: float
    recall: float
    base: float


def read_truth(paths: Sequence[Path]) -> dict[int, str]:
    """Kind of each catalogued source of simulated skies; artefacts are one kind.

    Raises
    ------
    FileError
        If a file is no ``truth.parquet`` of ``astropt-db simulate``.
    """
    truth: dict[int, str] = {}
    for path in paths:
        try:
            table = pd.read_parquet(path, columns=["object_id", "morphology"])
        except (OSError, ValueError, KeyError) as error:
            raise FileError(path, "is no truth.parquet of `astropt-db simulate`.") from error
        table = table[table["object_id"] != 0]
        kinds = table["morphology"].where(~table["morphology"].isin(ARTEFACTS), "artefact")
        truth.update(zip(table["object_id"].tolist(), kinds.tolist(), strict=True))
    return truth


def planted(database: Database, truth: dict[int, str], top: float = 0.01) -> list[Planted]:
    """Count oddities at the top, for every encoder with a current run and each of its methods."""
    queries = named_queries()
    found: list[Planted] = []
    with connect(database, role=READER) as connection:
        for encoder in list_encoders(connection):
            run = connection.execute(
                queries["outlier_current_run"], {"encoder_id": encoder.id}
            ).fetchone()
            if run is None:
                continue
            rows = connection.execute(queries["outlier_scores"], {"id": run[0]}).fetchall()
            table = pd.DataFrame(rows).iloc[:, :5]
            table.columns = pd.Index(["object_id", "combined", "if", "lof", "knn"])
            kinds = table["object_id"].map(truth).fillna("unknown").to_numpy()
            for method in ("combined", "if", "lof", "knn"):
                scores = table[method]
                if scores.notna().all():
                    found += _count(encoder.name, method, kinds, scores.to_numpy(float), top)
    return found


def _count(
    encoder: str, method: str, kinds: NDArray[np.object_], scores: NDArray[np.float64], top: float
) -> list[Planted]:
    first = np.argsort(-scores, kind="stable")[: max(1, round(top * len(scores)))]
    return [
        Planted(
            encoder,
            method,
            kind,
            int((kinds == kind).sum()),
            int((kinds[first] == kind).sum()),
            float((kinds == kind).mean() * len(first)),
        )
        for kind in PLANTED
    ]


def gathered(database: Database, truth: dict[int, str]) -> list[Gathered]:
    """Purity and recall of classes among neighbours, for every encoder that has vectors."""
    found: list[Gathered] = []
    with connect(database, role=READER) as connection, connection.cursor() as cursor:
        for encoder in list_encoders(connection):
            batch = load_vectors(cursor, encoder)
            known = np.array([truth.get(one, "") for one in batch.object_id.tolist()])
            keep = known != ""
            if keep.sum() <= NEIGHBOURS:
                continue
            kinds = known[keep]
            near = kinds[neighbour_graph(batch.vectors[keep], NEIGHBOURS).indices]
            for kind in GATHERED:
                mine = kinds == kind
                if mine.any():
                    share = (near[mine] == kind).mean(axis=1)
                    total, recall = int(mine.sum()), float((share > 0.5).mean())
                    found.append(
                        Gathered(
                            encoder.name, kind, total, float(share.mean()), recall, mine.mean()
                        )
                    )
    return found
