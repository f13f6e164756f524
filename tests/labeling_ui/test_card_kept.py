"""Nothing that a labeler did on the task page is lost between two calls to the application."""

from __future__ import annotations

import itertools
import re
import signal
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from labeling_ui.desk import Desk
from labeling_ui.tables import Labeler, Submission
from tests.labeling_ui.conftest import serve_again
from tests.labeling_ui.pages_seen import STORIES, new_link, open_page, press, sample, tiers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser

SAVING = "**/component_server"
ODD_DRAFTS: list[dict[str, Any]] = [
    {"ratings": 5, "answers": [], "tiers": 7},
    {"ratings": [1, 2, 99], "answers": {"rude": [True] * 3, "off_topic": [False] * 3}},
    {"ratings": [True, 2, 3], "answers": {"rude": [True] * 3, "off_topic": [False] * 3}},
    {"ratings": [1, 2], "answers": {"rude": [True] * 2, "off_topic": [False] * 2}},
    {"ratings": [1, 2, 3], "answers": {"rude": ["yes"] * 3, "off_topic": [False] * 3}},
    {"ratings": [1, 2, 3], "answers": {"rude": None, "off_topic": [False] * 3}},
    {"ratings": "123", "answers": {"rude": "abc", "off_topic": "abc"}, "ranks": 4, "note": 5},
]


def rated(page: Page) -> list[str]:
    return [radio.input_value() for radio in page.locator(".rating input:checked").all()]


def prompt(page: Page) -> str:
    return page.locator(".prompt-text").inner_text()


def see(page: Page, text: str) -> None:
    page.locator(".prompt-text", has_text=text).wait_for()


def test_nothing_can_be_changed_while_a_submission_waits_for_an_answer(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "First.", STORIES[:2]), sample("p1", "Next.", STORIES[:2])])
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.link)
    page.wait_for_selector(".response")
    press(page, "6", "4")
    page.locator("textarea").fill("before")
    page.get_by_text("Draft saved").wait_for()
    server.process.send_signal(signal.SIGKILL)
    server.process.communicate()
    press(page, "Control+Enter")
    page.get_by_text("Your work is still here").wait_for()
    # What came after the key would not be in what is sent again and again.
    press(page, "k", "1", "a")
    page.keyboard.type("after")
    page.locator('[data-place="1"] .rating label').nth(6).click(force=True)
    assert rated(page) == ["6", "4"]
    assert page.locator("textarea").input_value() == "before"
    again = serve_again(server.database.parent, server.port, shared_fraction=0)
    try:
        page.locator(".prompt-text", has_text="Next.").wait_for(timeout=40_000)
        press(page, "3")
        assert rated(page) == ["3"]
        with closing(server.store()) as store:
            row = store.rankings()[0]
        assert sorted(row.ratings) == [4, 6]
        assert row.answers["rude"] == [False, False]
        with closing(server.store()) as store, store.reading() as session:
            assert session.scalars(select(Submission.note)).all() == ["before"]
    finally:
        context.close()
        again.process.kill()
        again.process.communicate()


def test_taking_back_keeps_what_was_begun_just_now(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample("p0", "First.", STORIES[:2]), sample("p1", "Next.", STORIES[:3])])
    with open_page(chromium, server.link) as page:
        press(page, "6", "4", "Control+Enter")
        see(page, "Next.")
        press(page, "5", "5", "u")  # sooner than a draft goes by itself
        see(page, "First.")
        press(page, "Control+Enter")
        see(page, "Next.")
        assert rated(page) == ["5", "5"]
        assert tiers(page) == ["AB"]


def test_a_key_held_down_takes_back_one_task_only(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample(f"p{i}", f"Prompt {i}.", STORIES[:2]) for i in range(4)])
    with open_page(chromium, server.link) as page:
        for index in range(3):
            see(page, f"Prompt {index}.")
            press(page, "6", "4", "Control+Enter")
        see(page, "Prompt 3.")
        for _ in range(12):  # the first is a press, the others repeat it
            page.keyboard.down("u")
            page.wait_for_timeout(100)
        assert prompt(page) == "Prompt 2."
    with closing(server.store()) as store:
        assert len(store.rankings()) == 2


