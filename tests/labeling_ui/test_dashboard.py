"""The lead's dashboard: who sees it, whether its figures are right, alive, and for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from labeling_ui.dashboard import Board
from labeling_ui.desk import Desk
from labeling_ui.store import Store, open_store
from pipeline.agreement import pairwise_agreement, rating_alpha
from tests.labeling_ui.judging import QUESTIONS, judge, sample_set, shown
from tests.labeling_ui.pages_seen import LAPTOP, PHONE, new_link, sample
from tests.labeling_ui.test_browser_reach import NARROW, findings, sticking_out

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<img src=x onerror=\"document.title='owned'\">\u202egnitset"
HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
SEEN = (("light", LAPTOP), ("dark", PHONE), ("light", NARROW), ("dark", LAPTOP))


@contextmanager
def board(chromium: Browser, link: str, **options: Any) -> Iterator[Page]:
    """The dashboard in a fresh browser that is signed in by ``link``."""
    context = chromium.new_context(viewport=LAPTOP, **options)
    assert context.request.get(link).ok  # not through the task page, which takes long to load
    page = context.new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(link.partition("/enter")[0] + "/dashboard")
    page.get_by_role("heading", name="Dashboard").wait_for()
    yield page
    assert problems == []
    context.close()


def judge_all(store: Store, name: str, better_first: bool = True) -> None:
    """Judges whatever is there for this labeler; the first response best, or worst."""
    labeler = store.add_labeler(name).id
    while Desk(store).next_task(labeler) is not None:
        task = shown(store, labeler)
        size = len(task.responses)
        ranks = list(range(1, size + 1)) if better_first else list(range(size, 0, -1))
        ratings = [8 - rank for rank in ranks]
        rude = {"rude": [False] * (size - 1) + [True]}
        judge(store, labeler, task, ratings=ratings, ranks=ranks, answers=rude)


def test_figures_are_computed_anew_when_judgments_change_and_not_before(place: str) -> None:
    store = open_store(place)
    assert Board(store).quality().report.labelers == []  # nobody is there
    store.add_tasks([sample_set(f"p{i}") for i in range(4)], QUESTIONS, "", overlap=2)
    now = [0.0]
    board = Board(store, clock=lambda: now[0])
    assert board.quality().report.why_not["agreement"] == "nothing is judged yet"
    judge_all(store, "ann")
    judge_all(store, "bob", better_first=False)
    assert board.quality().report.submissions == 0  # too soon after the last time
    now[0] = 100.0
    report = board.quality().report
    rankings = store.rankings()
    expected = pairwise_agreement(rankings)
    assert expected is not None
    assert report.agreement is not None
    assert (report.agreement.value, report.agreement.n) == (0.0, expected.pair_count)
    assert report.rating_alpha is not None
    assert report.rating_alpha.value == pytest.approx(rating_alpha(rankings))
    assert {one.labeler for one in report.labelers} == {row.labeler for row in rankings}
    now[0] = 200.0
    assert board.quality().report is report  # nothing has changed


@pytest.mark.browser
def test_only_leads_see_it_and_it_is_alive(chromium: Browser, start_server: Any) -> None:
    tasks = [sample(f"p{i}", f"Prompt {i}. {HOSTILE}", ["One.", "Two.", HOSTILE]) for i in range(3)]
    server = start_server(tasks, overlap=4)
    for role, status in (("labeler", 403), ("lead", 200)):
        context = chromium.new_context()
        assert context.request.get(new_link(server, f"{role} 1", role)).ok
        for path in ("/dashboard", f"/dashboard/task/{'0' * 64}"):
            answer = context.request.get(server.origin + path)
            assert answer.status == (404 if "task" in path and status == 200 else status)
        context.close()
    with closing(server.store()) as store:
        judge_all(store, "carl 'quoted' <b>")
    with board(chromium, new_link(server, "lea", "lead")) as page:
        page.get_by_text("One labeler only.").first.wait_for()
        text = page.locator("main").inner_text()
        assert "Not known yet" in text
        assert "carl 'quoted' <b>" in text
        assert "planted" not in page.content()
        page.locator("#flagged summary").first.click()
        page.locator("#flagged a").first.focus()
        focused = page.evaluate("document.activeElement.href")
        page.mouse.wheel(0, 300)
        page.wait_for_function("scrollY >= 300")
        with closing(server.store()) as store:
            judge_all(store, "bob", better_first=False)
        page.get_by_text("Not clear yet: more shared tasks will tell").wait_for()
        assert page.evaluate("document.activeElement.href") == focused
        assert page.evaluate("scrollY") >= 300
        assert page.locator("#flagged details").first.get_attribute("open") is not None
        assert "0.0%" in page.locator("#agreement").inner_text()
        page.locator("#disagreement a").first.click()
        page.get_by_role("heading", name="Responses and what was said of them").wait_for()
        task = page.locator("main").inner_text()
        assert "carl 'quoted' <b>" in task
        assert "bob" in task
        assert HOSTILE in (page.locator("pre.prompt").text_content() or "")
        assert page.locator("pre.prompt .control").get_attribute("data-code") == "U+202E"
        assert "owned" not in page.title()
        assert "planted" not in page.content()


@pytest.mark.browser
def test_it_is_for_everybody(chromium: Browser, start_server: Any) -> None:
    tasks = [sample(f"p{i}", f"Prompt {i}.", ["One.", "Two.", "Three."]) for i in range(4)]
    server = start_server(tasks, overlap=2)

    def check(page: Page, state: str) -> None:
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        for scheme, view in SEEN:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": view["width"], "height": view["height"]})
            assert findings(page) == [], (state, scheme, view)
            assert sticking_out(page) == [], (state, scheme, view)

    with board(chromium, new_link(server, "lea", "lead")) as page:
        check(page, "nothing is judged")
        with closing(server.store()) as store:
            judge_all(store, "ann")
            judge_all(store, "bob", better_first=False)
        page.locator("#disagreement a").first.wait_for()
        check(page, "all is judged")
        page.locator("#disagreement a").first.click()
        page.get_by_role("heading", name="Responses and what was said of them").wait_for()
        check(page, "a task")
    with board(chromium, new_link(server, "lou", "lead"), java_script_enabled=False) as page:
        page.get_by_role("link", name="Reload").click()
        assert page.get_by_role("rowheader", name="ann").first.is_visible()
    with board(chromium, new_link(server, "lin", "lead")) as page:
        assert not page.get_by_role("link", name="Reload").is_visible()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate(HIDE, True)
        page.wait_for_timeout(4_000)  # longer than from one question to the next
        assert asked == []
        with page.expect_request("**/dashboard"):
            page.evaluate(HIDE, False)
        server.process.kill()
        server.process.wait()
        page.get_by_text("The server does not answer").wait_for()
        assert page.get_by_role("rowheader", name="ann").first.is_visible()
