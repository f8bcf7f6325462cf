"""docs/rules.md: what it says of the rules and of the tests that hold them is true."""

from __future__ import annotations

import pytest

from tests.rules import PAGE, Rule, citations, cited, load, page, reason

SOURCES = load()
RULES = [Rule(name, id) for name, source in SOURCES.items() for id in source["rules"]]


def test_the_page_is_what_rules_and_tests_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: python -m tests.rules"


def test_every_rule_has_a_test_or_a_reason() -> None:
    tests = cited(SOURCES)
    assert not [str(rule) for rule in RULES if rule not in tests and not reason(SOURCES, rule)]


def test_no_reason_outlives_the_first_test() -> None:
    tests = cited(SOURCES)
    reasons = [Rule(name, id) for name in SOURCES for id in SOURCES[name].get("reasons", {})]
    assert not [str(rule) for rule in reasons if rule in tests]
    assert set(reasons) <= set(RULES)


def test_no_test_cites_an_unknown_rule() -> None:
    unknown = {str(rule): tests for rule, tests in cited(SOURCES).items() if rule not in RULES}
    assert not unknown, "add what is missing to docs/rules.toml"


def test_every_rule_stands_in_a_section() -> None:
    assert not [str(rule) for rule in RULES if rule.section not in SOURCES[rule.source]["sections"]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("trace:Q4", ["trace:Q4"]),
        ("`trace:Q14`, `Q24`: as sent", ["trace:Q14", "trace:Q24"]),
        ("P1, trace:Q2, Q3, P2: and sgp:E4, sgp:X1", ["trace:Q2", "trace:Q3", "sgp:E4", "sgp:X1"]),
        ("K3, D29: promises of the module, and `trace` §3", []),
    ],
)
def test_citations_are_found(text: str, found: list[str]) -> None:
    assert [str(rule) for rule in citations(text, SOURCES)] == found
