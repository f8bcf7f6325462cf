"""Which requests a page of another site could have caused: plain functions of their headers.

N1  A page may have its own name resolve to this machine (DNS rebinding) and is then of one origin
    with us; its requests carry that name. So `Host` must be a name that is ours.
N2  Any page can send simple requests across sites, without asking first. So a request that a
    browser says another origin caused is refused, whatever its method: a form, `text/plain` to an
    ingest route, an EventSource, an image. No CORS header is ever sent.
N3  What is no browser sends neither `Origin` nor `Sec-Fetch-Site`, and is not concerned.

Ports are not looked at in `Host`: a page cannot choose one, and a tunnel or a container's mapped
port changes it. They are in `Origin`, which must be all of `Host`: another server on this machine
is another origin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from everyspan.errors import SettingsError

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::(\d{1,5}))?")
_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_OWN_SITES = ("same-origin", "none")
"""Of `Sec-Fetch-Site`; `none` is a person, not a page. `same-site` is another port: refused."""


class Hosts:
    """The names that are ours.

    Args:
        bound: Names and addresses that the server listens on.
        allowed: Further names, for instance that of a proxy in front.

    Raises:
        SettingsError: One of `allowed` is no name of a host.
    """

    def __init__(self, bound: Iterable[str] = (), allowed: Iterable[str] = ()) -> None:
        self._names = {"localhost"}
        # On every address of the machine, each of them is ours. An address cannot be rebound, so
        # there is no need to find out which they are.
        self._any_address = False
        for name in bound:
            address = _address(name)
            self._any_address |= address is not None and address.is_unspecified
            self._names.add(_normal(name))
        for name in allowed:
            if name_of(f"[{name}]" if ":" in name else name) is None:
                raise SettingsError(f"--allow-host must be a name without a port, got {name!r}")
            self._names.add(_normal(name))

    def allows(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        name = name_of(host)
        if name is None:
            return False
        address = _address(name)
        if address is not None and (self._any_address or address.is_loopback):
            return True
        return name in self._names


def name_of(host: str) -> str | None:
    """Return the name or address in a `Host` header, None where it is none."""
    parts = _AUTHORITY.fullmatch(host)
    return None if parts is None else _normal(parts[1] or parts[2])


def is_cross_site(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a page of another origin caused this request (N2).

    Args:
        headers: By lower-case name.
    """
    origin = headers.get("origin")
    if origin is not None and not _is_same(origin, headers.get("host", "")):
        return True
    if headers.get("sec-fetch-site", "none") in _OWN_SITES:
        return False
    # A link on another site may lead here, to a whole page and not into a frame.
    is_link = (
        method == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    return not is_link


def _is_same(origin: str, host: str) -> bool:
    parts = _ORIGIN.fullmatch(origin)
    if parts is None:  # `null` is any page in a sandbox.
        return False
    # The scheme is that in front of a proxy which ends TLS; we would not know.
    port = f":{_DEFAULT_PORTS[parts[1].lower()]}"
    return parts[2].lower().removesuffix(port) == host.lower().removesuffix(port)


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None
