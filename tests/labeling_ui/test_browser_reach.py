"""The pages for everybody: by keyboard alone, with axe, on a narrow screen, with hostile text."""

from __future__ import annotations

import difflib
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import axe_playwright_python
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling_ui.accounts import Accounts
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

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
NARROW = {"width": 320, "height": 640}
LONG = "\n".join(f"Line {i} of a long answer." for i in range(60))
SCRIPT = "document.title='owned'"
HOSTILE_PARTS = [
    f"<script>{SCRIPT}</script>",
    f'<img src=x onerror="{SCRIPT}">',
    f'<svg onload="{SCRIPT}">',
    f'<iframe srcdoc="<script>parent.{SCRIPT}</script>"></iframe>',
    f'<a href="javascript:{SCRIPT}">click</a>',
    f'<details open ontoggle="{SCRIPT}">',
    "<style>@import 'http://example.org/x.css'</style>",
    "<link rel=stylesheet href=http://example.org/x.css>",
    "<img src=http://example.org/pixel.png>",
    "![](http://example.org/pixel.png)",
    "[link](javascript:alert(1))",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)} #{1+1} <%= 7*7 %>",
    "{{value}} {{{value}}} @children",
    "$x^2$ $$\\frac{1}{2}$$ \\(a\\)",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "# heading\n\n* list\n\n```js\ncode\n```",
    "&lt;b&gt; &amp; &#x3C; &nbsp;",
    "</pre></article><h1>out</h1>",
    "<!-- comment --> <![CDATA[x]]>",
    "\ttabs\tand  two spaces   three",
    "\u202eoverride\u202c \u2066isolate\u2069",
    "\u0000nul \u0007bell \u001b[31mred\u001b[0m",
    "\u200e\u200f marks \u061c",
    "zero\u200bwidth\u200djoiner \ufeff",
    "combining: e\u0301 Z\u0351\u0342\u0343",
    "بسم الله 123 <i>",
    "שלום (abc) [1]",
    "😀 👩‍👩‍👧 🇩🇪",
    "\u2028line\u2029paragraph\u0085next",
    "W" * 400,
    "a" * 200 + " " + "b" * 200,
    "https://example.org/" + "x" * 120,
    "' OR 1=1; --",
    '"}]}; alert(1); //',
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "<math><mtext><script>alert(1)</script></mtext></math>",
    "<form action=http://example.org><button>go</button></form>",
    "<base href=http://example.org/>",
    "<meta http-equiv=refresh content='0;url=http://example.org'>",
    "<object data=http://example.org></object><embed src=x>",
    "<video src=http://example.org/x.mp4 autoplay onerror=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<body onload=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "<x style=behavior:url(x)>",
    "<p style='position:fixed;inset:0;background:red'>over all</p>",
    "  leading and trailing spaces  ",
    "\n\n\nblank lines\n\n\n",
    "",
]


def findings(page: Page) -> list[str]:
    """What axe finds on the page as it is."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {node['html'][:150]}" for one in found for node in one["nodes"]]


def sticking_out(page: Page) -> list[str]:
    """The elements that reach beyond the right edge, but for those within one that scrolls."""
    return page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((node) => {
             const box = node.getBoundingClientRect();
             return box.width && getComputedStyle(node).visibility !== 'hidden'
               && !node.closest('.sr, .scroll, [hidden]') && box.right > innerWidth + 1;
           }).map((node) => node.outerHTML.slice(0, 150))"""
    )


@pytest.fixture(scope="module")
def server(start_server: Any) -> Any:
    samples = [sample(f"p{i}", f"Prompt {i}.", [*STORIES[:4], LONG]) for i in range(3)]
    return start_server(samples, questions=INSTRUCTGPT_QUESTIONS, shared_fraction=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["laptop", "phone", "narrow"])
