"""Prometheus metrics. Labels take values from fixed sets only: what a client sends never makes a new series."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from .batching import BatchReport

MODELS = ("encode", "decode")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        by_model = ["model"]
        self.requests = Counter(
            "coda_requests_total",
            "Inference requests, by the status of the response: OK or a status code's name.",
            ["model", "protocol", "code"],
            registry=registry,
        )
        self.errors = Counter(
            "coda_errors_total", "Requests that were not answered, by kind.", ["kind"], registry=registry
        )
        self.request_seconds = Histogram(
            "coda_request_seconds",
            "Seconds from a request's arrival to its response, rejected requests included.",
            by_model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "coda_queue_seconds", "Seconds in the queue for a device.", by_model, buckets=_SECONDS, registry=registry
        )
        self.run_seconds = Histogram(
            "coda_run_seconds", "Seconds of one batch on a device.", by_model, buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "coda_batch_size", "Images in one batch.", by_model, buckets=_IMAGES, registry=registry
        )
        self.images = Counter("coda_images_total", "Images that devices have processed.", by_model, registry=registry)
        self.queue_images = Gauge("coda_queue_images", "Images waiting for a device.", registry=registry)
        self.ignored_profiles = Counter(
            "coda_profiles_ignored_total",
            "Images with a colour profile other than sRGB, which was ignored.",
            registry=registry,
        )
        self.dropped_lines = Counter(
            "coda_log_lines_dropped_total", "Lines of the log that nobody read in time.", registry=registry
        )
        self.active = Gauge("coda_requests_active", "Inference requests in progress.", registry=registry)

    def batch(self, report: BatchReport) -> None:
        """Count one batch."""
        self.batch_size.labels(report.model).observe(report.rows)
        self.run_seconds.labels(report.model).observe(report.run_seconds)
        for seconds in report.queue_seconds:
            self.queue_seconds.labels(report.model).observe(seconds)
        if report.error is None:
            self.images.labels(report.model).inc(report.rows)
