"""The service: one model that many people share, each within their own limits (docs/SERVING.md).

Place on the path of data: steps 2 to 6 for requests that come over HTTP. `engine.py` draws rows of different people in
one batch; `whose.py` says whose limits a request has; `app.py` is the HTTP interface.
"""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ExtraMissing

LIBRARIES = ("fastapi", "uvicorn", "sqlalchemy", "cryptography", "prometheus_client")


def require_libraries(extra: str = "serve", libraries: tuple[str, ...] = LIBRARIES) -> None:
    """Raises ExtraMissing that names the first library that is not installed, and its extra."""
    for library in libraries:
        if find_spec(library) is None:
            raise ExtraMissing(library, extra)
