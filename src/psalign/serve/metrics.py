"""Figures of the service in the form of Prometheus. No prompt, identifier, account or attribute is a label."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)
# The only values of the label `reason`.
REASONS = (
    "bad_request", "unauthorized", "forbidden", "unknown_person", "moderation_blocked", "rate_limited", "busy",
    "timeout", "closed", "out_of_memory", "cancelled", "not_found", "database", "failed",
)  # fmt: skip


class Metrics:
    """One set of figures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        at, buckets = self.registry, SECONDS
        self.requests = Counter("psalign_requests", "Requests for pictures, by HTTP status", ["status"], registry=at)
        self.pictures = Counter("psalign_pictures", "Pictures that were sent", registry=at)
        self.refusals = Counter("psalign_refusals", "Requests without a picture, by reason", ["reason"], registry=at)
        self.out_of_memory = Counter("psalign_out_of_memory", "Batches too large for the memory", registry=at)
        self.latency_s = Histogram("psalign_request_seconds", "Request to answer", registry=at, buckets=buckets)
        self.queue_s = Histogram("psalign_queue_seconds", "Request to first step", registry=at, buckets=buckets)
        self.batch_size = Histogram("psalign_batch_rows", "Rows drawn together", registry=at, buckets=SIZES)
        self.people_per_batch = Histogram("psalign_batch_people", "People in a batch", registry=at, buckets=SIZES)
        ProcessCollector(registry=self.registry)
        for reason in REASONS:
            self.refusals.labels(reason)

    def watch_queue(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Show how many rows wait and are drawn at the moment of asking."""
        self.registry.register(_Now(waiting, running))

    def refuse(self, reason: str) -> None:
        self.refusals.labels(reason if reason in REASONS else "failed").inc()

    def text(self) -> bytes:
        """All figures, as /metrics gives them."""
        return generate_latest(self.registry)


class _Now:
    """Figures that are read when they are asked for."""

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        self.waiting, self.running = waiting, running

    def collect(self) -> list[GaugeMetricFamily]:
        import torch

        figures = {
            "psalign_rows_waiting": ("Rows in the queue", self.waiting()),
            "psalign_rows_running": ("Rows that are drawn now", self.running()),
        }
        found = [GaugeMetricFamily(name, what, value=value) for name, (what, value) in figures.items()]
        if torch.cuda.is_available():
            found += [
                _by_gpu("psalign_gpu_bytes", "Memory of the GPU in use by torch", torch.cuda.memory_allocated),
                _by_gpu("psalign_gpu_reserved_bytes", "Memory of the GPU that torch holds", torch.cuda.memory_reserved),
            ]
        return found


def _by_gpu(name: str, what: str, read: Callable[[int], int]) -> GaugeMetricFamily:
    """A figure of each GPU. Reading it starts nothing on a GPU that is not in use."""
    import torch

    family = GaugeMetricFamily(name, what, labels=["device"])
    for device in range(torch.cuda.device_count()):
        family.add_metric([str(device)], read(device))
    return family
