"""The server without its network and page: store and ingest, as `emcopilot serve` has them.

Started by test_chaos.py as a process, with a plan of where to die and, for the proof
that the harness sees anything, with one bug planted into the real code.
"""

import argparse
import logging
import signal
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from crash_points import install

from emcopilot import wire
from gpu_server import ingest_events, ingest_machine, intake
from gpu_server.config import IngestSettings
from gpu_server.ingest import Ingest
from gpu_server.intake import ReceivedFile
from gpu_server.keys import server_keys
from gpu_server.spool import Spool
from gpu_server.store import Store


def plant_stored_before_commit() -> None:
    """STORED is said when the bytes are there, before they are on disk and committed."""
    step = ingest_machine.IngestMachine.step

    def hasty(
        self: ingest_machine.IngestMachine, event: ingest_events.Event, now: float
    ) -> list[ingest_events.Action]:
        actions = step(self, event, now)
        if isinstance(event, ingest_events.Written) and event.outcome == "whole":
            peer_id, _ = self._peer_of(event.key)
            stored = wire.Stored(items=(event.key.item,))
            actions.insert(0, ingest_events.Send(peer_id, stored))
        return actions

    ingest_machine.IngestMachine.step = hasty


def plant_no_unique_key() -> None:
    """No row is recognised as there already: each delivery gets a key of its own."""
    record = intake.record_file

    def record_anew(
        connection: sa.Connection, file: ReceivedFile, *, at: float
    ) -> int | None:
        file = replace(file, journal=str(uuid.uuid4()))
        return record(connection, file, at=at)

    assert intake.may_replace, "a second guard, by name: to be taken off as well"
    intake.record_file = record_anew
    intake.may_replace = lambda *_: False


PLANTS = {
    "stored_before_commit": plant_stored_before_commit,
    "no_unique_key": plant_no_unique_key,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--bind", required=True)
    parser.add_argument("--die", default="")
    parser.add_argument("--diary", type=Path, required=True)
    parser.add_argument("--plant", choices=PLANTS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if options.plant:
        PLANTS[options.plant]()
    for owner, method, point in (
        (Spool, "keep", "received"),
        (Store, "record_stored", "synced"),
        (Store, "record_stored", "committed, done"),
    ):
        install(owner, method, point, options.die, options.diary)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = IngestSettings(
        bind=options.bind, enrol_bind="tcp://127.0.0.1:*", disk_reserve_bytes=1
    )
    keys = server_keys(options.data_dir)
    with Store(options.data_dir) as store, Ingest(store, settings, keys):
        stop.wait()


if __name__ == "__main__":
    main()
