"""The task page under the hands of everybody: sizes, focus, keyboards, what is not seen."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from labeling_ui.tables import SkippedTask
from pipeline.label_config import INSTRUCTGPT_QUESTIONS
from tests.labeling_ui.pages_seen import (
    LAPTOP,
    PHONE,
    STORIES,
    new_link,
    open_page,
    press,
    sample,
    tiers,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

LONG_PROMPT = "\n".join(f"Line {i} of a long prompt." for i in range(40))
# Each of them hides, or changes the order of what stands around it, and has no shape of its own.
UNSEEN = (
    "\u0000\u001b\u007f\u0085\u061c\u200b\u200e\u200f\u2028\u2029\u202e\u2060\u2066\ufeff\U000e0041"
)
SMALL_TARGETS = """() => [...document.querySelectorAll(
    'button, select, summary, a, textarea, input')].flatMap((node) => {
  if (!node.checkVisibility({ visibilityProperty: true }) || node.closest('.sr')) return [];
  const boxes = [node, ...(node.labels ?? [])].map((one) => one.getBoundingClientRect());
  const width = Math.max(...boxes.map((box) => box.width));
  const height = Math.max(...boxes.map((box) => box.height));
  return width < 23.9 || height < 23.9 ? [`${node.outerHTML.slice(0, 90)} ${width}x${height}`] : [];
})"""


@pytest.fixture(scope="module")
def server(start_server: Any) -> Any:
    samples = [sample(f"p{i}", f"Prompt {i}.", STORIES) for i in range(3)]
    return start_server(samples, questions=INSTRUCTGPT_QUESTIONS, shared_fraction=1)


def focused(page: Page) -> str:
    return page.evaluate("""() => { const node = document.activeElement;
      return node.dataset.do ?? node.name ?? node.textContent; }""")


@pytest.mark.parametrize("size", ["laptop", "phone"])
def test_every_target_is_large_enough(chromium: Browser, server: Any, size: str) -> None:
    viewport = {"laptop": LAPTOP, "phone": PHONE}[size]
    with open_page(
        chromium, new_link(server, f"targets {size}", "admin"), viewport=viewport
    ) as page:
        press(page, "6", "5", "3", "1", "5", "k", "Alt+ArrowUp", "Alt+ArrowUp", "Alt+ArrowUp")
        assert page.locator(".contradiction").is_visible()
        assert page.get_by_role("button", name="as rated").is_visible()
        page.locator(".menu summary").click()
        assert page.evaluate(SMALL_TARGETS) == []
        page.get_by_role("button", name="Skip").click()
        assert page.evaluate(SMALL_TARGETS) == []
        press(page, "Escape", "?")
        assert page.evaluate(SMALL_TARGETS) == []


def test_an_ordinary_task_fits_a_laptop_with_eleven_questions(
    chromium: Browser, start_server: Any
) -> None:
    # Nine lines in all, at the width that a laptop leaves them.
    texts = [*STORIES[:1], *(f"{story} {STORIES[1]} {STORIES[2]}" for story in STORIES[1:])]
    samples = [sample("p0", "Write a story about a fox for a child of six years.", texts)]
    server = start_server(samples, questions=INSTRUCTGPT_QUESTIONS)
    with open_page(chromium, new_link(server, "fit")) as page:
        page.get_by_role("button", name="Instructions").click()  # open on the first visit
        press(page, "6", "5", "3", "1", "5", "a", "s", "s")
        height = page.evaluate("document.documentElement.scrollHeight")
        assert height <= LAPTOP["height"]
        assert page.locator(".active .question").count() == len(INSTRUCTGPT_QUESTIONS) == 11
        # Of the others, only what was marked is there.
        press(page, "k")
        shown = page.locator('[data-place="4"] .question:visible')
        assert shown.all_inner_texts() == ["fails task", "inappropriate"]


def test_skipping_can_be_left_and_needs_a_reason(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample(f"p{i}", f"Prompt {i}.", STORIES) for i in range(2)])
    with open_page(chromium, server.link) as page:
        first = page.locator(".prompt-text").inner_text()
        press(page, "6", "5", "3", "1", "5")
        page.get_by_role("button", name="Skip").click()
        press(page, "Control+Enter")  # submits nothing from here
        page.wait_for_timeout(300)
        assert page.locator(".skip-form").is_visible()
        press(page, "Escape")
        assert page.locator(".skip-form").is_hidden()
        assert focused(page) == "skip"
        press(page, "Enter")
        page.get_by_role("button", name="Something else").click()
        page.get_by_text("Say why in the note").wait_for()
        assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
        page.keyboard.type("it is a duplicate")
        page.get_by_role("button", name="Something else").click()
        page.locator(".prompt-text", has_not_text=first).wait_for()
    with closing(server.store()) as store:
        assert [one.reason for one in store.skips()] == ["something else"]
        assert store.rankings() == []
        with store.reading() as session:
            assert session.scalars(select(SkippedTask.note)).all() == ["it is a duplicate"]


def test_looking_again_leaves_the_focus_where_it_is(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample("p0", "Only one.", STORIES[:2])])
    with open_page(chromium, new_link(server, "ann")) as page:
        context = chromium.new_context()
        other = context.new_page()
        other.clock.install()
        other.goto(new_link(server, "bob"))
        other.get_by_text("1 task is before other labelers").wait_for()
        other.get_by_role("button", name="Help").focus()
        for _ in range(2):
            with other.expect_response("**/component_server"):
                other.clock.fast_forward(15_000)
            other.wait_for_timeout(200)
            assert focused(other) == "help"
        press(page, "3", "4", "Control+Enter")
        page.get_by_text("1 task labeled.").wait_for()
        other.clock.fast_forward(15_000)
        other.get_by_text("All done").wait_for()  # by itself
        context.close()


def test_the_focus_goes_along_with_the_task_and_the_response(
    chromium: Browser, server: Any
) -> None:
    with open_page(chromium, new_link(server, "focus")) as page:
        first = page.locator(".prompt-text").inner_text()
        page.locator('[name="rating-0"]').first.focus()
        press(page, "5")
        assert focused(page) == "rating-1"
        press(page, "4", "j")
        assert focused(page) == "rating-3"
        press(page, "k", "3", "2", "1", "n")
        assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
        page.keyboard.type("i n 7")
        press(page, "Escape", "k")
        assert page.locator(".response.active").get_attribute("data-place") == "3"
        assert page.locator("textarea").input_value() == "i n 7"
        page.get_by_role("button", name="Submit").focus()
        press(page, "Enter")
        page.locator(".prompt-text", has_not_text=first).wait_for()
        assert focused(page) == "Prompt"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "none"  # nothing to be pressed there
        press(page, "Tab")
        assert focused(page) == "rating-0"


def test_the_digits_of_every_keyboard_rate(chromium: Browser, server: Any) -> None:
    with open_page(chromium, new_link(server, "keyboards")) as page:
        for key, code, shift in [
            ("&", "Digit1", False),
            ("3", "Digit3", True),
            ("!", "Digit1", True),
            ("7", "Numpad7", False),
        ]:
            page.evaluate(
                """([key, code, shiftKey]) => document.body.dispatchEvent(
                     new KeyboardEvent('keydown', { key, code, shiftKey, bubbles: true }))""",
                [key, code, shift],
            )
        assert tiers(page) == ["C", "B", "A"]  # 7, 3, 1; Shift and 1 is no digit here
        for key in ("K", "K", "A"):  # with Caps Lock
            page.evaluate(
                """(key) => document.body.dispatchEvent(
                     new KeyboardEvent('keydown', { key, bubbles: true }))""",
                key,
            )
        marked = page.locator('[data-place="1"] [data-answer="yes"]')
        assert marked.all_inner_texts()[0].startswith("fails task")


def test_instructions_open_by_themselves_once_for_each_version(
    chromium: Browser, start_server: Any
) -> None:
    samples = [sample(f"p{i}", f"Prompt {i}.", STORIES[:2]) for i in range(3)]
    server = start_server(samples)
    with open_page(chromium, server.link) as page:
        panel = page.locator(".instructions-text")
        assert panel.is_visible()
        press(page, "6", "4", "Control+Enter")
        page.get_by_text("Prompt 1.").wait_for()
        assert panel.is_hidden()
        page.reload()
        page.get_by_text("Prompt 1.").wait_for()
        assert panel.is_hidden()
        press(page, "i")  # opened by hand it stays
        assert panel.is_visible()
        press(page, "6", "4", "Control+Enter")
        page.get_by_text("Prompt 2.").wait_for()
        assert panel.is_visible()
        press(page, "i")
        assert panel.is_hidden()
        page.evaluate("localStorage.setItem('labeling-instructions', 'training another-version')")
        page.reload()
        page.get_by_text("Prompt 2.").wait_for()
        assert panel.is_visible()


def test_confidence_is_taken_away_by_the_key_that_gave_it(chromium: Browser, server: Any) -> None:
    with open_page(chromium, new_link(server, "confidence")) as page:
        fairly = page.get_by_label("fairly")
        fairly.focus()
        press(page, "Space")
        assert fairly.is_checked()
        press(page, "Space")
        assert not fairly.is_checked()
        fairly.click()
        assert fairly.is_checked()
        fairly.click()
        assert not fairly.is_checked()


def test_what_is_not_seen_is_named(chromium: Browser, start_server: Any) -> None:
    family = "👩\u200d👩\u200d👧 क्\u200dष"  # joined letters are what they are
    text = "".join(f"a{character}b " for character in UNSEEN) + family
    server = start_server(
        [sample("p0", LONG_PROMPT, [text, "other"]), sample("p1", "Short.", STORIES[:2])]
    )
    with open_page(chromium, server.link) as page:
        pre = page.locator(".response pre", has_text="👧")
        assert pre.text_content() == text
        codes = [one.get_attribute("data-code") for one in pre.locator(".control").all()]
        assert codes == [f"U+{ord(character):04X}" for character in UNSEEN]
        # A long prompt is folded as a long answer is, and the next is not.
        shown = page.locator(".prompt-text")
        assert shown.text_content() == LONG_PROMPT
        folded = shown.bounding_box()
        page.get_by_role("button", name="Show all of the prompt (40 lines)").click()
        whole = shown.bounding_box()
        assert folded is not None
        assert whole is not None
        assert whole["height"] > 2 * folded["height"]
        press(page, "4", "4", "Control+Enter")
        page.get_by_text("Short.").wait_for()
        assert page.locator(".prompt .unfold").count() == 0
