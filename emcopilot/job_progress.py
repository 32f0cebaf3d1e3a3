"""What an adaptation job says of itself while it runs: one line of JSON a report.

The job writes `progress.jsonl` in its folder, whoever started it reads. A kill may cut the last
line, and a person may have edited any: a line that is no report is passed over.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PROGRESS_FILE, CANCEL_FILE = "progress.jsonl", "cancel"
"""In the job's folder; the job stops when the second is there."""


class JobReport(BaseModel):
    """One report of a job."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")

    stage: str
    step: int = Field(ge=0)
    steps: int = Field(ge=0)
    """Of the stage."""
    round: int = Field(default=1, ge=1)
    """Which time the job goes through its stages."""
    eta_s: float | None = None
    """Seconds until the whole job is done, as far as can be told."""
    seconds: dict[str, float] = Field(default_factory=dict[str, float])
    """Spent so far by stage, in all runs of the job."""
    figures: dict[str, float | None] = Field(default_factory=dict[str, "float | None"])
    """What was measured: losses, what a judge said."""
    at: float
    """Unix time, for display."""


def reports_of(lines: Iterable[bytes | str]) -> list[JobReport]:
    """Return the reports in some lines, in their order, without what is none."""
    reports: list[JobReport] = []
    for line in lines:
        try:
            reports.append(JobReport.model_validate_json(line))
        except ValidationError:
            continue
    return reports
