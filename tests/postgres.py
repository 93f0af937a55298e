"""A PostgreSQL server of its own for tests, where Debian's package is there and may start."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database. Skips the test where there is no PostgreSQL, or it does not start."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("PostgreSQL is not installed")
    programs, folder = found[-1].parent, Path(tempfile.mkdtemp(prefix="psalign-postgres-"))
    as_user = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        if shutil.which("runuser") is None or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, control = folder / "data", [*as_user, str(programs / "pg_ctl"), "-D", str(folder / "data"), "-w", "-s"]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    make = [*as_user, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "tests", "--no-sync"]
    made = subprocess.run(make, capture_output=True, cwd="/")
    begun = subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], capture_output=True, cwd="/")
    try:
        if made.returncode or begun.returncode:
            pytest.skip("PostgreSQL does not start here")
        yield f"postgresql://tests@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)
