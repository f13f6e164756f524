"""The page on which answers are written, in a real browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from labeling_ui.demonstrations import exported
from pipeline.records import Demonstration
from tests.labeling_ui.conftest import serve_again
from tests.labeling_ui.pages_seen import (
    LAPTOP,
    PHONE,
    STORIES,
    new_link,
    open_page,
    press,
    sample,
)
from tests.labeling_ui.test_browser_reach import HOSTILE_PARTS, NARROW, findings, sticking_out
from tests.labeling_ui.test_card_reach import SMALL_TARGETS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@contextmanager
def writing(chromium: Browser, link: str, **options: Any) -> Iterator[Page]:
    """The page in a fresh browser that is signed in by ``link``."""
    with open_page(chromium, link, **options) as page:
        page.goto(link.partition("/enter")[0] + "/write")
        page.locator("body:not([data-state=loading])").wait_for()
        yield page


def written(server: Any) -> list[Demonstration]:
    with closing(server.store()) as store, store.reading() as session:
        return list(exported(session))


def is_saved(page: Page) -> None:
    page.get_by_text("Draft saved").wait_for()


def prompt(page: Page, text: str) -> None:
    """Waits until this is the prompt, and the page takes keys again."""
    page.locator(".prompt-text", has_text=text).wait_for()
    page.locator("body:not(.busy)").wait_for()


def test_a_day_of_writing_by_keyboard_alone(chromium: Browser, start_server: Any) -> None:
    samples = [sample(f"p{i}", f"Prompt {i}.", STORIES[: 2 + i % 2]) for i in range(4)]
    server = start_server(samples)
    bodies: list[str] = []
    with writing(chromium, new_link(server, "ann")) as page:
        page.on("response", lambda r: bodies.append(r.text()) if "/write/" in r.url else None)
        assert page.locator(".prompt-text").inner_text() == "Prompt 0."
        press(page, "Control+Enter")
        page.get_by_text("The answer is empty.").wait_for()
        page.keyboard.type("An answer\nof two lines.")
        assert page.locator("#answer-size").inner_text() == "23 of 20,000 characters"
        press(page, "Control+Enter")
        prompt(page, "Prompt 1.")
        # A sampled one, begun with and changed.
        press(page, "Escape")
        assert page.evaluate("document.activeElement.tagName") == "BODY"
        while page.evaluate("document.activeElement.tagName") != "SUMMARY":
            press(page, "Tab")
        press(page, "Enter", "Tab", "Enter")
        begun_with = page.locator("#answer").input_value()
        assert begun_with in STORIES[:3]
        assert page.locator(".answers article.start").count() == 1
        page.keyboard.type("Well: ")
        press(page, "Control+Enter")
        prompt(page, "Prompt 2.")
        # A skip.
        press(page, "Tab", "Enter", "Escape")
        assert page.locator(".skip-form").is_hidden()
        press(page, "Enter", "Tab", "Enter")
        prompt(page, "Prompt 3.")
        # A prompt of one's own.
        page.get_by_role("link", name="Own prompt").focus()
        press(page, "Enter")
        page.locator(".own").wait_for()
        page.keyboard.type("Three colors?")
        press(page, "Shift+Tab", "ArrowDown", "Tab", "Tab")
        page.keyboard.type("Red, green, blue.")
        press(page, "Control+Enter")
        page.get_by_text("Finished by you (3)").wait_for()
        # What is finished is edited; what is begun meanwhile comes back.
        page.keyboard.type("Begun meanwhile")
        page.get_by_role("button", name="Edit the answer to “Prompt 0.”").focus()
        press(page, "Enter")
        page.locator(".editing").wait_for()
        press(page, "Control+End")
        page.keyboard.type(" And a third.")
        press(page, "Control+Enter")
        prompt(page, "Prompt 3.")
        page.get_by_role("button", name="Withdraw the answer to “Prompt 1.”").focus()
        press(page, "Enter")
        page.get_by_role("button", name="Withdraw it for good?").wait_for()
        press(page, "Enter")
        page.get_by_text("Finished by you (2)").wait_for()
        page.get_by_role("link", name="Own prompt").click()
        page.locator(".own").wait_for()
        assert page.locator("#own-prompt").input_value() == "Begun meanwhile"
    found = sorted((one.prompt, one.response, one.kind) for one in written(server))
    assert found == [
        ("Prompt 0.", "An answer\nof two lines. And a third.", "given"),
        ("Three colors?", "Red, green, blue.", "few-shot"),
    ]
    with closing(server.store()) as store, store.reading() as session:
        query = "SELECT response, edited_from FROM demonstration WHERE state = 'withdrawn'"
        (row,) = session.connection().exec_driver_sql(query).all()
    assert row[0] == "Well: " + begun_with
    assert row[1] == f"planted-p1-{STORIES.index(begun_with)}"
    assert len(bodies) >= 8
    assert "planted" not in "".join(bodies)


def test_a_draft_survives_a_killed_application_a_reload_and_another_machine(
    chromium: Browser, start_server: Any
) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:2])])
    context = chromium.new_context()
    page = context.new_page()
    page.goto(new_link(server, "ann"))
    page.wait_for_selector(".response")
    page.goto(f"{server.origin}/write")
    page.locator("#answer").fill("begun \t 'quoted'")
    is_saved(page)
    server.process.send_signal(signal.SIGKILL)
    server.process.communicate()
    page.locator("#answer").fill("typed while nothing answered")
    page.get_by_text("Not saved yet").first.wait_for()
    again = serve_again(server.database.parent, server.port, shared_fraction=0)
    try:
        page.reload()  # before it was sent
        page.locator(".work").wait_for()
        assert page.locator("#answer").input_value() == "typed while nothing answered"
        is_saved(page)
        with writing(chromium, new_link(again, "ann")) as other:
            assert other.locator("#answer").input_value() == "typed while nothing answered"
            other.locator("#answer").fill("gone on elsewhere")
            is_saved(other)
        # An older copy in this tab does not take the place of what was written elsewhere.
        page.route("**/write/draft", lambda route: route.abort())
        page.evaluate("document.querySelector('#answer').value = 'older'; keepDraft()")
        page.get_by_text("Not saved yet").first.wait_for()
        page.unroute_all()
        page.evaluate("""const key = Object.keys(sessionStorage)[0];
            const draft = JSON.parse(sessionStorage[key]);
            sessionStorage[key] = JSON.stringify({ ...draft, page: 'an earlier load of it' });
            changes = kept""")
        page.reload()
        page.locator(".work").wait_for()
        assert page.locator("#answer").input_value() == "gone on elsewhere"
        # What is submitted while nothing answers is submitted once it does.
        again.process.send_signal(signal.SIGKILL)
        again.process.communicate()
        page.locator("#answer").fill("submitted")
        press(page, "Control+Enter")
        page.get_by_text("Your work is still here").wait_for()
        again = serve_again(server.database.parent, server.port, shared_fraction=0)
        page.get_by_text("No prompt for you just now").wait_for(timeout=40_000)
        assert [one.response for one in written(server)] == ["submitted"]
        # Looking again leaves the focus where it is.
        edit = page.get_by_role("button", name="Edit")
        edit.focus()
        page.evaluate("lookAgain()")
        assert edit.evaluate("node => node === document.activeElement")
    finally:
        context.close()
        again.process.kill()
        again.process.communicate()


def test_a_prompt_that_went_to_somebody_else_takes_no_text_with_it(
    chromium: Browser, start_server: Any
) -> None:
    samples = [sample("p0", "First.", STORIES[:2]), sample("p1", "Second.", STORIES[:2])]
    server = start_server(samples, lease_minutes=0.02)
    with writing(chromium, new_link(server, "ann")) as page:
        page.keyboard.type("my text")
        is_saved(page)
        page.wait_for_timeout(1500)
        with writing(chromium, new_link(server, "bob")) as other:
            prompt(other, "First.")
            other.keyboard.type("bob's")
            press(other, "Control+Enter")
            prompt(other, "Second.")
        page.wait_for_timeout(1500)
        press(page, "Control+Enter")
        page.get_by_text("has gone to somebody else").wait_for()
        prompt(page, "Second.")
        page.get_by_text("What you had written").click()
        assert page.locator(".lost pre").inner_text() == "my text"
        assert page.locator("#answer").input_value() == ""
    assert [one.response for one in written(server)] == ["bob's"]


def test_hostile_text_is_shown_as_it_is_and_does_nothing(
    chromium: Browser, start_server: Any
) -> None:
    hostile = "\n".join(HOSTILE_PARTS)
    server = start_server([sample("p0", hostile, [hostile, "plain"])])
    with writing(chromium, new_link(server, hostile[:60])) as page:
        assert page.locator(".prompt-text").evaluate("node => node.textContent") == hostile
        page.locator(".sampled summary").click()
        shown = page.locator(".answers pre").evaluate_all("all => all.map((n) => n.textContent)")
        assert sorted(shown) == sorted([hostile, "plain"])
        page.get_by_role("button", name="Start from").nth(shown.index(hostile)).click()
        assert page.locator("#answer").input_value() == hostile
        press(page, "Control+Enter")
        page.get_by_text("Finished by you (1)").wait_for()
        asked = page.locator(".mine .asked").evaluate("node => node.textContent")
        assert asked == hostile[:399] + "…"
        page.get_by_role("button", name="Edit").click()
        page.locator(".editing").wait_for()
        assert page.locator("#answer").input_value() == hostile
        assert page.title() == "Write answers"
        assert (
            page.locator(
                "main img, main script, main iframe, main style, main a[href^=java]"
            ).count()
            == 0
        )
    assert [(one.prompt, one.response) for one in written(server)] == [(hostile, hostile)]


def test_nothing_too_long_is_lost_or_saved(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:2])])
    with writing(chromium, new_link(server, "ann")) as page:
        page.locator("#answer").fill("😀" * 20_001)
        page.get_by_text("longer than 20,000 characters").wait_for()
        assert page.locator("#answer-size.over").inner_text() == "20,001 of 20,000 characters"
        press(page, "Control+Enter")
        page.locator(".message", has_text="longer than 20,000").wait_for()
        # Few enough characters, but more bytes than the application takes at once.
        page.locator("#answer").fill("😀" * 20_000)
        page.locator(".saved", has_text="too long to be saved").wait_for()
        page.locator("#answer").fill("😀" * 15_000)
        is_saved(page)
        press(page, "Control+Enter")
        page.get_by_text("Finished by you (1)").wait_for()
    assert [len(one.response) for one in written(server)] == [15_000]


def test_every_state_passes_axe_reflows_and_has_large_targets(
    chromium: Browser, start_server: Any
) -> None:
    long = "\n".join(f"Line {i} of a long text, which is {'w' * 200} wide." for i in range(60))
    samples = [sample(f"p{i}", f"{i} {long}", [STORIES[0], long]) for i in range(6)]
    server = start_server([sample("short", "Prompt.", STORIES), *samples])
    sizes = [(LAPTOP, "light"), (PHONE, "dark"), (NARROW, "light")]
    for viewport, scheme in sizes:
        options: dict[str, Any] = {"viewport": viewport, "color_scheme": scheme}
        size = str(viewport["width"])
        with writing(chromium, new_link(server, size, "lead"), **options) as page:

            def check(state: str, page: Page = page, size: str = size) -> None:
                page.wait_for_timeout(100)
                assert findings(page) == [], (size, state)
                assert sticking_out(page) == [], (size, state)
                assert page.evaluate(SMALL_TARGETS) == [], (size, state)

            check("first")
            page.locator("#answer").fill(long)
            page.locator(".sampled summary").click()
            page.get_by_role("button", name="Start from").first.click()
            page.get_by_role("button", name="Replace your text by it?").wait_for()
            check("asked")
            press(page, "Escape", "Control+Enter")
            page.get_by_text("Finished by you (1)").wait_for()
            check("second")
            page.get_by_role("button", name="Skip …").click()
            press(page, "Tab", "Tab", "Tab", "Enter")
            check("skipping without a reason")
            press(page, "Escape")
            page.get_by_role("link", name="Own prompt").click()
            page.locator(".own").wait_for()
            check("own prompt")
            page.get_by_role("button", name="Edit").click()
            page.locator(".editing").wait_for()
            page.get_by_role("button", name="Withdraw").click()
            check("editing")
            page.get_by_role("button", name="Leave it").click()
            page.locator(".editing").wait_for(state="hidden")
            while page.locator(".work").is_visible():
                page.get_by_role("button", name="Skip …").click()
                page.get_by_role("button", name="It needs an expert").click()
                page.locator("body:not(.busy)").wait_for()
            check("nothing left")
