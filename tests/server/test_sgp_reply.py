"""Pages of a search as the SGP spans API words them (`sgp` §3 SpanPage, §7)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from everyspan.server.sgp_reply import encode_page
from everyspan.server.sgp_search import decode_search
from everyspan.server.stores.base import Position, SearchPage, SearchQuery
from tests.server.rows import START, START_NS, make_row

ROW = make_row(id="s")
THERE = Position(START_NS, "t", "s")
BEYOND = Position(START_NS + 1_000, "t", "z")


def page(query: SearchQuery, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(encode_page(SearchPage(**fields), query))
    return answer


def place(cursor: str) -> Any:
    """Where a reader goes on who sends the cursor back."""
    return decode_search(b"{}", {"starting_after": cursor}, "a").after


def test_a_complete_page_says_so() -> None:
    """`sgp` §3."""
    answer = page(SearchQuery(account="a"), rows=[ROW], has_more=False)
    assert answer["search_status"] == "complete"
    assert (answer["searched_through"], answer["next_cursor"]) == (None, None)


@pytest.mark.parametrize("rows", [[], [ROW]])
def test_a_page_that_time_ended_says_how_far_it_looked(rows: list[Any]) -> None:
    """`sgp` §7: the cursor goes on behind what was looked at in vain, too."""
    query = SearchQuery(account="a")
    answer = page(query, rows=rows, has_more=True, stopped="time", through=BEYOND)
    assert (answer["search_status"], answer["has_more"]) == ("partial", True)
    assert answer["searched_through"] == "2026-01-02T03:04:05.123457Z"
    assert place(answer["next_cursor"]) == BEYOND


def test_without_a_place_it_is_that_of_the_last_row() -> None:
    """`sgp` §7."""
    answer = page(SearchQuery(account="a"), rows=[ROW], has_more=True, stopped="time")
    assert answer["searched_through"] == START
    assert place(answer["next_cursor"]) == THERE
    nothing = page(SearchQuery(account="a"), rows=[], has_more=True, stopped="time")
    assert (nothing["searched_through"], nothing["next_cursor"]) == (None, None)


def test_a_page_backwards_looks_at_its_first_row() -> None:
    """`sgp:K2`."""
    query = SearchQuery(account="a", before=BEYOND)
    answer = page(query, rows=[ROW], has_more=True, stopped="time")
    assert answer["searched_through"] == START
    assert place(answer["prev_cursor"]) == place(answer["next_cursor"]) == THERE


def test_what_was_searched_through_is_a_time_only_where_that_is_the_order() -> None:
    """`sgp` §7."""
    query = SearchQuery(account="a", sort_by="input_tokens")
    answer = page(query, rows=[ROW], has_more=True, stopped="time")
    assert (answer["search_status"], answer["searched_through"]) == ("partial", None)
