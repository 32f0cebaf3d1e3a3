"""The server's database: what each row means, and the keys that make it count once.

agent -> session -> file -> frame -> result, and beside it domain -> job -> model -> promotion.
A session is one folder of frames from one agent, a file one acquired revision, a frame one page of
a file, a result what one model found in a frame. A domain is frames that look alike, a job learns
one, a model is what it left; the last promotion says which model is live. Times are Unix seconds
for display only; order comes from the autoincrement ids.
Every statistic reads `results` with `counts` set, whose frames are then `processed`.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

QUEUED, LEASED, PROCESSED = "queued", "leased", "processed"
QUARANTINED, SUPERSEDED = "quarantined", "superseded"
FRAME_STATES = (QUEUED, LEASED, PROCESSED, QUARANTINED, SUPERSEDED)

SCOPES = ("viewer", "operator", "admin")
"""What a token allows, each including the ones before it."""

EVENT_KINDS = ("frame", "session", "agent", "problem", "model", "domain", "job")

STAGES = ("rough_masks", "pix2pix", "cyclegan", "synthesise", "train", "evaluate")
"""Of an adaptation job, in order: while one runs, it is the job's state."""
AWAITING_OPERATOR, PROMOTED, REJECTED = "awaiting_operator", "promoted", "rejected"
CANCELLED, FAILED = "cancelled", "failed"
OPEN_JOB_STATES = (QUEUED, *STAGES)
"""States of a job that will go on by itself, whatever stops."""
JOB_STATES = (
    *OPEN_JOB_STATES,
    AWAITING_OPERATOR,
    PROMOTED,
    REJECTED,
    CANCELLED,
    FAILED,
)