def test_what_only_the_tab_knows_goes_to_the_server_after_a_reload(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:3])])
    context = chromium.new_context()
    page = context.new_page()
    page.goto(new_link(server, "ann"))
    page.wait_for_selector(".response")
    page.route(SAVING, lambda route: route.abort())
    press(page, "2", "3")
    page.get_by_text("Not saved yet").wait_for()
    page.unroute_all()
    # The draft that goes with the page is lost as well.
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('no network')); }")
    page.reload()
    page.get_by_text("Draft saved").wait_for()  # without a further change
    context.close()
    with open_page(chromium, new_link(server, "ann")) as page:
        assert rated(page) == ["2", "3"]


def test_a_draft_that_fits_nothing_does_not_stop_the_work(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:3])])
    seq = itertools.count(1)

    def come_back_to(page: Page, draft: dict[str, Any]) -> None:
        with closing(server.store()) as store:
            with store.reading() as session:
                labeler = session.scalars(select(Labeler.id).where(Labeler.name == "ann")).one()
            desk = Desk(store)
            task = desk.next_task(labeler)
            assert task is not None
            desk.save_draft(labeler, task.lease, "another page", next(seq), draft)
        page.reload()
        page.wait_for_selector(".response")

    with open_page(chromium, new_link(server, "ann")) as page:
        for draft in ODD_DRAFTS:
            come_back_to(page, draft)
            assert rated(page) == [], draft
        # A ranking that does not rank what was rated gives way to the ratings.
        answers = {"rude": [True, False, None], "off_topic": [False] * 3, "unknown": [True] * 3}
        draft = {"ratings": [2, 5, None], "answers": answers}
        come_back_to(page, {**draft, "tiers": [[0, 1]]})
        assert tiers(page) == ["AB"]
        for odd in ([[0], [0], [1]], [[0], [], [1]], [[0, 1, 2]], [0, 1], "AB", 3):
            come_back_to(page, {**draft, "tiers": odd})
            assert tiers(page) == ["B", "A"], odd
        press(page, "j", "j", "4")
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("1 task labeled.").wait_for()
    with closing(server.store()) as store:
        assert sorted(store.rankings()[0].ratings) == [2, 4, 5]


def test_signing_out_takes_the_last_change_along(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:3])])
    context = chromium.new_context()
    page = context.new_page()
    page.goto(new_link(server, "ann"))
    page.wait_for_selector(".response")
    page.locator(".menu summary").click()

    def hold(route: Route) -> None:  # a slow line
        page.wait_for_timeout(300)
        route.continue_()

    page.route(SAVING, hold)
    press(page, "6", "2")
    page.locator(".menu summary").focus()
    press(page, "Tab", "Tab", "Enter")  # past "Write answers"
    page.get_by_role("heading", name="Sign in").wait_for()
    context.close()
    with open_page(chromium, new_link(server, "ann")) as page:
        assert rated(page) == ["6", "2"]


def test_a_call_that_hangs_is_made_again(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample("p0", "First.", STORIES[:2]), sample("p1", "Next.", STORIES[:2])])
    context = chromium.new_context()
    page = context.new_page()
    page.add_init_script("""
      const timeout = AbortSignal.timeout.bind(AbortSignal);
      AbortSignal.timeout = (milliseconds) => timeout(milliseconds / 20);""")
    page.goto(server.link)
    page.wait_for_selector(".response")
    page.route(re.compile("component_server"), lambda route: None, times=1)  # no answer, no end
    press(page, "6", "4", "Control+Enter")
    see(page, "Next.")
    context.close()
    with closing(server.store()) as store:
        assert len(store.rankings()) == 1
