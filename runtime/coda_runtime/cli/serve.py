"""`coda serve`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..backends.base import LoadOptions
from ..errors import require
from ..serving.options import ServeOptions
from .base import command as coda_command
from .options import bundle_argument, load_option_help, load_options

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_PORT = click.IntRange(0, 65535)
_COUNT = click.IntRange(1)
_SECONDS = click.FloatRange(0, min_open=True)
_DELAY = click.FloatRange(0, 60_000)
_DEFAULT = ServeOptions()


@coda_command(name="serve", example="coda serve bundle/ --host 127.0.0.1 --http-port 8080 --grpc-port 8081")
@bundle_argument
@click.option("--host", default=_DEFAULT.host, show_default=True, help="Address to listen on; 0.0.0.0 is all of them.")
@click.option(
    "--http-port", type=_PORT, default=_DEFAULT.http_port, show_default=True, help="Port of REST; 0 picks a free one."
)
@click.option(
    "--grpc-port", type=_PORT, default=_DEFAULT.grpc_port, show_default=True, help="Port of gRPC; 0 picks a free one."
)
@click.option("--max-batch", type=_COUNT, help="Images in one run; by default what the engines take at once.")
@click.option(
    "--max-delay-ms",
    type=_DELAY,
    default=_DEFAULT.max_delay_ms,
    show_default=True,
    help="How long an incomplete batch waits for more while a device is free.",
)
@click.option(
    "--max-queue",
    type=_COUNT,
    default=_DEFAULT.max_queue,
    show_default=True,
    help="Maximum images waiting for a device.",
)
@click.option(
    "--max-images", type=_COUNT, default=_DEFAULT.max_images, show_default=True, help="Maximum images in one request."
)
@click.option(
    "--max-pixels",
    type=_COUNT,
    default=_DEFAULT.max_pixels,
    show_default=True,
    help="Maximum width times height of an image.",
)
@click.option(
    "--max-decode-seconds",
    type=_SECONDS,
    default=_DEFAULT.max_decode_seconds,
    show_default=True,
    help="Maximum processor time to decode an image.",
)
@click.option(
    "--max-request-mb",
    type=click.IntRange(1, 1024),
    default=_DEFAULT.max_request_mb,
    show_default=True,
    help="Maximum size of a request, in MiB.",
)
@click.option(
    "--max-requests",
    type=_COUNT,
    default=_DEFAULT.max_requests,
    show_default=True,
    help="Maximum requests in progress at a time.",
)
@click.option(
    "--timeout",
    type=_SECONDS,
    default=_DEFAULT.timeout,
    show_default=True,
    help="Seconds for a request body to arrive, and again for its response.",
)
@click.option(
    "--drain-seconds",
    type=_SECONDS,
    default=_DEFAULT.drain_seconds,
    show_default=True,
    help="Seconds that requests in progress get after SIGTERM.",
)
@click.option(
    "--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True, help="Form of the log."
)
@click.option(
    "--device", default="auto", show_default=True, help=load_option_help("device", "several separated by commas")
)
@load_options(but=["device"])
def command(bundle: str, device: str, log_format: str, options: LoadOptions, **settings: Any) -> None:
    """Serve BUNDLE with the Open Inference Protocol (KServe V2), over REST and gRPC.

    Model `encode` takes `image`, UINT8 [N,H,W,3] or BYTES [N] of JPEG or PNG files, and gives `ids`, INT32 [N,L].
    Model `decode` takes `ids`, INT32 [N,n], and gives `image`, UINT8 [N,H,W,3]. --device cuda:0,cuda:1 serves from
    several devices. On SIGTERM it finishes the requests in progress; logs go to stderr, metrics at /metrics.
    """
    from ..format.bundle import Bundle
    from ..hub_source import find_bundle
    from ..loading import open_tokenizer
    from ..serving.sockets import listen

    require("`coda serve`", "serve")
    server_options = ServeOptions(**settings, color=options.color)
    folder = find_bundle(bundle)
    spec = Bundle.open(folder).spec
    with listen(server_options) as http_sockets:
        from ..serving import logs
        from ..serving.server import TokenServer

        def load(name: str) -> Tokenizer:
            return open_tokenizer(folder, replace(options, device=name))

        log = logs.set_up(log_format)
        devices = [name.strip() for name in device.split(",")]
        TokenServer(spec, load, devices, server_options, log).start(http_sockets)
