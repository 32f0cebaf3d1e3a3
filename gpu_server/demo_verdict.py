"""The demo's verdict: what came out, against what the virtual microscope knows it drew."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from emcopilot.truth import mean_diameter_nm, read_truth
from gpu_server.demo_programs import DemoPrograms
from gpu_server.queries import StoredFrame, counted_frames, session_list

MAX_DIAMETER_ERROR_PERCENT = 3.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures that the demo ends with."""

    frames: int
    """Frames that the microscope wrote."""
    stored: int
    """Frames with exactly the result that counts."""
    lost: int
    duplicated: int
    mean_diameter_nm: float
    true_mean_diameter_nm: float
    latency_p50_s: float
    """Seconds from the file's last byte to its stored result."""
    latency_p95_s: float
    device: str
    model_id: str

    @property
    def mean_diameter_error_percent(self) -> float:
        """Signed; NaN when nothing was measured."""
        return 100.0 * (self.mean_diameter_nm / self.true_mean_diameter_nm - 1.0)

    @property
    def passed(self) -> bool:
        """Nothing lost, nothing twice, and the right size."""
        is_right = abs(self.mean_diameter_error_percent) <= MAX_DIAMETER_ERROR_PERCENT
        return self.lost == 0 and self.duplicated == 0 and is_right

    def as_line(self) -> dict[str, object]:
        """Return the machine-readable answer; keys are stable."""
        return {
            "frames": self.frames,
            "stored": self.stored,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "mean_diameter_nm": _rounded(self.mean_diameter_nm),
            "true_mean_diameter_nm": _rounded(self.true_mean_diameter_nm),
            "mean_diameter_error_percent": _rounded(self.mean_diameter_error_percent),
            "latency_p50_s": _rounded(self.latency_p50_s),
            "latency_p95_s": _rounded(self.latency_p95_s),
            "device": self.device,
            "model_id": self.model_id,
        }

    def explain(self) -> str:
        """Return the verdict for people."""
        word = "PASS" if self.passed else "FAIL"
        return (
            f"\n{word}: {self.stored} of {self.frames} frames stored and measured, "
            f"{self.lost} lost, {self.duplicated} twice\n"
            f"mean diameter {self.mean_diameter_nm:.3f} nm, true "
            f"{self.true_mean_diameter_nm:.3f} nm: "
            f"{self.mean_diameter_error_percent:+.2f} % "
            f"(at most {MAX_DIAMETER_ERROR_PERCENT:.0f} %)\n"
            f"file to result: median {self.latency_p50_s:.2f} s, 95 % within "
            f"{self.latency_p95_s:.2f} s on {self.device}, model {self.model_id}"
        )


def judge(programs: DemoPrograms, frames: int) -> Verdict:
    """Compare the committed results with the truth; call it after the last result."""
    with programs.database.read() as connection:
        found = [
            frame
            for session in session_list(connection)
            for frame in counted_frames(connection, session.id)
        ]
    times = Counter((_name(frame), frame.page) for frame in found)
    truths = read_truth(programs.truth)
    wanted = {(truth.file, truth.page) for truth in truths}
    results = [frame.result for frame in found if frame.result]
    latencies = [
        frame.result.saved_at - frame.written_at for frame in found if frame.result
    ]
    p50, p95 = np.percentile(latencies or [math.nan], (50, 95))
    return Verdict(
        frames=frames,
        stored=len(times),
        lost=len(wanted - set(times)),
        duplicated=times.total() - len(times),
        mean_diameter_nm=_mean(found),
        true_mean_diameter_nm=mean_diameter_nm(truths),
        latency_p50_s=float(p50),
        latency_p95_s=float(p95),
        device=str(results[0].summary["device"]) if results else "none",
        model_id=results[0].model_id if results else "none",
    )


def _name(frame: StoredFrame) -> str:
    return frame.source_key.rpartition("/")[2]


def _mean(frames: list[StoredFrame]) -> float:
    """Return the mean over all counted particles of all frames, as the truth has it."""
    sizes = [frame.diameters("nm") for frame in frames]
    every = np.concatenate(sizes) if sizes else np.empty(0)
    every = every[np.isfinite(every)]
    return float(every.mean()) if every.size else math.nan


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
