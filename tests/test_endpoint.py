"""The door to models on other machines: it needs its library and a key, and leads to one host alone."""

import sys

import pytest

from psalign.endpoint import no_redirects, open_endpoint, openai_library
from psalign.errors import ExtraMissing, UsageError

HERE = {"base_url": "http://127.0.0.1:9/v1", "timeout_s": 1.0, "retries": 0}


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'psalign\[openai\]'"):
        openai_library()


def test_without_a_key_nothing_is_opened(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        open_endpoint(api_key=None, **HERE)


def test_a_key_of_the_environment_opens_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    assert str(open_endpoint(api_key=None, **HERE).base_url.host) == "127.0.0.1"


def test_no_redirection_is_followed():
    assert no_redirects().follow_redirects is False
