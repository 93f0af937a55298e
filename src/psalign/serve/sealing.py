"""Keeps what people say of themselves unreadable at rest: AES-256-GCM, and keyed names in place of identifiers."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import os
from base64 import urlsafe_b64decode
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import ProfileError, UsageError
from ..files import Record
from ..users.pseudonym import KEY_BYTES, read_key

VARIABLE = "PSALIGN_SERVE_KEY"
NONCE_BYTES = 12
OTHER_KEY = f"Give the key that this database was made with ({VARIABLE} or --key-file)."


class Unreadable(ProfileError):
    """What is stored of a person cannot be opened: no fault of who asks."""


class Seal:
    """One secret of 32 bytes, from which a key for sealing and a key for names are derived."""

    def __init__(self, secret: bytes) -> None:
        self._cipher, self._names = AESGCM(_derived(secret, b"seal")), _derived(secret, b"names")

    @classmethod
    def of_environment(cls, key_file: Path, *, makes: bool = True) -> Seal:
        """With the secret of PSALIGN_SERVE_KEY (hexadecimal or base64); else that of a file.

        makes: whether a file that is not there is made. Raises UsageError for what is no such secret.
        """
        said = os.environ.get(VARIABLE)
        return cls(read_key(key_file, makes=makes) if said is None else _secret(said))

    def sealed(self, record: Record, *, name: str) -> bytes:
        """A record that only this seal opens, and only under the same name."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, json.dumps(record).encode(), name.encode())

    def opened(self, sealed: bytes, *, name: str) -> Record:
        """The record. Raises Unreadable where it was changed, moved to another name, or sealed by another key."""
        try:
            plain = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            raise Unreadable(
                "A stored person cannot be read: the key is another one, or the stored bytes were changed.",
                hint=OTHER_KEY,
            ) from None
        record: Record = json.loads(plain)
        return record

    def name(self, account: str, identifier: str) -> str:
        """What stands for a person of an account in the database: HMAC-SHA256, which leads back to nobody."""
        text = json.dumps([account, identifier]).encode()
        return hmac.new(self._names, text, hashlib.sha256).hexdigest()


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hmac.new(secret, b"psalign serve " + purpose, hashlib.sha256).digest()


def _secret(said: str) -> bytes:
    text = said.strip()
    try:
        secret = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else urlsafe_b64decode(text)
    except (ValueError, binascii.Error):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise UsageError(
            f"{VARIABLE} holds no key of {KEY_BYTES} bytes, in hexadecimal or base64.", hint="Run: openssl rand -hex 32"
        )
    return secret
