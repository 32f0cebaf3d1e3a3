"""The report on a candidate as rows of a table; whatever a report lacks is left out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from gpu_server.page.wording import NOTHING, number

Report = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the live model and of the candidate."""

    name: str
    live: str
    candidate: str
    tip: str = ""
    better: bool | None = None
    """Whether the candidate's is better; None: neither, or that cannot be said."""


_WORTHS = (
    ("worth", "Worth of the outlines", "step x solidity x stability, on held-back real frames"),
    ("step", "Brightness step", "across the outlines, in units of the frame's spread"),
    ("solidity", "Solidity", "particles' area over that of their convex hulls"),
    ("stability", "Stability", "overlap with the masks of a turned, grainier copy"),
)  # fmt: skip
_SLACK = 0.005
"""Relative difference that is none."""


def reasons(report: Report) -> list[str]:
    """Return why the verdict is what it is."""
    found = report.get("reasons")
    return [str(one) for one in found] if isinstance(found, list) else []


def rows(report: Report) -> list[Row]:
    """Return the figures, those of the most weight first."""
    return [
        *_worth_rows(report),
        *_synthetic_rows(report),
        *_count_rows(report),
        *_replay_rows(report),
    ]


def remarks(report: Report) -> list[str]:
    """Return what is known of the synthetic set and of how far the two agree."""
    told: list[str] = []
    fidelity = _number(report.get("fidelity_second"))
    if fidelity is not None:
        told.append(f"Synthetic masks are true to {number(fidelity)} (asked: 0.9)")
    for key, name in (("first", "First"), ("second", "Second")):
        found = _object(report.get(key))
        frechet, mmd = _number(found.get("frechet")), _number(found.get("mmd"))
        if frechet is not None and mmd is not None:
            told.append(
                f"{name} generation: Fréchet distance {number(frechet)}, MMD {number(mmd)} "
                "to the real frames, lower is more real"
            )
    iou = _number(_object(report.get("agreement")).get("mean_iou"))
    if iou is not None:
        told.append(f"On real frames the two masks overlap by {100 * iou:.0f} %")
    return told


def _worth_rows(report: Report) -> Iterator[Row]:
    worths = _object(report.get("worths"))
    live, new = _object(worths.get("incumbent")), _object(worths.get("candidate"))
    for key, name, tip in _WORTHS:
        if key in live and key in new:
            yield _row(name, live.get(key), new.get(key), tip)
    if "covered" in live and "covered" in new:
        shares = _percent(live["covered"]), _percent(new["covered"])
        yield Row("Covered by particles", shares[0], shares[1])


def _synthetic_rows(report: Report) -> Iterator[Row]:
    scores = _object(report.get("synthetic_miou"))
    if "incumbent" in scores and "candidate" in scores:
        tip = "on synthetic frames that neither learnt from"
        yield _row(
            "MIoU, synthetic frames", scores["incumbent"], scores["candidate"], tip
        )


def _count_rows(report: Report) -> Iterator[Row]:
    agreement = _object(report.get("agreement"))
    frames = agreement.get("frames")
    found = [_object(one) for one in frames] if isinstance(frames, list) else []
    if not found:
        return
    live = [_object(one.get("incumbent")) for one in found]
    new = [_object(one.get("candidate")) for one in found]
    name = f"Particles, {len(found)} real frames"
    yield Row(name, f"{_total(live):,.0f}", f"{_total(new):,.0f}")
    yield Row("Mean diameter (px)", number(_mean(live)), number(_mean(new)))


def _replay_rows(report: Report) -> Iterator[Row]:
    found = report.get("replay")
    for one in found if isinstance(found, list) else []:
        kept = _object(one)
        name = str(kept.get("domain", "earlier domain"))[:60]
        tip = "a frozen set of an earlier domain: learning must not forget it"
        yield _row(f"Kept: {name}", kept.get("incumbent"), kept.get("candidate"), tip)


def _row(name: str, live: JsonValue, new: JsonValue, tip: str) -> Row:
    before, after = _number(live), _number(new)
    better: bool | None = None
    if before is not None and after is not None:
        change = after - before
        if abs(change) > _SLACK * max(abs(before), abs(after)):
            better = change > 0
    return Row(name, number(before), number(after), tip, better)


def _total(side: list[Mapping[str, JsonValue]]) -> float:
    return sum(_number(one.get("particles")) or 0.0 for one in side)


def _mean(side: list[Mapping[str, JsonValue]]) -> float | None:
    total = weight = 0.0
    for one in side:
        count = _number(one.get("particles")) or 0.0
        diameter = _number(one.get("mean_diameter_px"))
        if diameter is not None:
            total, weight = total + count * diameter, weight + count
    return total / weight if weight else None


def _percent(value: JsonValue) -> str:
    found = _number(value)
    return NOTHING if found is None else f"{100 * found:.2f} %"


def _number(value: JsonValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _object(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}
