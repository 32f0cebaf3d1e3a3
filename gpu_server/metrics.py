"""Prometheus figures, read from committed rows when they are asked for."""

import shutil
import time
from collections.abc import Iterable

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from gpu_server.accounts import QueueAccount, agent_rows, queue_account
from gpu_server.publish import Publisher
from gpu_server.store import Store
from gpu_server.tables import results

_STAGES = (
    ("queue", "stored", "leased"),
    ("decode", "leased", "decoded"),
    ("infer", "decoded", "inferred"),
    ("measure", "inferred", "measured"),
    ("e2e", "stored", "measured"),
)
"""Stage, and the two moments of a result's timings that it lies between."""
_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class StoreCollector:
    """Turns the store's rows and the publisher's counts into Prometheus' figures.

    A histogram only ever grows: it counts every result once, from the rows that were added
    since it was last asked for.
    """

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._last_result = 0
        self._stages = {stage: _Durations() for stage, _, _ in _STAGES}

    def collect(self) -> Iterable[Metric]:
        """Return every figure as it is now."""
        with self._store.read() as connection:
            queue = queue_account(connection)
            agents = agent_rows(connection)
            self._count_new_results(connection)
        yield from _frame_metrics(queue)
        yield from _agent_metrics(agents, time.time())
        yield from self._stage_metrics()
        yield from self._viewer_metrics()
        free = shutil.disk_usage(self._store.data_dir).free
        yield GaugeMetricFamily("disk_free_bytes", "Free on the data disk", value=free)

    def _count_new_results(self, connection: sa.Connection) -> None:
        chosen = sa.select(results.c.id, results.c.timings).where(
            results.c.id > self._last_result
        )
        for result_id, timings in connection.execute(chosen.order_by(results.c.id)):
            self._last_result = result_id
            for stage, begin, end in _STAGES:
                if begin in timings and end in timings:
                    self._stages[stage].add(timings[end] - timings[begin])

    def _stage_metrics(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(
            "frame_stage_seconds", "Time a frame spent in each stage", labels=["stage"]
        )
        for stage, durations in self._stages.items():
            family.add_metric([stage], durations.buckets(), durations.total_s)
        yield family

    def _viewer_metrics(self) -> Iterable[Metric]:
        viewers, skipped = self._publisher.viewers, self._publisher.skipped
        yield GaugeMetricFamily("ws_clients", "Open live views", value=viewers)
        yield CounterMetricFamily(
            "ws_dropped", "Display frames that viewers did not take", value=skipped
        )


class _Durations:
    """Counts durations into buckets."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._counts = [0] * (len(_BUCKETS_S) + 1)

    def add(self, duration_s: float) -> None:
        self.total_s += duration_s
        # Prometheus' buckets include all that is shorter.
        for index, bound_s in enumerate((*_BUCKETS_S, float("inf"))):
            self._counts[index] += duration_s <= bound_s

    def buckets(self) -> list[tuple[str, float]]:
        bounds = [*map(str, _BUCKETS_S), "+Inf"]
        return list(zip(bounds, self._counts, strict=True))


def registry_of(store: Store, publisher: Publisher) -> CollectorRegistry:
    """Return a registry of one server's own; servers in one process do not mix."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(store, publisher))
    return registry


def _frame_metrics(queue: QueueAccount) -> Iterable[Metric]:
    frames = GaugeMetricFamily("frames", "Frames by state", labels=["state"])
    for state, total in queue.states.items():
        frames.add_metric([state], total)
    yield frames
    if queue.latencies_s:
        latency = GaugeMetricFamily(
            "frame_latency_seconds",
            "Complete file to stored result, last frames",
            labels=["quantile"],
        )
        latency.add_metric(["0.5"], queue.latencies_s[0])
        latency.add_metric(["0.95"], queue.latencies_s[1])
        yield latency


def _agent_metrics(agents: Iterable[sa.Row], now: float) -> Iterable[Metric]:
    frames = GaugeMetricFamily("backlog_frames", "Files not sent yet", labels=["agent"])
    size = GaugeMetricFamily("backlog_bytes", "Bytes not sent yet", labels=["agent"])
    oldest = GaugeMetricFamily(
        "oldest_unsent_seconds", "Age of the oldest unsent file", labels=["agent"]
    )
    seen = GaugeMetricFamily(
        "agent_last_seen_seconds", "Since the agent was last heard", labels=["agent"]
    )
    for row in agents:
        # Two microscopes may carry one name; the id keeps them apart.
        label = [f"{row.id} {row.name}"]
        frames.add_metric(label, row.pending)
        size.add_metric(label, row.pending_bytes)
        oldest.add_metric(label, row.oldest_unsent_s or 0.0)
        if row.seen_at is not None:
            seen.add_metric(label, max(0.0, now - row.seen_at))
    yield from (frames, size, oldest, seen)
