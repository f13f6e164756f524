"""The address by which people reach the application."""

from __future__ import annotations

import re

from pipeline.errors import UserError

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_address(url: str) -> str:
    """An address as browsers say it in Origin: ``https://host[:port]``, lower case, no usual port.

    Raises:
        UserError: it is no such address.
    """
    found = re.fullmatch(r"(https?)://([a-z0-9.-]+)(:[0-9]{1,5})?/?", url.strip().lower())
    if found is None:
        fix = "write it as https://labels.example.org."
        raise UserError("--url", f"is no address, got {url!r}.", fix)
    scheme, host, port = found.groups("")
    return f"{scheme}://{host}{'' if port == _DEFAULT_PORTS[scheme] else port}"
