"""An index of results by model."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Let a model's frames be counted without reading what was found in them."""
    op.create_index(op.f("ix_results_model_id"), "results", ["model_id"], unique=False)