def test_every_state_of_the_task_page_passes_axe_and_reflows(
    chromium: Browser, server: Any, scheme: str, size: str
) -> None:
    viewport = {"laptop": LAPTOP, "phone": PHONE, "narrow": NARROW}[size]
    link = new_link(server, f"{scheme} {size}", "admin")
    options: dict[str, Any] = {"viewport": viewport, "color_scheme": scheme}
    with open_page(chromium, link, **options) as page:

        def check(state: str) -> None:
            page.wait_for_timeout(150)
            assert findings(page) == [], state
            if size != "laptop":
                assert sticking_out(page) == [], state

        check("first task, with instructions")
        press(page, "6", "5", "3", "1", "5", "a", "s", "s")
        check("rated")
        press(page, "k", "Alt+ArrowUp", "Alt+ArrowUp", "Alt+ArrowUp", "Alt+ArrowUp")
        assert page.locator(".contradiction").is_visible()
        check("contradiction")
        page.locator(".response.active select.compare").select_option(index=2)
        check("difference")
        page.locator(".unfold").first.click()
        check("unfolded")
        page.locator(".menu summary").click()
        check("menu")
        page.locator(".menu summary").click()
        page.get_by_role("button", name="Skip").click()
        check("skipping")
        page.get_by_role("button", name="needs an expert").click()
        page.get_by_text("Prompt 1.").wait_for()
        check("second task")
        press(page, "?")
        check("help")
        press(page, "Escape", *"11111", "Control+Enter")
        page.get_by_text("Prompt 2.").wait_for()
        press(page, *"11111", "Control+Enter")
        page.locator(".end h2").wait_for()
        check("the end")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_around_the_task_pass_axe_and_reflow(
    chromium: Browser, server: Any, scheme: str
) -> None:
    with closing(server.store()) as store:
        accounts = Accounts(store)
        name = f'<b>"Q\'uote"</b> {scheme} ' + "w" * 60
        token = accounts.add(name)
    for viewport in (LAPTOP, NARROW):
        context = chromium.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()

        def check(state: str, page: Page = page) -> None:
            assert findings(page) == [], state
            assert sticking_out(page) == [], state

        page.goto(f"{server.origin}/sign-in")
        check("sign-in")
        page.get_by_label("Name").fill("nobody")
        page.get_by_label("Password").fill("wrong password")
        press(page, "Enter")
        page.get_by_role("alert").wait_for()
        check("wrong password")
        page.goto(f"{server.origin}/enter?token=wrong")
        check("refused link")
        page.goto(f"{server.origin}/invite?token={token}")
        assert name in page.locator("h1").inner_text()
        check("invitation")
        page.goto(new_link(server, f"{scheme} admin", "admin"))
        page.wait_for_selector(".response")
        page.goto(f"{server.origin}/people")
        assert page.get_by_text(name).first.is_visible()
        check("people")
        page.get_by_label("Invite").fill(f"new {viewport['width']} {scheme}")
        page.get_by_role("button", name="Make a link").click()
        page.locator("code.link").wait_for()
        check("new link")
        page.goto(new_link(server, f"{scheme} labeler"))
        page.wait_for_selector(".response")
        page.goto(f"{server.origin}/people")
        check("forbidden")
        context.close()


def test_sign_in_and_five_tasks_by_keyboard_alone(chromium: Browser, start_server: Any) -> None:
    server = start_server([sample(f"p{i}", f"Prompt {i}.", STORIES) for i in range(5)])
    with closing(server.store()) as store:
        accounts = Accounts(store)
        accounts.choose_password(accounts.add("ann"), "correct horse battery")
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.origin)
    page.locator("input[name=name]:focus").wait_for()  # without a click
    page.keyboard.type("ann")
    press(page, "Tab")
    page.keyboard.type("correct horse battery")
    press(page, "Enter")
    page.wait_for_selector(".response")
    presses: list[int] = []
    for index in range(5):
        page.get_by_text(f"Prompt {index}.").wait_for()
        keys = ["7", "6", "4", "2", "1", "Control+Enter"]
        if index == 4:  # one broken tie
            keys = ["7", "6", "4", "2", "2", "t", "Alt+ArrowDown", "Control+Enter"]
        press(page, *keys)
        presses.append(len(keys))
    page.get_by_text("5 tasks labeled.").wait_for()
    assert presses == [6, 6, 6, 6, 8]
    with closing(server.store()) as store:
        rows = store.rankings()
    assert all(sorted(row.ranks) == [1, 2, 3, 4, 5] for row in rows)
    # Out again, by keyboard too.
    page.locator(".menu summary").focus()
    press(page, "Enter", "Tab", "Tab", "Enter")  # past "Write answers"
    page.get_by_role("heading", name="Sign in").wait_for()
    page.goto(f"{server.origin}/label/")
    page.get_by_role("heading", name="Sign in").wait_for()
    context.close()


