"""`emcopilot bench`: run one of the scripts in `benchmarks/`, which come with the checkout."""

import argparse
import subprocess
import sys
from pathlib import Path

from emcopilot.errors import ConfigError

SCRIPTS = {
    "live": "live.py",
    "engine": "engine.py",
    "ingest": "ingest.py",
    "agent": "agent.py",
    "measure": "measure.py",
    "vendor": "vendor_files.py",
    "quality": "base_model_quality.py",
    "confidence": "confidence.py",
    "robustness": "robustness.py",
    "scale": "scale.py",
    "networks": "networks.py",
    "real": "real_data.py",
}
"""What can be measured, and the script that prints it."""


def main(argv: list[str]) -> int:
    """Run one benchmark as a process of its own, so that nothing else is in its memory."""
    parser = argparse.ArgumentParser(
        prog="emcopilot bench",
        description="Print the performance figures of the README.",
    )
    parser.add_argument("what", nargs="?", default="live", choices=SCRIPTS)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options, rest = parser.parse_known_args(argv)
    script = Path(__file__).parents[1] / "benchmarks" / SCRIPTS[options.what]
    if not script.is_file():
        raise ConfigError(
            f"no benchmark script at {script}; benchmarks come with the source checkout"
        )
    as_json = ["--json", str(options.json)] if options.json else []
    return subprocess.run(
        [sys.executable, str(script), *as_json, *rest], check=False
    ).returncode
