"""docs/labeling_walkthrough.md, performed: its commands as they stand, its people in Chromium."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from pipeline.judges import RubricJudge, ScriptedLabeler
from pipeline.records import Prompt, Ranking, SampleSet, read_rows
from pipeline.tinyworld import build_world
from tests.labeling_ui.conftest import CHROMIUM_ARGUMENTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "labeling_walkthrough.md"
GOLD = ROOT / "examples" / "gold_tinyworld.jsonl"
# What makes the models tiny: the walk is the same.
TINY = [
    "data.tinyworld.documents=300",
    "data.tinyworld.demonstrations=40",
    "data.tinyworld.label_prompts=8",
    "data.tinyworld.ppo_prompts=40",
    "data.tinyworld.heldout_prompts=20",
    "pretrain.layers=2",
    "pretrain.width=64",
    "pretrain.steps=30",
    "pretrain.copy_probe_minimum=null",
    "sft.epochs=1",
    "sample.max_response_tokens=24",
]


def documented(prefix: str) -> list[list[str]]:
    """The arguments of the document's commands that begin so, in order."""
    text = "\n".join(re.findall(r"^```\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S))
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith(prefix)]


def align(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "stages", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def link_in(text: str) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+", text)
    assert found, text
    return found.group()


class Person:
    """Someone in a browser of their own, who judges as the world's rubric would, with noise."""

    def __init__(self, browser: Browser, name: str, run: Path) -> None:
        self.page: Page = browser.new_context().new_page()
        self.page.set_default_timeout(20_000)
        self._labeler = ScriptedLabeler(name, RubricJudge(build_world(0)), seed=0, noise=0.4)
        samples = read_rows(run / "samples" / "samples.jsonl", SampleSet)
        self._cut = {(s.prompt, r.text): r.finished for s in samples for r in s.responses}
        self._prompts = {p.prompt: p for p in read_rows(run / "data" / "prompts.jsonl", Prompt)}
        self._known = {row.prompt: row for row in read_rows(GOLD, Ranking)}

    def accept(self, link: str) -> None:
        self.page.goto(link)
        self.page.get_by_label("Password").fill("correct horse battery staple")
        self.page.get_by_role("button", name="Begin").click()
        self.page.wait_for_selector(".response")

    def judge_next(self) -> bool:
        """Judges what is before them; False when nothing is."""
        self.page.wait_for_selector('[data-state="task"]:not(.busy), [data-state="end"]:not(.busy)')
        if self.page.locator(".page").get_attribute("data-state") == "end":
            return False
        practice = self.page.locator(".practice").is_visible()
        for rating in self._ratings(self.page.locator(".prompt-text").text_content() or ""):
            self.page.keyboard.press(str(rating))
        with self.page.expect_response(lambda r: "submit_task" in (r.request.post_data or "")):
            self.page.keyboard.press("Control+Enter")
        if practice:
            self.page.locator(".feedback h2").wait_for()
            self.page.keyboard.press("Control+Enter")
        return True

    def _ratings(self, prompt: str) -> list[int]:
        texts = [node.text_content() or "" for node in self.page.locator(".response pre").all()]
        if prompt in self._known:
            row = self._known[prompt]
            known = {r.text: n for r, n in zip(row.responses, row.ratings, strict=True)}
            return [known[text] for text in texts]
        responses = [(text, self._cut[prompt, text]) for text in texts]
        return self._labeler.label(self._prompts[prompt], responses).ratings


def test_the_walkthrough(browser_path: str, tmp_path: Path) -> None:
    # From an empty folder: only what the commands name is there.
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (sampling,), adding = documented("align run configs/"), documented("align labelers add")
    align(tmp_path, *sampling, *TINY)
    links = [link_in(align(tmp_path, *command)) for command in adding]
    (serving,) = documented("align label ")
    server = subprocess.Popen(
        [sys.executable, "-m", "stages", *serving, "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    try:
        origin = ""
        while not origin:
            line = server.stdout.readline()
            assert line, "the application did not start"
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            origin = found.group() if found else ""
        people_at_work(browser_path, origin, links, tmp_path)
    finally:
        server.send_signal(signal.SIGINT)
        printed, _ = server.communicate(timeout=30)
    assert " 0 still open" in printed
    check_what_came_of_it(tmp_path)


def people_at_work(browser_path: str, origin: str, links: list[str], folder: Path) -> None:
    """Ann and Bob label, Ann writes an answer, and Lea looks at the dashboard."""
    run = folder / "runs" / "team"
    ann_link, bob_link, lea_link = (re.sub(r"http://[^/]+", origin, link) for link in links)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=CHROMIUM_ARGUMENTS)
        ann, bob, lea = (Person(browser, name, run) for name in ("ann", "bob", "lea"))
        ann.accept(ann_link)
        bob.accept(bob_link)
        while [person for person in (ann, bob) if person.judge_next()]:
            pass  # in turns
        ann.page.goto(f"{origin}/write")
        ann.page.get_by_role("textbox").first.fill("It lives in the old mill.")
        ann.page.keyboard.press("Control+Enter")
        ann.page.get_by_text("It lives in the old mill.").first.wait_for()
        lea.accept(lea_link)
        lea.page.goto(f"{origin}/dashboard")
        assert "ann" in (lea.page.locator("main").text_content() or "")
        browser.close()


def check_what_came_of_it(folder: Path) -> None:
    (statistics,), exports = documented("align labels stats"), documented("align labels export")
    printed = align(folder, *statistics)
    assert "ann" not in printed.split()
    for command in exports:
        align(folder, *command)
    rankings = read_rows(folder / "team_labels" / "rankings.jsonl", Ranking)
    assert len({row.prompt_id for row in rankings}) == 8
    assert len({row.labeler for row in rankings}) == 2
    demonstrations = (folder / "team_labels" / "demonstrations.jsonl").read_text()
    assert json.loads(demonstrations)["response"] == "It lives in the old mill."
    pairs = (folder / "team_pairs" / "pairs.jsonl").read_text().splitlines()
    assert {"prompt", "chosen", "rejected"} <= json.loads(pairs[0]).keys()
    assert (folder / "team_dataset").is_dir()
