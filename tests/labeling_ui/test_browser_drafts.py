"""What a labeler has begun comes back: after a reload, a crash, on another machine."""

from __future__ import annotations

import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from labeling_ui.store import Progress, Store
from labeling_ui.tables import Assignment
from tests.labeling_ui.conftest import serve_again
from tests.labeling_ui.pages_seen import STORIES, new_link, open_page, press, sample, tiers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def begin(page: Page) -> None:
    """Some of everything that a draft holds."""
    press(page, "6", "5", "6")
    press(page, "t", "Alt+ArrowDown")
    page.locator('[data-place="1"] .question', has_text="rude").click()
    page.get_by_label("not very").check()
    page.locator("textarea").fill("begun \t 'quoted'")
    page.get_by_text("Draft saved").wait_for()


def state(page: Page) -> tuple[Any, ...]:
    checked = page.locator(".rating input:checked").all()
    return (
        page.locator(".response pre").all_inner_texts(),
        [radio.get_attribute("value") for radio in checked],
        tiers(page),
        [b.get_attribute("data-answer") for b in page.locator(".question").all()],
        page.locator("textarea").input_value(),
        page.get_by_label("not very").is_checked(),
    )


def store_assignments(store: Store) -> list[Assignment]:
    with store.reading() as session:
        return list(session.scalars(select(Assignment)))


def test_a_draft_comes_back_after_a_reload_and_on_another_machine(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES), sample("p1", "Other.", STORIES[:2])])
    with open_page(chromium, new_link(server, "ann")) as page:
        begin(page)
        before = state(page)
        assert before[1:3] == (["6", "5", "6"], ["A", "C", "B"]) or before[2] == ["C", "A", "B"]
        page.reload()
        page.wait_for_selector(".response")
        assert state(page) == before
    with open_page(chromium, new_link(server, "ann")) as page:
        assert state(page) == before
    with open_page(chromium, new_link(server, "bob")) as page:
        assert page.locator(".prompt-text").inner_text() == "Other."
        assert page.locator(".rating input:checked").count() == 0


def test_the_newer_draft_wins_whichever_side_has_it(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:3])])
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.link)
    page.wait_for_selector(".response")
    press(page, "2")
    page.get_by_text("Draft saved").wait_for()
    page.route("**/component_server", lambda route: route.abort())
    press(page, "3")
    page.get_by_text("Not saved yet").wait_for()
    # The page is closed while nothing answers; the tab still knows more than the server.
    with closing(server.store()) as store:
        drafts = [one.draft or {} for one in store_assignments(store)]
    assert [sum(rating is not None for rating in draft["ratings"]) for draft in drafts] == [1]
    page.evaluate("window.dispatchEvent(new Event('pagehide'))")
    page.unroute_all()
    page.reload()
    page.wait_for_selector(".response")
    assert page.locator(".rating input:checked").count() == 2
    context.close()


def test_a_killed_application_is_found_again_without_a_reload(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:3]), sample("p1", "Next.", STORIES)])
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.link)
    page.wait_for_selector(".response")
    press(page, "2")
    page.get_by_text("Draft saved").wait_for()
    server.process.send_signal(signal.SIGKILL)
    server.process.communicate()
    press(page, "6", "4")
    page.locator("textarea").fill("typed while nothing answered")
    page.get_by_text("Not saved yet").first.wait_for()
    press(page, "Control+Enter")
    page.get_by_text("Your work is still here").wait_for()
    again = serve_again(server.database.parent, server.port, shared_fraction=0)
    try:
        page.locator(".prompt-text", has_text="Next.").wait_for(timeout=40_000)
        with closing(server.store()) as store:
            assert store.progress() == Progress(done=1, open=1, skipped=0)
            assert sorted(store.rankings()[0].ratings) == [2, 4, 6]
    finally:
        context.close()
        again.process.kill()
        again.process.communicate()


def test_a_task_that_went_to_somebody_else_is_said_so(chromium: Browser, start_server: Any) -> None:
    samples = [sample("p0", "First.", STORIES[:2]), sample("p1", "Second.", STORIES[:2])]
    server = start_server(samples, lease_minutes=0.02)
    with open_page(chromium, new_link(server, "ann")) as page:
        page.wait_for_timeout(1500)
        with open_page(chromium, new_link(server, "bob")) as other:
            assert other.locator(".prompt-text").inner_text() == "First."
            press(other, "3", "4", "Control+Enter")
            other.get_by_text("Second.").wait_for()
        page.wait_for_timeout(1500)
        press(page, "3", "4", "Control+Enter")
        page.get_by_text("has gone to somebody else").wait_for()
        page.get_by_text("Second.").wait_for()
    with closing(server.store()) as store:
        assert len(store.rankings()) == 1


def test_who_is_signed_out_is_told_and_keeps_the_draft(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:3])])
    context = chromium.new_context()
    page = context.new_page()
    page.goto(new_link(server, "ann"))
    page.wait_for_selector(".response")
    press(page, "2")
    page.get_by_text("Draft saved").wait_for()
    context.clear_cookies()
    press(page, "3", "4", "Control+Enter")
    page.get_by_role("link", name="Sign in again").wait_for()
    page.goto(new_link(server, "ann"))
    page.wait_for_selector(".response")
    assert page.locator(".rating input:checked").count() == 3
    context.close()


def test_whoever_waits_for_others_is_told_and_looks_again(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "Only one.", STORIES[:2])])
    with open_page(chromium, new_link(server, "ann")) as page:
        context = chromium.new_context()
        other = context.new_page()
        other.goto(new_link(server, "bob"))
        other.get_by_text("1 task is before other labelers").wait_for()
        press(page, "3", "4", "Control+Enter")
        page.get_by_text("1 task labeled.").wait_for()
        assert page.locator(".command").is_hidden()  # labelers run nothing
        other.get_by_role("button", name="Look again").click()
        other.get_by_text("All done").wait_for()
        context.close()