def test_fifty_hostile_texts_are_shown_verbatim_and_do_nothing(
    chromium: Browser, start_server: Any
) -> None:
    assert len(set(HOSTILE_PARTS)) == 50
    groups = [HOSTILE_PARTS[i : i + 9] for i in range(0, 50, 9)]
    samples = [sample(f"p{i}", group[0] or "?", group) for i, group in enumerate(groups)]
    server = start_server(samples)
    with open_page(chromium, server.link, viewport=NARROW) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        for group in groups:
            shown = page.locator(".prompt-text")
            page.wait_for_function(
                "prompt => document.querySelector('.prompt-text').textContent === prompt",
                arg=group[0] or "?",
            )
            texts = [pre.text_content() or "" for pre in page.locator(".response pre").all()]
            assert sorted(texts) == sorted(group)
            assert shown.text_content() == (group[0] or "?")
            inside = "pre :not(bdi), .response h1, .response iframe"
            assert page.locator(inside).count() == 0
            assert sticking_out(page) == []
            select = page.locator(".response.active select.compare")
            select.select_option(index=1)
            allowed = ".difference-text :not(span, ins, del, bdi)"
            assert page.locator(allowed).count() == 0
            press(page, *(["4"] * len(group)), "Control+Enter")
        page.locator(".end h2").wait_for()
        assert page.title() == "Labeling"
        assert page.url == f"{server.origin}/label/"


def test_a_long_answer_is_folded_and_nothing_of_it_is_cut(chromium: Browser, server: Any) -> None:
    with open_page(chromium, new_link(server, "folding")) as page:
        pre = page.locator(".response pre", has_text="Line 59")
        assert pre.text_content() == LONG
        folded = pre.bounding_box()
        button = page.locator(".unfold")
        assert re.fullmatch(r"Show all of [A-E] \(60 lines\)", button.inner_text())
        button.click()
        whole = pre.bounding_box()
        assert folded is not None
        assert whole is not None
        assert whole["height"] > 3 * folded["height"]
        assert button.get_attribute("aria-expanded") == "true"


WORD = st.sampled_from(["fox", "owl", "the", "a", "lantern,", "x"])
TEXT = st.lists(st.tuples(WORD, st.sampled_from([" ", "\n", "  "])), max_size=12).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)


def test_the_difference_of_two_answers_is_a_shortest_one(chromium: Browser, server: Any) -> None:
    with open_page(chromium, new_link(server, "difference")) as page:
        source = Path(__file__).parents[2] / "labeling_ui/static/card/text.js"
        page.evaluate(
            """source => {
              const make = new Function('element', source + ' return wordDifference');
              window.difference = make(document);
            }""",
            source.read_text(),
        )

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(before=TEXT, after=TEXT)
        def check(before: str, after: str) -> None:
            pieces = page.evaluate("([a, b]) => difference(a, b)", [before, after])
            kept = "".join(text for kind, text in pieces if kind != "del")
            assert kept == after
            gone = [w for kind, text in pieces if kind != "ins" for w in text.split()]
            assert gone == before.split()
            same = sum(len(text.split()) for kind, text in pieces if kind == "same")
            assert same == longest_common(before.split(), after.split())
            # No fewer words than another library finds in common.
            blocks = difflib.SequenceMatcher(None, before.split(), after.split(), autojunk=False)
            assert same >= sum(block.size for block in blocks.get_matching_blocks())

        check()
        assert page.evaluate("() => difference('x '.repeat(3000), 'y '.repeat(3000))") is None


def longest_common(a: list[str], b: list[str]) -> int:
    """The length of a longest common subsequence, by its textbook recurrence."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1][j + 1] = best[i][j] + 1 if x == y else max(best[i][j + 1], best[i + 1][j])
    return best[-1][-1]


def test_help_opens_and_closes_by_key_and_gives_the_focus_back(
    chromium: Browser, server: Any
) -> None:
    with open_page(chromium, new_link(server, "help")) as page:
        page.get_by_role("button", name="Instructions").focus()
        press(page, "?")
        assert page.locator(".help").is_visible()
        press(page, "5")  # the page behind it hears nothing
        press(page, "Escape")
        assert page.locator(".help").is_hidden()
        assert page.locator(".rating input:checked").count() == 0
        assert page.evaluate("document.activeElement.dataset.do") == "instructions"
        assert tiers(page) == []
