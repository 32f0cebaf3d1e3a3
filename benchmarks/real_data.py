"""Send every real micrograph through the live path: does it get a result, and how good is it.

    EMCOPILOT_DATA=... python benchmarks/real_data.py [--json FILE]

The images and vendor files are dropped into the watched folder of a running server and agent.
EMPS: MIoU on the validation part (split by paper). ARDA: F1 of particles whose centre lies in a
manual box, on the validation families. Vendor files: what got a result, and what was refused with
which reason.
"""

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from arda import read_arda, split_families
from emps import data_folder, read_emps, split
from machine import machine, spread, write_json
from numpy.typing import NDArray

from emcopilot.label_image import decode_labels
from gpu_server.accounts import file_account, problem_files, queue_account
from gpu_server.demo_programs import DemoPrograms
from gpu_server.particle_rows import read_labels, read_particles
from gpu_server.queries import StoredFrame, counted_frames, session_list
from models.box_truth import centres_of
from models.datasets import read_pixels
from models.segmentation_metrics import pixel_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="only so many files of each set")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = data_folder()
    # Server and agent have process groups of their own: nothing but us would stop them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with (
        tempfile.TemporaryDirectory(prefix="emcopilot-bench-") as folder,
        DemoPrograms(Path(folder), port=0) as programs,
    ):
        dropped = drop(data, programs, options.limit)
        programs.wait_until_stored(dropped)
        figures = report(data, programs, dropped)
    write_json(options.json, {"machine": machine(), **figures})


def drop(data: Path, programs: DemoPrograms, limit: int | None) -> int:
    """Copy the sets into folders of the watched folder; return how many files."""
    sets = {
        "emps": sorted((data / "emps_tem" / "images").iterdir()),
        "arda": sorted((data / "arda_stem" / "images").iterdir()),
        "vendor": [
            path
            for path in sorted((data / "vendor" / "rosettasciio").rglob("*"))
            if path.is_file() and path.suffix != ".zip"
        ],
    }
    count = 0
    for name, paths in sets.items():
        for path in paths[:limit]:
            # Vendor files of one name lie in several folders: each keeps its own.
            below = path.parent.name if name == "vendor" else ""
            target = programs.watched / name / below
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / path.name)
            count += 1
    return count


def report(data: Path, programs: DemoPrograms, dropped: int) -> dict[str, object]:
    with programs.database.read() as connection:
        files = file_account(connection)
        states = queue_account(connection).states
        problems = problem_files(connection)
        frames = [
            frame
            for session in session_list(connection)
            for frame in counted_frames(connection, session.id)
        ]
        emps = [f for f in frames if "/emps/" in f.source_key]
        arda = [f for f in frames if "/arda/" in f.source_key]
        labels = {_name(f): decode_labels(read_labels(connection, f)) for f in emps}
        held_out = {i.path.name: i for i in split_families(read_arda(data))[1]}
        scores = {
            name: held_out[name].boxes.f1(centres_of(read_particles(connection, frame)))
            for frame in arda
            if (name := _name(frame)) in held_out
        }
    mious = emps_mious(data, labels)
    print(
        f"{machine()}\n{dropped} files dropped, {files.stored} stored; frames {states}"
    )
    vendor = len(frames) - len(emps) - len(arda)
    print(
        f"results: {len(emps)} EMPS images, {len(arda)} ARDA images, {vendor} vendor frames"
    )
    for problem in problems:
        print(f"  refused: {problem.name}: {problem.reason}")
    if mious:
        median = statistics.median(mious)
        print(f"EMPS validation (by paper): median MIoU {median:.3f}, n={len(mious)}")
    for kind in ("HAADF", "BF"):
        values = [
            f1
            for name, f1 in scores.items()
            if held_out[name].is_bright == (kind == "HAADF")
        ]
        if values:
            median = statistics.median(values)
            print(
                f"ARDA validation families, {kind}: F1 by centre in box, "
                f"median {median:.3f}, n={len(values)}"
            )
    return {
        "dropped": dropped,
        "stored": files.stored,
        "states": states,
        "emps_miou": spread(mious) if mious else None,
        "arda_f1": scores,
        "refused": {problem.name: problem.reason for problem in problems},
    }


def emps_mious(data: Path, labels: dict[str, NDArray[np.int32]]) -> list[float]:
    _, validation = split(read_emps(data))
    return [
        pixel_score(
            labels[image.pair.image.name] > 0, read_pixels(image.pair.mask) > 0
        ).miou
        for image in validation
        if image.pair.image.name in labels
    ]


def _name(frame: StoredFrame) -> str:
    return frame.source_key.rpartition("/")[2]


if __name__ == "__main__":
    main()
