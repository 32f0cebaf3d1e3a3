"""`emcopilot adapt` and `python -m models.adapt job.toml`, for people and for a server."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from emcopilot.errors import AdaptationError, ConfigError, EMcopilotError
from emcopilot.leash import die_with_parent
from models.adapt import adapt
from models.adapt_settings import PRESETS, AdaptSettings, chosen_job
from models.background import bound_memory, step_back
from models.checkpoint import ModelCard
from models.job_clock import JobClock, expected_s
from models.training import is_out_of_memory, named_device
from models.watch import Cancelled, FileWatch

log = logging.getLogger(__name__)

OK, FAILED, BAD_USAGE = 0, 1, 2
_SAID = 1000


def run(argv: list[str]) -> int:
    """Run `python -m models.adapt`: as `main`, with errors said in one line."""
    try:
        return main(argv)
    except EMcopilotError as error:
        sys.stderr.write(f"adapt: {error}\n")
        return BAD_USAGE if isinstance(error, ConfigError) else FAILED


def main(argv: list[str]) -> int:
    """Run `emcopilot adapt`."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.job is None and not (options.frames and options.out):
        parser.error("give --frames and --out, or a TOML file that names them")
    given = {
        key: value for key, value in vars(options).items() if key not in _NO_SETTINGS
    }
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.background:
        return _in_background(options, given)
    job = chosen_job(options.job, given)
    with memory_sufficing():
        card = adapt(job)
    if options.json:
        answer = json.dumps(_answer(card, job))
    else:
        word = _plain(card.data["verdict"]).get("verdict")
        answer = f"{card.model_id} {job.out}: {word}"
    sys.stdout.write(answer + "\n")
    return OK


def _in_background(options: argparse.Namespace, given: dict[str, object]) -> int:
    """Run a job for a server: out of its way, and with one line of JSON as the answer."""
    die_with_parent()
    step_back(options.priority)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        job = chosen_job(options.job, given)
        bound_memory(
            options.memory_bytes, options.gpu_share, device=named_device(job.device)
        )
        watch = FileWatch(job.out, JobClock(expected_s(job), job.rounds))
        with memory_sufficing():
            card = adapt(job, watch)
        answer, status = _answer(card, job) | {"state": "done"}, OK
    except Cancelled as error:
        answer, status = {"state": "cancelled", "reason": str(error)}, FAILED
    except ConfigError as error:
        answer, status = {"state": "failed", "reason": str(error)}, BAD_USAGE
    except (EMcopilotError, OSError) as error:
        answer, status = {"state": "failed", "reason": str(error)}, FAILED
    sys.stdout.write(json.dumps(answer) + "\n")
    return status


@contextmanager
def memory_sufficing() -> Iterator[None]:
    """Let a job that runs out of memory fail with the remedy, not die with a traceback.

    Optimiser steps cut their batches first; all else would only run out again at the next start.

    Raises
    ------
    AdaptationError
        If memory, a GPU's or the machine's, did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.exception("the job ran out of memory")
        # The last line: before it, an error out of a worker has the worker's traceback.
        said = (str(error).strip().splitlines() or ["no more is known"])[-1]
        raise AdaptationError(
            f"out of memory ({said[:_SAID]}); give fewer or smaller frames, choose another preset "
            "(quick needs least), or free memory: end other programs, or raise memory_bytes or "
            "gpu_share, the job's bounds; what is done is kept"
        ) from error


def _answer(card: ModelCard, job: AdaptSettings) -> dict[str, object]:
    verdict = _plain(card.data["verdict"])
    return {"model_id": card.model_id, "out": str(job.out), **verdict}


def _plain(verdict: object) -> dict[str, object]:
    return {str(k): v for k, v in verdict.items()} if isinstance(verdict, dict) else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emcopilot adapt",
        description="Learn a new imaging domain from unlabelled frames: rough masks, pix2pix, "
        "CycleGAN, a labelled synthetic set, NPsSegNet. Leaves a model directory with a report; a "
        "killed job resumes.",
    )
    parser.add_argument(
        "job", type=Path, nargs="?", help="TOML file of the job's settings"
    )
    parser.add_argument("--frames", help="folder of unlabelled frames of one domain")
    parser.add_argument("--out", help="the job's folder; becomes the model")
    parser.add_argument("--preset", choices=sorted(PRESETS))
    parser.add_argument("--model", help="where it starts from: a name or a directory")
    parser.add_argument(
        "--rough",
        choices=["auto", "incumbent", "sam", "classical"],
        help="who makes the rough masks",
    )
    parser.add_argument("--sam", help="folder of SAM's weights")
    parser.add_argument("--inception", help="weights of Inception v3, for FID and IS")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument(
        "--background",
        action="store_true",
        help="for a program that runs jobs: lowest priority, ends with its parent, writes "
        "progress.jsonl into the job's folder, stops when a file `cancel` is there, answers with "
        "one line of JSON",
    )
    parser.add_argument(
        "--memory-bytes", type=int, default=0, help="with --background: most memory"
    )
    parser.add_argument(
        "--gpu-share", type=float, default=1.0, help="with --background: of its memory"
    )
    parser.add_argument(
        "--priority",
        choices=["idle", "low", "normal"],
        default="idle",
        help="with --background: beside other programs",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="with --background: CPU threads"
    )
    return parser


_NO_SETTINGS = frozenset(
    {"job", "json", "background", "memory_bytes", "gpu_share", "priority", "threads"}
)
"""Options that say how a job is run, not what it is."""
