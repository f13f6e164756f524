"""A labeler's browser, for the tests: pages opened, keys pressed, the ranking read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from labeling_ui.sign_in import SignIn
from pipeline.records import SampledResponse, SampleSet

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

STORIES = [
    "A fox found a lantern in the snow behind the old mill. It carried the light home.",
    "The fox was tired of the dark. She traded three plums for a lantern.",
    "Foxes are small mammals. The lantern is a thing that gives light.",
    "Why would you ask me that, you fool? There was a fox. The end.",
    "Once a fox borrowed the moon's lantern to look for her lost cub, and when she",
]
PHONE: ViewportSize = {"width": 390, "height": 844}
LAPTOP: ViewportSize = {"width": 1280, "height": 800}


def sample(name: str, prompt: str, texts: list[str]) -> SampleSet:
    return SampleSet(
        prompt_id=name,
        prompt=prompt,
        responses=[
            SampledResponse(
                response_id=f"planted-{name}-{i}",
                text=text,
                policy="planted-policy",
                seed=i,
                temperature=1.0,
                top_p=1.0,
                finished=True,
            )
            for i, text in enumerate(texts)
        ],
    )


@contextmanager
def open_page(chromium: Browser, link: str, **options: Any) -> Iterator[Page]:
    """The first task of a fresh browser. Nothing but the application may be contacted."""
    context = chromium.new_context(viewport=options.pop("viewport", LAPTOP), **options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    hosts: set[str | None] = set()
    problems: list[str] = []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(link)
    page.wait_for_selector(".response")
    yield page
    assert hosts <= {"127.0.0.1", None}, hosts  # None: data: addresses
    assert problems == []
    context.close()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tiers(page: Page) -> list[str]:
    """The ranking as the page shows it: the letters of each tier, best first."""
    rows = page.locator(".tier").all()
    return ["".join(row.locator(".chip-name b").all_inner_texts()) for row in rows]


def new_link(server: Any, name: str, role: str = "labeler") -> str:
    """A link that signs a labeler of this name in."""
    with closing(server.store()) as store:
        labeler = store.add_labeler(name, role=role)
        token = SignIn(store, server.port).new_link_token(labeler.id)
    return f"{server.origin}/enter?token={token}"
