"""Detector and sample, by which frames and domains are told apart."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Take down what the files say of both; of what was there before, nothing is known."""
    for table in ("frames", "domains"):
        for name in ("detector", "sample"):
            op.add_column(table, sa.Column(name, sa.String(), nullable=True))
    # Of "STEM HAADF 12" HAADF is taken down now: domains must not refuse their own frames for it.
    op.execute("UPDATE domains SET modality = NULL WHERE modality = 'STEM'")
