"""Labels, predictors, predictions and evaluations.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _required(name: str, kind: sa.types.TypeEngine | type, **options: object) -> sa.Column:
    return sa.Column(name, kind, nullable=False, **options)


def _number() -> sa.Column:
    return sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True)


def _key(name: str, kind: type, *reference: sa.ForeignKey) -> sa.Column:
    return sa.Column(name, kind, *reference, primary_key=True, autoincrement=False)


def _origin() -> list[sa.Column]:
    """The run that made a row, and when."""
    return [
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id")),
        _required("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()")),
    ]


def _create_labels() -> None:
    op.create_table(
        "label_set",
        _number(),
        _required("name", sa.Text),
        sa.Column("recipe", sa.Text),
        _required("source", sa.Text),
        sa.Column("sha256", sa.Text),
        _required("column_names", pg.ARRAY(sa.Text)),
        _required("categories", pg.JSONB),
        sa.Column("cut", sa.Text),
        sa.Column("radius", sa.Double),
        *(_required(f"n_{name}", sa.BigInteger) for name in ("read", "selected", "matched")),
        *_origin(),
        schema="astropt",
    )
    op.create_index("label_set_name", "label_set", ["name"], unique=True, schema="astropt")
    op.create_table(
        "label",
        _key(
            "label_set_id",
            sa.Integer,
            sa.ForeignKey("astropt.label_set.id", ondelete="CASCADE"),
        ),
        _key("object_id", sa.BigInteger),
        sa.Column("separation", sa.REAL),
        _required("values", pg.ARRAY(sa.Double)),
        schema="astropt",
    )


def _create_predictor() -> None:
    op.create_table(
        "predictor",
        _number(),
        _required("task", sa.Text),
        _required("head", sa.Text),
        _required("features", sa.Text),
        sa.Column("encoder_id", sa.Integer, sa.ForeignKey("astropt.encoder.id")),
        _required("label_sets", pg.ARRAY(sa.Text)),
        sa.Column("cut", sa.Text),
        _required("training", pg.JSONB),
        _required("n_train", sa.BigInteger),
        _required("n_calibration", sa.BigInteger),
        _required("outputs", pg.ARRAY(sa.Text)),
        sa.Column("probabilities", pg.ARRAY(sa.Double)),
        _required("settings", pg.JSONB),
        _required("metrics", pg.JSONB),
        _required("weights", sa.LargeBinary),
        _required("weights_sha256", sa.Text),
        _required("seed", sa.BigInteger),
        _required("code_version", sa.Text),
        _required("is_current", sa.Boolean, server_default=sa.false()),
        *_origin(),
        schema="astropt",
    )
    op.create_index(
        "predictor_current",
        "predictor",
        ["task"],
        unique=True,
        schema="astropt",
        postgresql_where=sa.text("is_current"),
    )
    # A safetensors file does not compress; the server would only lose time in trying.
    op.execute("ALTER TABLE astropt.predictor ALTER COLUMN weights SET STORAGE EXTERNAL")


def _interval(prefix: str) -> list[sa.Column]:
    names = ("median", "mode", "lower_68", "upper_68", "lower_95", "upper_95")
    return [_required(f"{prefix}_{name}", sa.REAL) for name in names]


def _create_prediction(task: str, *columns: sa.Column) -> None:
    op.create_table(
        f"prediction_{task}",
        _key(
            "predictor_id",
            sa.Integer,
            sa.ForeignKey("astropt.predictor.id", ondelete="CASCADE"),
        ),
        _key("object_id", sa.BigInteger),
        _required("run_id", sa.BigInteger),
        _required("is_extrapolated", sa.Boolean),
        *columns,
        schema="astropt",
    )


def _create_predictions() -> None:
    for task, prefix in (("photoz", "z"), ("stellar_mass", "log_mass"), ("value", "value")):
        odds = [_required("odds", sa.REAL)] * (task == "photoz")
        quantiles = _required(f"{prefix}_quantiles", pg.ARRAY(sa.REAL))
        _create_prediction(task, *_interval(prefix), *odds, quantiles)
    shapes = ("smooth", "featured", "artefact", "edge_on", "spiral", "bar", "merger", "early_type")
    _create_prediction("morphology", *(_required(name, sa.REAL) for name in shapes))
    classes = ("star", "galaxy", "qso", "artefact")
    _create_prediction("object_class", *(_required(f"prob_{name}", sa.REAL) for name in classes))


def _create_evaluation() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("run_id", sa.BigInteger, sa.ForeignKey("astropt.run.id"), nullable=False),
        _required("task", sa.Text),
        _required("model", sa.Text),
        sa.Column("encoder", sa.Text),
        _required("features", sa.Text),
        _required("label_sets", pg.ARRAY(sa.Text)),
        _required("fraction", sa.REAL),
        _required("seed", sa.BigInteger),
        _required("n_train", sa.BigInteger),
        _required("n_test", sa.BigInteger),
        _required("metric", sa.Text),
        _required("value", sa.Double),
        _required("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()")),
        schema="astropt",
    )
    op.create_index("evaluation_task", "evaluation", ["task", "metric"], schema="astropt")


def upgrade() -> None:
    """Create the tables."""
    _create_labels()
    _create_predictor()
    _create_predictions()
    _create_evaluation()


def downgrade() -> None:
    """Drop them, with all labels, predictors and predictions, and the views on them."""
    op.execute(
        "DROP TABLE astropt.label, astropt.label_set, astropt.prediction_photoz, "
        "astropt.prediction_stellar_mass, astropt.prediction_morphology, "
        "astropt.prediction_object_class, astropt.prediction_value, astropt.predictor, "
        "astropt.evaluation CASCADE"
    )
