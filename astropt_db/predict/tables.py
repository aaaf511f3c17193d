"""Declared tables of labels, predictors, predictions and evaluations."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from astropt_db.database.tables import metadata

_OBJECT = "Euclid source identifier [; meta.id;meta.main]"
_RUN = "run that made it, see astropt.run [; meta.id]"
_CREATED = "when it was made [; time.creation]"
_EXTRAPOLATED = (
    "true where the source is unlike all that the predictor learned from: farther from the "
    "centres of the training set than 99 % of the calibration set [; meta.code.qual]"
)


def _id(table: str) -> sa.Column[int]:
    return sa.Column(
        "id",
        sa.Integer,
        sa.Identity(always=True),
        primary_key=True,
        comment=f"running number of the {table} [; meta.id;meta.main]",
    )


def _run_id() -> sa.Column[int]:
    return sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id"), comment=_RUN)


def _created() -> sa.Column[Any]:
    return sa.Column(
        "created_at",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("now()"),
        comment=_CREATED,
    )


def _count(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, comment=f"{comment} [; meta.number]")


label_set = sa.Table(
    "label_set",
    metadata,
    _id("label set"),
    sa.Column("name", sa.Text, nullable=False, comment="name, unique [; meta.id]"),
    sa.Column("recipe", sa.Text, comment="built-in recipe; NULL if none [; meta.code]"),
    sa.Column(
        "source",
        sa.Text,
        nullable=False,
        comment="file as the user named it, or table that the labels come from [; meta.ref]",
    ),
    sa.Column("sha256", sa.Text, comment="SHA-256 of the file; NULL of a table [; meta.checksum]"),
    sa.Column(
        "column_names",
        pg.ARRAY(sa.Text),
        nullable=False,
        comment="what each place of astropt.label.values holds [; meta.id]",
    ),
    sa.Column(
        "categories",
        pg.JSONB,
        nullable=False,
        comment="for columns of text, the words that the numbers 0, 1, … stand for [; meta.code]",
    ),
    sa.Column(
        "cut", sa.Text, comment="SQL condition that a row had to meet; NULL if none [; meta.note]"
    ),
    sa.Column(
        "radius",
        sa.Double,
        comment="largest distance of a match on the sky; NULL if matched by id "
        "[arcsec; pos.angDistance;stat.max]",
    ),
    _count("n_read", "rows read"),
    _count("n_selected", "rows in our fields that met the cut"),
    _count("n_matched", "sources with labels"),
    _run_id(),
    _created(),
    sa.Index("label_set_name", "name", unique=True),
    schema="astropt",
    comment="Sets of labels to learn from, each with its origin, cut and counts",
)

label = sa.Table(
    "label",
    metadata,
    sa.Column(
        "label_set_id",
        sa.Integer,
        sa.ForeignKey("astropt.label_set.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="set, see astropt.label_set [; meta.id]",
    ),
    sa.Column("object_id", sa.BigInteger, primary_key=True, autoincrement=False, comment=_OBJECT),
    sa.Column(
        "separation",
        sa.REAL,
        comment="distance of label and source on the sky; NULL if matched by id "
        "[arcsec; pos.angDistance]",
    ),
    sa.Column(
        "values",
        pg.ARRAY(sa.Double),
        nullable=False,
        comment="the labels in the order of astropt.label_set.column_names; NaN where there is "
        "none [; meta.record]",
    ),
    schema="astropt",
    comment="One row of labels for each source of a set; astropt.label_value shows them one by one",
)

predictor = sa.Table(
    "predictor",
    metadata,
    _id("predictor"),
    sa.Column(
        "task",
        sa.Text,
        nullable=False,
        comment="photoz, stellar_mass, morphology, object_class or a name of the user's "
        "[; meta.id]",
    ),
    sa.Column("head", sa.Text, nullable=False, comment="linear, mlp or knn [; meta.code]"),
    sa.Column(
        "features",
        sa.Text,
        nullable=False,
        comment="what it sees: embedding, embedding+flux or flux [; meta.code]",
    ),
    sa.Column(
        "encoder_id",
        sa.Integer,
        sa.ForeignKey("astropt.encoder.id"),
        comment="encoder of its embeddings; NULL if it sees fluxes only [; meta.id]",
    ),
    sa.Column(
        "label_sets",
        pg.ARRAY(sa.Text),
        nullable=False,
        comment="sets it learned from, see astropt.label_set [; meta.id]",
    ),
    sa.Column("cut", sa.Text, comment="SQL condition on its sources; NULL if none [; meta.note]"),
    sa.Column(
        "training",
        pg.JSONB,
        nullable=False,
        comment="label columns, shares, fraction, checksum of the object ids [; meta.note]",
    ),
    _count("n_train", "sources that it learned from"),
    _count("n_calibration", "sources that it was calibrated on"),
    sa.Column(
        "outputs",
        pg.ARRAY(sa.Text),
        nullable=False,
        comment="names of its outputs [; meta.id]",
    ),
    sa.Column(
        "probabilities",
        pg.ARRAY(sa.Double),
        comment="cumulative probabilities of the quantiles that it predicts; NULL of classes "
        "[; stat.probability]",
    ),
    sa.Column("settings", pg.JSONB, nullable=False, comment="settings of the head [; meta.note]"),
    sa.Column(
        "metrics",
        pg.JSONB,
        nullable=False,
        comment="figures on the test set, see astropt-db evaluate for their meaning [; stat.value]",
    ),
    sa.Column(
        "weights",
        sa.LargeBinary,
        nullable=False,
        comment="all that it learned, as a safetensors file [; meta.record]",
    ),
    sa.Column(
        "weights_sha256", sa.Text, nullable=False, comment="SHA-256 of weights [; meta.checksum]"
    ),
    sa.Column("seed", sa.BigInteger, nullable=False, comment="random seed [; meta.number]"),
    sa.Column(
        "code_version", sa.Text, nullable=False, comment="version of astropt-db [; meta.version]"
    ),
    sa.Column(
        "is_current",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="true for the one of its task that the views show [; meta.code]",
    ),
    _run_id(),
    _created(),
    sa.Index("predictor_current", "task", unique=True, postgresql_where=sa.text("is_current")),
    schema="astropt",
    comment="Trained heads with their weights: what learned what from which labels, and how well",
)


def _prediction(name: str, comment: str, *columns: sa.Column[Any]) -> sa.Table:
    """Table of the predictions of one kind of task, keyed by predictor and source."""
    return sa.Table(
        f"prediction_{name}",
        metadata,
        sa.Column(
            "predictor_id",
            sa.Integer,
            sa.ForeignKey("astropt.predictor.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
            comment="predictor, see astropt.predictor [; meta.id]",
        ),
        sa.Column(
            "object_id", sa.BigInteger, primary_key=True, autoincrement=False, comment=_OBJECT
        ),
        sa.Column("run_id", sa.BigInteger, nullable=False, comment=_RUN),
        sa.Column("is_extrapolated", sa.Boolean, nullable=False, comment=_EXTRAPOLATED),
        *columns,
        schema="astropt",
        comment=comment,
    )


def _real(name: str, comment: str) -> sa.Column[float]:
    return sa.Column(name, sa.REAL, nullable=False, comment=comment)


def _interval(prefix: str, what: str, unit: str, ucd: str) -> list[sa.Column[Any]]:
    """Median, mode and bounds of the 68 and 95 % intervals."""
    columns = [
        _real(f"{prefix}_median", f"median of the {what} [{unit}; {ucd};stat.median]"),
        _real(f"{prefix}_mode", f"most probable {what} [{unit}; {ucd};stat.max]"),
    ]
    for percent, low, high in ((68, 16, 84), (95, 2.5, 97.5)):
        for side, quantile in (("lower", low), ("upper", high)):
            stat = "stat.min" if side == "lower" else "stat.max"
            columns.append(
                _real(
                    f"{prefix}_{side}_{percent}",
                    f"{side} end of the {percent} % interval, the {quantile} % quantile of the "
                    f"{what} [{unit}; {ucd};{stat}]",
                )
            )
    return columns


def _quantiles(prefix: str, what: str, unit: str, ucd: str) -> sa.Column[Any]:
    return sa.Column(
        f"{prefix}_quantiles",
        pg.ARRAY(sa.REAL),
        nullable=False,
        comment=f"quantiles of the {what} at astropt.predictor.probabilities [{unit}; {ucd}]",
    )


_Z = ("photometric redshift", "", "src.redshift.phot")
_MASS = ("stellar mass", "log10(Msun)", "phys.mass")

prediction_photoz = _prediction(
    "photoz",
    "Photometric redshifts with intervals and quantiles, of every predictor",
    *_interval("z", *_Z),
    _real(
        "odds",
        "probability within 0.06 (1 + z) of the mode, from 0 to 1 [; stat.probability]",
    ),
    _quantiles("z", *_Z),
)

prediction_stellar_mass = _prediction(
    "stellar_mass",
    "Stellar masses with intervals and quantiles, of every predictor",
    *_interval("log_mass", *_MASS),
    _quantiles("log_mass", *_MASS),
)

prediction_morphology = _prediction(
    "morphology",
    "Morphology as expected vote fractions, of every predictor",
    _real("smooth", "expected fraction of votes for a smooth galaxy [; stat.probability]"),
    _real("featured", "expected fraction of votes for features or a disc [; stat.probability]"),
    _real("artefact", "expected fraction of votes for star or artefact [; stat.probability]"),
    _real("edge_on", "expected fraction of votes for a disc seen edge-on [; stat.probability]"),
    _real("spiral", "expected fraction of votes for spiral arms [; stat.probability]"),
    _real("bar", "expected fraction of votes for a bar, strong or weak [; stat.probability]"),
    _real("merger", "expected fraction of votes for a merger [; stat.probability]"),
    _real(
        "early_type",
        "probability that at least half of the votes are for a smooth galaxy, the early type of "
        "arXiv:2503.15312 [; stat.probability]",
    ),
)

prediction_object_class = _prediction(
    "object_class",
    "Probabilities of star, galaxy, QSO and artefact, of every predictor",
    _real("prob_star", "probability of a star [; stat.probability]"),
    _real("prob_galaxy", "probability of a galaxy [; stat.probability]"),
    _real("prob_qso", "probability of a QSO [; stat.probability]"),
    _real("prob_artefact", "probability of an artefact [; stat.probability]"),
)

prediction_value = _prediction(
    "value",
    "Predictions of the user's own columns, of every predictor",
    *_interval("value", "value", "", "stat.value"),
    _quantiles("value", "value", "", "stat.value"),
)

evaluation = sa.Table(
    "evaluation",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="running number [; meta.id;meta.main]",
    ),
    sa.Column(
        "run_id",
        sa.BigInteger,
        sa.ForeignKey("astropt.run.id"),
        nullable=False,
        comment=_RUN,
    ),
    sa.Column("task", sa.Text, nullable=False, comment="what was predicted [; meta.id]"),
    sa.Column(
        "model",
        sa.Text,
        nullable=False,
        comment="head or rival: linear, mlp, knn, paper_mlp, trees, paper_cnn, resnet, phz "
        "[; meta.id]",
    ),
    sa.Column(
        "encoder", sa.Text, comment="name of the encoder; NULL of models without one [; meta.id]"
    ),
    sa.Column("features", sa.Text, nullable=False, comment="what the model saw [; meta.code]"),
    sa.Column(
        "label_sets",
        pg.ARRAY(sa.Text),
        nullable=False,
        comment="sets of labels, see astropt.label_set [; meta.id]",
    ),
    sa.Column(
        "fraction",
        sa.REAL,
        nullable=False,
        comment="share of the training labels that was used [%; stat.value]",
    ),
    sa.Column("seed", sa.BigInteger, nullable=False, comment="random seed [; meta.number]"),
    _count("n_train", "sources that the model learned from"),
    _count("n_test", "sources of the test set"),
    sa.Column("metric", sa.Text, nullable=False, comment="name of the figure [; meta.id]"),
    sa.Column(
        "value", sa.Double, nullable=False, comment="the figure; NaN if undefined [; stat.value]"
    ),
    _created(),
    sa.Index("evaluation_task", "task", "metric"),
    schema="astropt",
    comment="Figures of heads and rivals on the one fixed test set, for each fraction and seed",
)