UPLOAD = "upload"
"""Name of the agent row, without key, that owns files sent over REST; also its journal."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

agents = Table(
    "agents",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("public_key", String, unique=True),  # z85 CURVE key; null for uploads
    Column("name", String, nullable=False),
    Column("host", String, nullable=False, server_default=""),
    Column("version", String, nullable=False, server_default=""),
    Column("enrolled_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("seen_at", Float),
    # The agent's own account of its files, as it last told:
    Column("journal", String),
    Column("discovered", Integer, nullable=False, server_default="0"),
    Column("stored", Integer, nullable=False, server_default="0"),
    Column("pending", Integer, nullable=False, server_default="0"),
    Column("vanished", Integer, nullable=False, server_default="0"),
    Column("rejected", Integer, nullable=False, server_default="0"),
    Column("pending_bytes", BigInteger, nullable=False, server_default="0"),
    Column("oldest_unsent_s", Float),
    Column("problems", JSON, nullable=False, server_default="[]"),  # [str, ...]
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("agent_id", ForeignKey("agents.id"), nullable=False),
    Column("folder", String, nullable=False),  # directory part of the source keys
    Column("name", String, nullable=False),  # last part of the folder, for people
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),  # last file stored or result saved
    # The operator's calibration; null: the frames' own holds.
    Column("pixel_size_y_nm", Float),
    Column("pixel_size_x_nm", Float),
    UniqueConstraint("agent_id", "folder"),
)

files = Table(
    "files",
    metadata,
    Column("id", Integer, primary_key=True),  # the order of storing
    Column("agent_id", ForeignKey("agents.id"), nullable=False),
    Column("session_id", ForeignKey("sessions.id"), nullable=False, index=True),
    Column("journal", String, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("rev", Integer, nullable=False),
    Column("source_key", String, nullable=False),
    Column("name", String, nullable=False),  # last part of the source key
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False, index=True),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("sealed_at", Float, nullable=False),
    Column("received_at", Float, nullable=False),  # first byte
    Column("stored_at", Float, nullable=False),  # committed
    Column("pages", Integer),  # null until the file was opened
    Column("superseded_by", ForeignKey("files.id")),  # a newer revision counts instead
    # What makes a file that is sent twice count once.
    UniqueConstraint("agent_id", "journal", "seq", "rev"),
    Index(None, "agent_id", "source_key"),
    sqlite_autoincrement=True,
)

frames = Table(
    "frames",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("file_id", ForeignKey("files.id"), nullable=False),
    Column("session_id", ForeignKey("sessions.id"), nullable=False),
    Column("page", Integer, nullable=False),  # from 0
    Column("number", Integer, nullable=False),  # from 1 in the session, by arrival
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("lease_until", Float),  # monotonic clock of the server process
    Column("reason", String),  # why it is quarantined
    Column("processed_at", Float),
    # What decoding found:
    Column("height", Integer),
    Column("width", Integer),
    Column("dtype", String),
    Column("pixel_size_y_nm", Float),
    Column("pixel_size_x_nm", Float),
    Column("pixel_size_source", String),
    Column("modality", String),
    Column("detector", String),
    Column("sample", String),
    Column("time_s", Float),  # since the file's first page, where the file says
    Column("notes", JSON, nullable=False, server_default="[]"),  # [str, ...]
    # The operator took the whole frame out of the statistics:
    Column("rejected_at", Float),
    Column("rejected_by", String),
    UniqueConstraint("file_id", "page"),
    UniqueConstraint("session_id", "number"),
    CheckConstraint(f"state IN {FRAME_STATES}", name="state"),
    sqlite_autoincrement=True,
)
# The order of work: fresh frames before ones that were begun, newest file first.
Index(
    "ix_frames_queue",
    frames.c.state,
    frames.c.attempts,
    frames.c.file_id.desc(),
    frames.c.page,
)
Index("ix_frames_session_state", frames.c.session_id, frames.c.state)

results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("frame_id", ForeignKey("frames.id"), nullable=False),
    Column("session_id", ForeignKey("sessions.id"), nullable=False),
    Column("model_id", String, nullable=False),
    Column(
        "counts", Boolean, nullable=False
    ),  # the model that is current for the frame
    Column("saved_at", Float, nullable=False),
    Column("particle_count", Integer, nullable=False),
    Column("counted_count", Integer, nullable=False),  # not touching the border
    Column("unit", String, nullable=False),  # of the diameters: "nm" or "px"
    Column("summary", JSON, nullable=False),
    Column("timings", JSON, nullable=False),
    # float32 little endian, one a label: equivalent diameter in `unit`, NaN where the
    # particle is cut by the border. A session's distribution reads these alone.
    Column("diameters", LargeBinary, nullable=False),
    UniqueConstraint("frame_id", "model_id"),
    CheckConstraint("unit IN ('nm', 'px')", name="unit"),
    Index("ix_results_session_counts", "session_id", "counts"),
    Index(None, "model_id"),  # a model's frames are counted from here
)
# The database itself refuses to count a frame twice.
Index(
    "uq_results_counted",
    results.c.frame_id,
    unique=True,
    sqlite_where=text("counts = 1"),
    postgresql_where=text("counts"),
)

# Apart from `results`, so that reading a session's statistics does not wade through them.
result_blobs = Table(
    "result_blobs",
    metadata,
    Column("result_id", ForeignKey("results.id"), primary_key=True),
    Column("particles", LargeBinary, nullable=False),  # ParticleTable.to_bytes()
    Column("labels", LargeBinary, nullable=False),  # deflated TIFF, uint16 or uint32
)

domains = Table(
    "domains",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),  # the operator's, or made of what is known
    # What the files say, where they say it; null: they do not.
    Column("instrument", String),
    Column("modality", String),
    Column("detector", String),
    Column("sample", String),
    Column("pixel_band", Integer),  # floor(log2(pixel size in nm)): octaves
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("frame_count", Integer, nullable=False, server_default="0"),  # ever
    # What its frames look like: `emcopilot.domain`'s own bytes, and whose features they are.
    Column("features", String, nullable=False),
    Column("look", LargeBinary, nullable=False),
    # The model that was promoted for it; going back to the domain proposes or selects it.
    Column("model_id", String),
    Column("selects_model", Boolean, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

# How each frame looked when it was processed.
looks = Table(
    "looks",
    metadata,
    Column("frame_id", ForeignKey("frames.id"), primary_key=True),
    # Null where it shows nothing to learn; `flaw` says why.
    Column("domain_id", ForeignKey("domains.id"), index=True),
    Column("flaw", String),  # blank | saturated | defocused
    # From what its model was trained on, 1 being the farthest of that; null: unknown.
    Column("distance", Float),
    Column("model_id", String, nullable=False),
)

# A bounded, representative choice of a domain's frames: what a job learns from.
reservoir = Table(
    "reservoir",
    metadata,
    Column("domain_id", ForeignKey("domains.id"), primary_key=True),
    Column("frame_id", ForeignKey("frames.id"), primary_key=True),
    Column("rank", Float, nullable=False),  # the lowest is the first to go
    Column("look", LargeBinary, nullable=False),  # of this frame
    Column("added_at", Float, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("model_id", String, primary_key=True),
    Column("source", String, nullable=False),  # shipped | adapted | imported
    Column(
        "folder", String, nullable=False
    ),  # under the data directory, or a shipped name
    Column("sha256", String(64), nullable=False),  # of the weights
    Column("domain_id", ForeignKey("domains.id")),
    Column("job_id", Integer),
    Column("added_at", Float, nullable=False),
    Column("added_by", String, nullable=False),
    Column("verdict", String),  # promote | doubtful | reject, of the job's report
    Column("tested_at", Float),  # passed its self-test: only then it can go live
    Column("deleted_at", Float),
    CheckConstraint("source IN ('shipped', 'adapted', 'imported')", name="source"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True),  # the last one's model is live
    Column("model_id", ForeignKey("models.model_id"), nullable=False),
    Column("replaced", ForeignKey("models.model_id")),  # null: none, or itself
    Column(
        "undoes", ForeignKey("promotions.id")
    ),  # a roll back names what it takes back
    Column("at", Float, nullable=False),
    Column("who", String, nullable=False),
    Column("reason", String, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("domain_id", ForeignKey("domains.id"), nullable=False),
    Column("state", String, nullable=False),
    Column("preset", String, nullable=False),
    Column("start_model", String, nullable=False),  # a model_id
    Column("frame_count", Integer, nullable=False),
    Column("seed", Integer, nullable=False, server_default="0"),
    Column("who", String, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("cancel_wanted", Boolean, nullable=False, server_default="0"),
    Column(
        "attempts", Integer, nullable=False, server_default="0"
    ),  # starts of its process since it last came further
    Column("step", Integer, nullable=False, server_default="0"),  # of the stage
    Column("steps", Integer, nullable=False, server_default="0"),
    Column("eta_s", Float),
    Column("seconds", JSON, nullable=False, server_default="{}"),  # spent, by stage
    Column("candidate", String),  # its model_id, once there is one
    Column("reason", String),  # why it failed, was refused or stopped
    CheckConstraint(f"state IN {JOB_STATES}", name="state"),
    sqlite_autoincrement=True,
)

rejections = Table(
    "rejections",
    metadata,
    Column("result_id", ForeignKey("results.id"), primary_key=True),
    Column("particle", Integer, primary_key=True),  # its label in this result
    Column("rejected_at", Float, nullable=False),
    Column("rejected_by", String, nullable=False),
)

gone = Table(
    "gone",
    metadata,
    Column("agent_id", ForeignKey("agents.id"), primary_key=True),
    Column("journal", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("rev", Integer, primary_key=True),
    Column("source_key", String, nullable=False),
    Column("reason", String, nullable=False),  # vanished | changed | unreadable | ...
    Column("told_at", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),  # what viewers resume from
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("session_id", ForeignKey("sessions.id")),
    Column("data", JSON, nullable=False),
    CheckConstraint(f"kind IN {EVENT_KINDS}", name="kind"),
    Index(None, "kind", "session_id"),  # alarms are read from here
    sqlite_autoincrement=True,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    CheckConstraint(f"scope IN {SCOPES}", name="scope"),
)

web_sessions = Table(
    "web_sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),  # of the cookie
    Column("token_id", ForeignKey("tokens.id"), nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

login_codes = Table(
    "login_codes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("token_id", ForeignKey("tokens.id"), nullable=False),
    Column("expires_at", Float, nullable=False),
)

enrol_codes = Table(
    "enrol_codes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("expires_at", Float, nullable=False),
    Column(
        "tries", Integer, nullable=False, server_default="0"
    ),  # wrong ones meanwhile
    Column("used_at", Float),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("who", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),  # e.g. "session 3", "frame 12"
    Column("detail", JSON, nullable=False),
)
