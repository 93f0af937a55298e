"""OpenAI-compatible endpoints: the one door through which anything is sent to a model on another machine.

Place on the path of data: under steps 2 and 7, and the builder of datasets. Who opens it has asked first.
"""

from __future__ import annotations

import os
from typing import Any

from .errors import ExtraMissing, UsageError


def openai_library() -> Any:
    """The library `openai`. Raises ExtraMissing without the extra of that name."""
    try:
        import openai
    except ImportError:
        raise ExtraMissing("openai", "openai") from None
    return openai


def open_endpoint(*, base_url: str | None, api_key: str | None, timeout_s: float, retries: int) -> Any:
    """A client of the endpoint; None takes OPENAI_BASE_URL and OPENAI_API_KEY of the environment.

    Raises ExtraMissing without the extra `openai`, UsageError without a key.
    """
    openai = openai_library()
    if not (api_key or os.environ.get("OPENAI_API_KEY")):
        raise UsageError(
            "OPENAI_API_KEY is not set.", hint="export OPENAI_API_KEY=... (a server of your own may take any word)"
        )
    return openai.OpenAI(
        base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=retries, http_client=no_redirects()
    )


def no_redirects() -> Any:
    """What fetches for a client: from no host but the one that was agreed to."""
    return openai_library().DefaultHttpxClient(follow_redirects=False)
