"""The labeling page in a real Chromium: by keyboard, by mouse, with hostile text, on a phone."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from labeling_ui.store import Progress
from tests.labeling_ui.pages_seen import (
    PHONE,
    STORIES,
    open_page,
    press,
    sample,
    tiers,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "{{7*7}} ${1+1} {{{value}}} `${document.title='owned'}` @children",
    "safe \u202egnitset\u202c end",
    "\ttab,  two spaces,\n\nand <b>lines</b> &amp; an entity",
    "",
    "W" * 300,
    "بسم 123 <i>",
]


def test_a_labeler_works_through_the_tasks(chromium: Browser, start_server: Any) -> None:
    prompts = ["Write a story about the fox and the lantern.", "Second.", "Third."]
    server = start_server([sample(f"p{i}", p, STORIES) for i, p in enumerate(prompts)])
    with open_page(chromium, server.link) as page:
        # Rate by keys: each goes on to the next; a tie arises from equal ratings.
        assert page.locator(".count").inner_text() == "0 done, 3 open"
        assert page.locator(".actions .submit").inner_text() == "Rate 5 more"
        shown = page.locator(".response pre").all_inner_texts()
        assert sorted(shown) == sorted(STORIES)
        press(page, "6", "5", "3", "1", "5")
        assert tiers(page) == ["A", "BE", "C", "D"]
        # Keys are letters in a text field.
        page.locator("textarea").click()
        page.keyboard.type("12 jk 7au?")
        page.locator("h1").click()
        assert tiers(page) == ["A", "BE", "C", "D"]
        # Break the tie: to the next tied response, and up.
        press(page, "t", "Alt+ArrowUp")
        assert tiers(page) == ["A", "B", "E", "C", "D"]
        page.get_by_label("fairly").check()
        # Questions: of D yes, of A doesn't apply; the rest stays no.
        page.locator('[data-place="3"] .question', has_text="rude").click()
        off_topic = page.locator('[data-place="0"] .question', has_text="off topic")
        off_topic.click()
        assert off_topic.get_attribute("aria-checked") == "true"
        off_topic.click()
        assert off_topic.get_attribute("aria-checked") == "mixed"
        press(page, "s", "s")  # A is active: its second question, to no and to yes
        press(page, "s")
        assert off_topic.get_attribute("aria-label") == "off topic: doesn't apply"
        page.get_by_text("Draft saved").wait_for()
        press(page, "Control+Enter")
        page.get_by_text("Second.").wait_for()
        with closing(server.store()) as store:
            row = store.rankings()[0]
        by_text = {r.text: i for i, r in enumerate(row.responses)}
        places = [by_text[text] for text in shown]
        assert [row.ratings[i] for i in places] == [6, 5, 3, 1, 5]
        assert [row.ranks[i] for i in places] == [1, 2, 4, 5, 3]
        assert [row.answers["rude"][i] for i in places] == [False, False, False, True, False]
        assert [row.answers["off_topic"][i] for i in places] == [None, *[False] * 4]
        assert (row.display_order, row.confidence) == (places, "medium")
        assert not row.confirmed_contradiction

        # The second task: a contradiction has to be confirmed.
        press(page, "7", "6", "5", "4", "3", "Alt+ArrowUp", "Alt+ArrowUp")
        assert tiers(page) == ["A", "B", "C", "E", "D"]
        assert "E stands above D" in page.locator(".contradiction").inner_text()
        press(page, "Control+Enter")
        page.get_by_text("confirm it").wait_for()
        page.get_by_label("I mean it").check()
        page.locator(".actions .submit").click()
        page.get_by_text("Third.").wait_for()
        with closing(server.store()) as store:
            row = store.rankings()[1]
        assert row.confirmed_contradiction

        # The third is skipped, and that was all.
        page.get_by_role("button", name="Skip").click()
        page.get_by_role("button", name="The prompt makes no sense").click()
        page.get_by_text("2 tasks labeled, 1 skipped.").wait_for()
        assert page.locator(".command").inner_text() == "align run demo.yaml"
        press(page, "1", "j", "Control+Enter")
        with closing(server.store()) as store:
            assert store.progress() == Progress(done=2, open=0, skipped=1)
            assert store.skips()[0].reason == "the prompt makes no sense"
            assert len({row.labeler for row in store.rankings()}) == 1

        # All of it can be taken back, the last first.
        press(page, "u")
        page.get_by_text("Third.").wait_for()
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("Second.").wait_for()
        assert tiers(page) == ["A", "B", "C", "E", "D"]
        assert page.get_by_label("I mean it").is_checked()
        press(page, "Control+Enter")
        page.get_by_text("Third.").wait_for()
    with closing(server.store()) as store:
        assert store.progress() == Progress(done=2, open=1, skipped=0)


def test_ranking_by_mouse(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample("p0", "Prompt.", STORIES[:4])])
    with open_page(chromium, server.link) as page:
        for place, value in enumerate((7, 5, 3, 1)):
            page.locator(f'[data-place="{place}"] .rating label').nth(value - 1).click()
        assert tiers(page) == ["A", "B", "C", "D"]
        chip = page.locator('.chip[data-place="3"]')
        chip.drag_to(page.locator(".tier").nth(1))  # onto a tier: a tie, on purpose
        assert tiers(page) == ["A", "BD", "C"]
        assert "tie though their ratings differ" in page.locator(".odd-tie").inner_text()
        page.locator('.chip[data-place="2"]').drag_to(page.locator(".gap").first)
        assert tiers(page) == ["C", "A", "BD"]
        page.get_by_role("button", name="Move D down").click()
        assert tiers(page) == ["C", "A", "B", "D"]
        page.get_by_role("button", name="Move D up").click()
        assert tiers(page) == ["C", "A", "BD"]
        # A new rating moves its response only.
        page.locator('[data-place="1"] .rating label').nth(6).click()
        assert tiers(page) == ["C", "AB", "D"]
        page.get_by_role("button", name="as rated").click()
        assert tiers(page) == ["AB", "C", "D"]
        assert page.locator(".contradiction").is_hidden()
        # Without single-key shortcuts, digits do nothing; Ctrl+Enter still submits.
        page.get_by_role("button", name="Help").click()
        page.get_by_label("Single-key shortcuts").uncheck()
        press(page, "Escape")
        assert page.locator(".help").is_hidden()
        press(page, "1", "2")
        assert tiers(page) == ["AB", "C", "D"]
        press(page, "Control+Enter")
        page.get_by_text("1 task labeled.").wait_for()
    with closing(server.store()) as store:
        row = store.rankings()[0]
    assert sorted(zip(row.ratings, row.ranks, strict=True)) == [(1, 4), (3, 3), (7, 1), (7, 1)]


def test_hostile_text_is_shown_verbatim_and_does_nothing(
    chromium: Browser, start_server: Any
) -> None:
    prompt = "<h1>{{7*7}}</h1>${1+1}<img src=x onerror=\"document.title='owned'\">\u202eabc"
    server = start_server([sample("p0", prompt, HOSTILE)])
    with open_page(chromium, server.link, viewport=PHONE) as page:
        texts = [pre.text_content() for pre in page.locator(".response pre").all()]
        assert sorted(filter(None, texts)) == sorted(filter(None, HOSTILE))
        assert len(texts) == len(HOSTILE)
        assert page.locator(".prompt-text").text_content() == prompt
        assert page.locator("pre img, pre script, pre b, pre i, pre h1").count() == 0
        page.wait_for_timeout(300)
        assert page.title() == "Labeling"
        # The override is named, and kept from reordering the text around it.
        control = page.locator(".response pre .control").first
        assert control.get_attribute("data-code") == "U+202E"
        assert control.evaluate("node => getComputedStyle(node).unicodeBidi") == "isolate"
        ordered = page.evaluate(
            """() => {
              const pre = [...document.querySelectorAll('.response pre')]
                .find((node) => node.textContent.includes('gnitset'));
              const text = [...pre.childNodes].find((node) => node.data?.includes('gnitset'));
              const left = (offset) => {
                const range = document.createRange();
                range.setStart(text, offset); range.setEnd(text, offset + 1);
                return range.getBoundingClientRect().left;
              };
              const start = text.data.indexOf('gnitset');
              return left(start) < left(start + 6);
            }"""
        )
        assert ordered
        # Nothing sticks out of a phone's screen, a word of 300 letters included.
        wide = page.evaluate(
            """() => [...document.querySelectorAll('.page *')].filter((node) => node.offsetParent
                 && !node.closest('.sr') && node.getBoundingClientRect().right > innerWidth + 1)
                 .map((node) => node.className)"""
        )
        assert wide == []
        assert "planted" not in page.content()
