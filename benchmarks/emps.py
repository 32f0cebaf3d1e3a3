"""The EMPS part of the data folder: pairs of image and mask, split by paper (DOI)."""

import csv
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from models.datasets import Pair, is_held_out

SPLIT_SEED = 0


@dataclass(frozen=True, slots=True)
class EmpsImage:
    """One image, its manual mask and the paper it comes from."""

    pair: Pair
    doi: str
    is_core: bool
    """At least 8 particles, nearest to the product's use."""


def data_folder() -> Path:
    folder = os.environ.get("EMCOPILOT_DATA")
    if not folder:
        sys.exit("set EMCOPILOT_DATA to the folder of real micrographs (manifest.csv)")
    return Path(folder)


def read_emps(folder: Path) -> list[EmpsImage]:
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["file"].startswith("emps_tem/")]
    return [
        EmpsImage(
            Pair(folder / row["file"], folder / row["mask_file"]),
            doi=re.search(r"doi=(\S+?)(?:;|$)", row["notes"])[1],  # type: ignore[index]
            is_core="core=yes" in row["notes"],
        )
        for row in rows
    ]


def split(images: list[EmpsImage]) -> tuple[list[EmpsImage], list[EmpsImage]]:
    """Return (training, validation); no paper is in both."""
    held_out = [i for i in images if is_held_out(i.doi, seed=SPLIT_SEED)]
    return [i for i in images if i not in held_out], held_out
