"""The page: well-formed, self-contained, accessible, and safe against what models write."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from pipeline.comparison import CheckpointResult, JudgedResponse, build_report
from pipeline.report import render_html, text

HOSTILE = [
    "<script>alert(1)</script>",
    "</p></article><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" \'',
    "<!-- comment --> ]]> &lt;b&gt; &amp;",
    "\x00\x1b[31m \u202e reversed \ud800 lone surrogate",
    "",
]
VOID = {"meta", "img", "br", "link", "input", "hr"}
METRICS = {
    "ppo": [
        {"step": step, "objective/scores": step / 10, "objective/kl": step / 5}
        for step in range(1, 6)
    ],
    "base": [{"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.0}, {"step": 30, "loss": None}],
}


class Page(HTMLParser):
    """Elements with their attributes; raises where tags do not match."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_report(
    texts: list[str], rated: bool = True, names: tuple[str, ...] = ("base", "sft", "ppo")
) -> dict[str, Any]:
    results = []
    for shift, name in enumerate(names):
        rows = [
            JudgedResponse(
                prompt_id=f"p{i}",
                prompt=words,
                text=words,
                finished=i != 1,
                length_tokens=5 + i + shift,
                rating=1.0 + shift + i % 2 if rated else None,
                answers={"off_topic": i % 2 == 0} if rated else {},
                reward=shift + i / 10,
                kl_to_sft=0.1 * i,
                token_losses=[1.0 + i / 10, 2.0],
            )
            for i, words in enumerate(texts)
        ]
        results.append(CheckpointResult(name, name, rows))
    return build_report(
        results,
        judge="tinyworld" if rated else "reward",
        seed=0,
        bootstrap_samples=20,
        examples=12,
        settings={"run": "quickstart", "world": {"PENALTIES": {"rude": 3.0}, "NOISE": 0.8}},
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(make_report([f"answer {i}" for i in range(8)]), METRICS)


def test_tags_match_and_ids_are_unique(page: str) -> None:
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert references
    assert {one or other for one, other in references} <= set(ids)


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert "@import" not in page
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "img", "form"}
    policies = [a["content"] for a in parsed.attributes("meta") if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_text_stays_text() -> None:
    hostile = render_html(make_report(HOSTILE), METRICS)
    plain = ["" if not words else f"answer {i}" for i, words in enumerate(HOSTILE)]
    harmless = render_html(make_report(plain), METRICS)
    parsed, expected = Page(hostile), Page(harmless)
    inert = {"defs", "path", "use", "g", "text"}  # the figures have as many as they need
    tags, expected_tags = (
        [tag for tag, _ in page.elements if tag not in inert] for page in (parsed, expected)
    )
    assert sorted(tags) == sorted(expected_tags)
    assert not any(name.startswith("on") for _, a in parsed.elements for name in a)
    words = "".join(parsed.words)
    assert "<script>alert(1)</script>" in words
    assert "</p></article><img src=x onerror=alert(1)>" in words
    assert "(empty response)" in words
    hostile.encode("utf-8")


def test_hostile_names_of_questions_and_settings_stay_text() -> None:
    report = make_report(["a", "b", "c"])
    for values in report["checkpoints"].values():
        values["answers"] = {"<b>$\\frac{x</b>": values["answers"]["off_topic"]}
    for pair in report["pairs"]:
        pair["answer_differences"] = {"<b>$\\frac{x</b>": pair["answer_differences"]["off_topic"]}
    report["settings"]["<i>key</i>"] = "<i>value</i>"
    source = render_html(report, {})
    assert "<b>$" not in source
    parsed = Page(source)
    assert "i" not in {tag for tag, _ in parsed.elements}
    assert "<b>$\\frac{x</b>" in "".join(parsed.words)
    assert "<i>value</i>" in "".join(parsed.words)


def test_control_characters_become_visible() -> None:
    assert text("a\x00b\x1b\nc\td\x85") == "a\ufffdb\ufffd\nc\td\ufffd"
    assert text("pay \u202eelif\u2066 \u200f\u061cme") == "pay \ufffdelif\ufffd \ufffd\ufffdme"
    assert text("'\"<>&") == "&#x27;&quot;&lt;&gt;&amp;"


def test_headings_tables_and_figures_are_accessible(page: str) -> None:
    parsed = Page(page)
    assert parsed.attributes("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("scope") in ("col", "row") for attributes in parsed.attributes("th"))
    assert len(parsed.attributes("caption")) == len(parsed.attributes("table")) == 2
    figures = parsed.attributes("svg")
    assert len(figures) == 5
    assert all(a["role"] == "img" and a["aria-label"] and a["viewbox"] for a in figures)
    assert len(parsed.attributes("figcaption")) == 5


def test_every_number_of_the_table_has_interval_and_n(page: str) -> None:
    table = page[page.index("<table>") : page.index("</table>")]
    cells = re.findall(r"<td>(.*?)</td>", table[table.index("<tbody>") :])
    assert len(cells) == 3 * (5 + 2 + 1 + 1)
    for cell in cells:
        assert re.search(r"<b>-?\d", cell)
        assert re.search(r"\[-?[\d.]+, -?[\d.]+\]", cell)
        assert "n = 8" in cell


def test_win_rates_stand_in_a_table(page: str) -> None:
    """ppo's ratings are sft's plus one, always: 8 wins of 8; Wilson's lower end is 8 / (8 + z²)."""
    [row] = re.findall(r'<tr><th scope="row">ppo over sft</th>.*?</tr>', page)
    words = " ".join(" ".join(Page(row).words).split())
    assert words.startswith("ppo over sft 100.0% [67.6, 100.0] n = 8")
    assert "8 / 0 / 0" in words
    assert words.endswith("1.00 [1.00, 1.00] n = 8")


def test_percentages_are_written_in_american_style(page: str) -> None:
    assert not re.search(r"\d %", "".join(Page(page).words))


def test_a_loss_of_the_best_is_open() -> None:
    report = make_report([f"answer {i}" for i in range(12)])
    for example in report["examples"][-2:]:
        example["chosen"] = "largest loss of ppo against sft"
    page = render_html(report, {})
    opened, hidden = page[page.index('id="examples"') :].split("<details>")
    assert opened.count("<article") == 4
    assert opened.count("largest loss") == 1
    assert hidden.count("<article") == 8
    assert "10 prompts drawn at random, and 2 where the first of the ranking lost most" in page


def test_the_verdict_comes_first_and_the_settings_last(page: str) -> None:
    words = "".join(Page(page).words)
    headline = words.index("ppo beats every other checkpoint here")
    assert words.index("Which checkpoint to ship") < headline < words.index("The numbers")
    assert words.index("How this was measured") < words.index("rude: 3.0") < len(words)
    assert "0.8" in words[words.index("How this was measured") :]


def test_figures_take_their_colors_from_the_page(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--series-2)" in drawings
    assert not re.search(r"#[0-9a-f]{6}\b", drawings)


def test_the_same_report_gives_the_same_bytes(page: str) -> None:
    assert render_html(make_report([f"answer {i}" for i in range(8)]), METRICS) == page


def test_what_is_missing_is_left_out() -> None:
    report = make_report(["a", "b", "c"], rated=False, names=("sft", "ppo"))
    source = render_html(report, {})
    words = "".join(Page(source).words)
    assert "Rating ↑" not in words
    assert "Flaws" not in words
    assert "Pretraining" not in words
    assert "Only the reward model judged" in words
    assert source.count("<svg") == 1


def test_a_single_prompt_and_a_single_checkpoint_render() -> None:
    words = "".join(Page(render_html(make_report(["only"], names=("sft",)), {})).words)
    assert "nothing to choose from" in words
    assert "[no interval]" in words


def test_alarms_of_ppo_stand_with_its_curve_as_text() -> None:
    report = make_report(["one", "two"])
    alarm = {"name": "kl", "update": 7, "message": "it is <b>far</b>", "advice": "raise kl_coef"}
    report["ppo"] = {"updates": 9, "stopped": "collapsed in update 9", "alarms": [alarm]}
    rows = [{"step": i, "objective/scores": 0.1 * i, "objective/kl": 0.2} for i in (1, 2, 3)]
    html = render_html(report, {"ppo": rows})
    assert "Alarm in update 7: it is &lt;b&gt;far&lt;/b&gt;; raise kl_coef" in html
    assert html.count("collapsed in update 9") == 2  # above all else, and below the curve
