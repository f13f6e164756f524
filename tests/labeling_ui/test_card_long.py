"""Answers of any length in the browser: what cannot be laid out at once comes in pieces."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.labeling_ui.pages_seen import open_page, press, sample

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def test_an_answer_of_twenty_megabytes_can_be_judged(chromium: Browser, start_server: Any) -> None:
    # Characters of two places each, shifted by one: a piece must not end within one.
    huge = "x" + "🦊 and so on\n" * 1_500_000
    server = start_server(
        [sample("p0", "Too much.", [huge, "Short."]), sample("p1", "Next.", ["a"] * 2)]
    )
    with open_page(chromium, server.link) as page:
        card = page.locator(".response", has_text="so on")
        card.get_by_role("button", name="Show all of").click()
        shown = card.locator("pre").text_content() or ""
        assert huge.startswith(shown)
        assert 10_000 < len(shown) <= 50_000
        card.get_by_role("button", name="Show more of").click()
        later = card.locator("pre").text_content() or ""
        assert huge.startswith(later)
        assert len(later) > len(shown) + 10_000
        assert "of 19,500,001 characters so far" in card.locator(".more").inner_text()
        press(page, "3", "5")
        page.get_by_text("Draft saved").wait_for()
        press(page, "Control+Enter")
        page.locator(".prompt-text", has_text="Next.").wait_for()
    with closing(server.store()) as store:
        (row,) = store.rankings()
    assert huge in [response.text for response in row.responses]


def test_a_long_answer_is_shown_to_its_end(chromium: Browser, start_server: Any) -> None:
    text = "word " * 30_001 + "\u202e the end"
    server = start_server([sample("p0", "Long.", [text, "Short."])])
    with open_page(chromium, server.link) as page:
        card = page.locator(".response", has_text="word")
        card.get_by_role("button", name="Show all of").click()
        while card.locator(".more").is_visible():
            card.locator(".more").click()
        assert card.locator("pre").text_content() == text
