"""The real agent, with a plan of where to die and, on demand, one bug planted."""

import argparse
import sys
from pathlib import Path

from crash_points import install

from acquisition_agent import __main__, waiting
from acquisition_agent.journal import Journal
from acquisition_agent.settle import Verdict


def plant_no_completeness_check() -> None:
    """Whatever can be read is complete."""
    waiting.probe = lambda _path: Verdict.COMPLETE


PLANTS = {"no_completeness_check": plant_no_completeness_check}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--die", default="")
    parser.add_argument("--diary", type=Path, required=True)
    parser.add_argument("--plant", choices=PLANTS)
    options, rest = parser.parse_known_args()
    if options.plant:
        PLANTS[options.plant]()
    for method, point in (
        ("seal", "sealed, done"),
        ("mark_offered", "offered, done"),
        ("mark_stored", "stored"),
    ):
        install(Journal, method, point, options.die, options.diary)
    return __main__.main(rest)


if __name__ == "__main__":
    sys.exit(main())
