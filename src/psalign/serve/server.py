"""Runs the service: loads the model, listens, and on SIGTERM draws what it has taken in before it ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvicorn

from ..errors import OutputError
from .app import create_app
from .logs import LOG, log_to_stderr
from .service import Loaded, Service

BACKLOG = 2048  # connections that wait to be taken in
AFTER_S = 5  # for the answers of rows that were given up


@dataclass(frozen=True)
class Listening:
    """host, port: where it listens; port 0: any free one. grace_s: time to finish pictures after SIGTERM."""

    host: str = "127.0.0.1"
    port: int = 8000
    grace_s: float = 30.0


class Server(uvicorn.Server):
    """uvicorn, which tells the service when it is to end."""

    def __init__(self, service: Service, listening: Listening) -> None:
        config = uvicorn.Config(
            create_app(service),
            host=listening.host,
            port=listening.port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=int(listening.grace_s) + AFTER_S,
        )
        super().__init__(config)
        self.service, self.listening = service, listening

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Not ready from now on; after the grace what is left gets an error."""
        if not self.service.is_draining:
            self.service.is_draining = True
            threading.Thread(target=self._drain, name="psalign-drain", daemon=True).start()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]

    def _drain(self) -> None:
        LOG.info("draining", extra={"psalign": {"event": "draining"}})
        is_all = self.service.engine.close(self.listening.grace_s)
        LOG.info("drained", extra={"psalign": {"event": "drained", "everything_was_drawn": is_all}})

    def stop(self) -> None:
        self.should_exit = True


def serve(service: Service, load: Callable[[], Loaded], listening: Listening) -> None:
    """Listen until a signal. Raises OutputError where it cannot listen, and what kept the model from loading."""
    log_to_stderr()
    place = bound(listening)  # before the model is loaded, which takes long
    address, port = place.getsockname()[:2]
    LOG.info("listening", extra={"psalign": {"event": "listening", "host": address, "port": port}})
    server = Server(service, listening)
    service.start(load, on_failure=server.stop)
    server.run(sockets=[place])
    service.people.database.close()
    if service.failure is not None:
        raise service.failure


def bound(listening: Listening) -> socket.socket:
    """A socket that listens. Raises OutputError."""
    host, port = listening.host, listening.port
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as err:
        why = str(err.strerror or err).partition(" (while")[0]  # the library repeats the address
        raise OutputError(
            f"The service cannot listen on {host}, port {port}: {why}.",
            hint="Give another --port (0: any free one), or --host an address of this machine (0.0.0.0: all of them).",
        ) from None
