"""Names and passwords: what will do, and Argon2 hashes of it."""

from __future__ import annotations

import secrets
import threading
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from pipeline.errors import UserError

NAME_CHARACTERS = 100
PASSWORD_CHARACTERS = (10, 200)
HASHES_AT_ONCE = 2  # each takes 64 MB

_HASHER = PasswordHasher()
HASHING = threading.BoundedSemaphore(HASHES_AT_ONCE)
# What is compared where an account has no password: its name costs as much time as any other.
_NOBODYS_HASH = _HASHER.hash(secrets.token_hex())


def clean_name(name: str) -> str:
    """The name as it is kept: composed Unicode, without spaces around it.

    Raises:
        UserError: it is empty, too long, or holds what cannot be seen.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned:
        raise UserError("labeler", "has no name.", "give a name.")
    if len(cleaned) > NAME_CHARACTERS:
        problem = f"has a name of more than {NAME_CHARACTERS} characters."
        raise UserError("labeler", problem, "shorten it.")
    categories = {unicodedata.category(character) for character in cleaned}
    if any(category[0] == "C" or category in ("Zl", "Zp") for category in categories):
        problem = f"has a name with invisible characters ({cleaned!r})."
        raise UserError("labeler", problem, "leave them out.")
    return cleaned


def check_password(password: str, name: str) -> None:
    """Raises UserError if the password is too short or too long, or is the name."""
    least, most = PASSWORD_CHARACTERS
    if len(password) < least:
        raise UserError("password", f"It has fewer than {least} characters.", "use more.")
    if len(password) > most:
        raise UserError("password", f"It has more than {most} characters.", "use fewer.")
    if folded(password) == folded(name) or len(set(password)) < 3:
        raise UserError("password", "It is too easy to guess.", "use another one.")
    if _encoded(password) is None:
        raise UserError("password", "It holds half a character.", "type it anew.")


def loose_name(name: str) -> str:
    """Any text as a key of failures; unlike ``clean_name``, it takes what nobody can be called."""
    return folded(name[: 2 * NAME_CHARACTERS])


def folded(name: str) -> str:
    """What two spellings of a name have in common: neither case nor composition matters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def _encoded(password: str) -> bytes | None:
    """The same password typed on another machine may come composed otherwise: it is made alike."""
    try:
        return unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        return None


def hash_password(password: str) -> str:
    """Its Argon2 hash."""
    with HASHING:
        return _HASHER.hash(_encoded(password) or b"")


def verify_password(stored: str | None, password: str) -> bool:
    """Whether a password has this hash; takes as long where there is none."""
    encoded = _encoded(password) if len(password) <= PASSWORD_CHARACTERS[1] else None
    with HASHING:
        try:
            right = _HASHER.verify(stored or _NOBODYS_HASH, encoded or b"")
            return right and encoded is not None and stored is not None
        except (Argon2Error, InvalidHashError):
            return False


def needs_rehash(stored: str) -> bool:
    """Whether a hash was made with other parameters than today's."""
    return _HASHER.check_needs_rehash(stored)
