"""`everyspan.server.hosts`: which names are ours, and which requests a page caused."""

from __future__ import annotations

import pytest

from everyspan.errors import SettingsError
from everyspan.server.hosts import Hosts, is_cross_site

OURS = "127.0.0.1:5003"


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:5003", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:5003"]
)
def test_loopback_is_always_ours(host: str) -> None:
    assert Hosts().allows(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:5003",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.5:5003",
        "[fe80::1]",
        "[::1",
        "localhost:5003:5003",
        "localhost:999999",
        "localhost@evil.example",
        "localhost/evil",
        "localhost, evil.example",
        "0.0.0.0:5003",
        "2130706433",
        "ⓛocalhost",
    ],
)
def test_other_names_are_not(host: str) -> None:
    """N1: a rebound name reaches this machine, and is not its name."""
    assert not Hosts(["127.0.0.1"]).allows(host)


def test_what_it_is_bound_to_is_ours() -> None:
    hosts = Hosts(["traces.example", "192.168.1.5"])
    assert hosts.allows("Traces.Example:5003")
    assert hosts.allows("192.168.1.5:5003")
    assert not hosts.allows("192.168.1.6:5003")


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_bound_everywhere_every_address_is_ours_and_still_no_name(everywhere: str) -> None:
    hosts = Hosts([everywhere])
    assert hosts.allows("192.168.1.6:5003")
    assert hosts.allows("[fe80::1]:5003")
    assert not hosts.allows("evil.example")


def test_further_names_are_allowed_by_name_alone() -> None:
    hosts = Hosts([], ["traces.example", "fe80::1"])
    assert hosts.allows("traces.example:8443")
    assert hosts.allows("[fe80::1]")
    assert not hosts.allows("a.traces.example")
    for bad in ("", "*", "traces.example:80", "http://traces.example", "[::1]"):
        with pytest.raises(SettingsError, match="allow-host"):
            Hosts([], [bad])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "said",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:5003"},
        {"origin": "http://127.0.0.1:5003.evil.example"},
        {"origin": "chrome-extension://127.0.0.1:5003"},
        {"origin": f"http://{OURS}", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {"sec-fetch-site": "anything"},
    ],
)
def test_what_a_page_elsewhere_caused_is_cross_site(method: str, said: dict[str, str]) -> None:
    """N2: whatever the method; simple requests ask nobody first."""
    assert is_cross_site(method, {"host": OURS, **said})


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"origin": f"http://{OURS}", "sec-fetch-site": "same-origin"},
        {"origin": f"HTTP://{OURS}"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_our_own_page_a_person_and_a_program_are_not(said: dict[str, str]) -> None:
    """N3."""
    for method in ("GET", "POST", "DELETE"):
        assert not is_cross_site(method, {"host": OURS, **said})


def test_a_default_port_may_be_named_or_not() -> None:
    """Behind a proxy that ends TLS, the page's scheme is not ours."""
    for origin, host in [
        ("https://traces.example", "traces.example"),
        ("https://traces.example", "traces.example:443"),
        ("http://traces.example:80", "traces.example"),
    ]:
        assert not is_cross_site("POST", {"origin": origin, "host": host})


def test_a_link_elsewhere_may_lead_to_a_page() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    link |= {"sec-fetch-dest": "document", "host": OURS}
    assert not is_cross_site("GET", link)
    # A form is a navigation, too.
    assert is_cross_site("POST", link)
