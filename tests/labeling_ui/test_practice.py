"""The practice in a real Chromium, on the example gold file: compared, repeated, passed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from labeling_ui.known_tasks import read_gold
from tests.labeling_ui.pages_seen import PHONE, STORIES, new_link, open_page, press, sample

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

GOLD = Path(__file__).parents[2] / "examples" / "gold_tinyworld.jsonl"
SECTION = {"gold": str(GOLD.relative_to(Path.cwd())), "practice_tasks": 2}


def judge(page: Page, known: bool) -> None:
    """Rates the task before us as is known, or the other way round."""
    rows = {row.prompt: row for row in read_gold(GOLD)}
    row = rows[page.locator(".prompt-text").inner_text()]
    ratings = {r.text: rating for r, rating in zip(row.responses, row.ratings, strict=True)}
    for text in page.locator(".response pre").all_inner_texts():
        press(page, str(ratings[text] if known else 8 - ratings[text]))
    press(page, "Control+Enter")
    page.locator(".feedback h2").wait_for()


def findings(page: Page) -> list[str]:
    return [v["id"] for v in Axe().run(page).response["violations"]]


@pytest.mark.parametrize("view", [{}, {"viewport": PHONE, "color_scheme": "dark"}])
def test_a_labeler_goes_through_the_practice(
    chromium: Browser, start_server: Any, view: dict[str, Any]
) -> None:
    server = start_server([sample("p0", "A real one.", STORIES)], **SECTION)
    with open_page(chromium, new_link(server, "ann"), **view) as page:
        assert page.locator(".practice").inner_text().startswith("Practice, task 1 of 2.")
        assert not page.locator('[data-do="skip"]').is_visible()
        judge(page, known=False)
        assert page.locator(".feedback h2").inner_text() == "You ordered 0 of 6 pairs as is known"
        assert "Rudeness spoils a whole note" in page.locator(".why").inner_text()
        assert page.locator(".compared .differs").first.inner_text() != ""
        assert not page.locator(".outcome").is_visible()
        assert findings(page) == []
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0
        page.get_by_role("button", name="Go on").click()
        judge(page, known=True)
        assert "The practice begins again: 50 % in all, and 70 % are needed" in (
            page.locator(".outcome").inner_text()
        )
        press(page, "Control+Enter")
        assert page.locator(".practice").inner_text().startswith("Practice, task 1 of 2.")
        judge(page, known=True)
        assert page.locator(".feedback h2").inner_text() == "You ordered 6 of 6 pairs as is known"
        press(page, "Control+Enter")
        judge(page, known=True)
        assert "You have passed the practice: 100 %" in page.locator(".outcome").inner_text()
        press(page, "Control+Enter")
        page.get_by_text("A real one.").wait_for()
        assert not page.locator(".practice").is_visible()
        assert page.locator('[data-do="skip"]').is_visible()
        assert page.locator(".count").inner_text() == "0 done, 5 open"  # gold ones among them
        page.reload()
        page.get_by_text("A real one.").wait_for()
    with closing(server.store()) as store:
        assert store.rankings() == []
