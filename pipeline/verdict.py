"""Which checkpoint to ship, said only as far as the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIDDLE_OF_SCALE = 4


@dataclass(frozen=True)
class Verdict:
    """The answer to "which checkpoint to ship".

    Attributes:
        name: the checkpoint to ship, or None if no interval says so or all are rated too low.
        headline: one sentence.
        evidence: the numbers behind it.
        warnings: what got worse, or what these numbers cannot show.
    """

    name: str | None
    headline: str
    evidence: list[str]
    warnings: list[str]


def decide(report: Mapping[str, Any]) -> Verdict:
    """Ships the checkpoint whose win rate against every other one lies, interval and all, above ½.

    Not if its rating lies, interval and all, below the middle of the scale, and not where the
    reward model judged alone: PPO was trained to please it.
    """
    ranked = [row["name"] for row in report["ranking"]]
    best = ranked[0]
    if len(ranked) == 1:
        return Verdict(None, f"Only {best} was compared: there is nothing to choose from.", [], [])
    open_against = [
        other for other in ranked[1:] if not _above(_pair(report, best, other)["ci95"], 0.5)
    ]
    evidence = [_rating_sentence(report, best)] + [
        _pair_sentence(_pair(report, best, other)) for other in ranked[1:]
    ]
    evidence += _answer_sentences(report, best, (open_against or ranked[1:])[0])
    if open_against:
        names = " and ".join(open_against)
        headline = f"No clear winner: {best} is not shown to be better than {names}."
        return Verdict(None, headline, evidence, _warnings(report, best, open_against[0]))
    warnings = _warnings(report, best, ranked[1])
    rating = report["checkpoints"][best]["rating"]
    if rating is None:
        headline = f"{best} scores highest, but only the reward model judged: ask people, too."
        return Verdict(None, headline, evidence, warnings)
    if _below(rating, MIDDLE_OF_SCALE):
        headline = f"{best} beats every other checkpoint here, but is rated too low to ship."
        return Verdict(None, headline, evidence, warnings)
    headline = f"Ship {best}: it beats every other checkpoint compared here."
    return Verdict(best, headline, evidence, warnings)


def worse_answers(report: Mapping[str, Any], a: str, b: str) -> list[tuple[str, dict[str, Any]]]:
    """The questions that a's responses raise more often than b's, by the paired interval."""
    differences = _pair(report, a, b)["answer_differences"]
    return [(name, leaf) for name, leaf in differences.items() if _above(leaf["ci95"], 0.0)]


def percent(share: float | None, digits: int = 0) -> str:
    """A share as a percentage: 74.7%."""
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def interval(ends: list[float] | None, scale: float = 1.0, digits: int = 2) -> str:
    """``[lower, upper]``, or a note that n is too small for one."""
    if ends is None:
        return "[no interval]"
    lower, upper = (decimal(scale * end, digits) for end in ends)
    return f"[{lower}, {upper}]"


def number(leaf: Mapping[str, Any] | None, digits: int = 2) -> str:
    """``mean [lower, upper]`` of a leaf."""
    if leaf is None or leaf["mean"] is None:
        return "–"
    return f"{decimal(leaf['mean'], digits)} {interval(leaf['ci95'], digits=digits)}"


def percentage(share: float | None, ends: list[float] | None, digits: int = 1) -> str:
    """``74.7% [70.5, 78.3]`` of shares."""
    return f"{percent(share, digits)} {interval(ends, 100, digits)}"


def decimal(value: float, digits: int) -> str:
    """A rounded number: never −0, and in powers of ten where it is too long for a table."""
    if abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:z.{digits}f}"


def _pair(report: Mapping[str, Any], a: str, b: str) -> dict[str, Any]:
    """The comparison of a with b, seen from a whichever way the report holds it."""
    for pair in report["pairs"]:
        if (pair["a"], pair["b"]) == (a, b):
            return pair
        if (pair["a"], pair["b"]) == (b, a):
            return _turned(pair)
    raise ValueError(f"the report does not compare {a} with {b}")


def _turned(pair: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **pair,
        "a": pair["b"],
        "b": pair["a"],
        "wins": pair["losses"],
        "losses": pair["wins"],
        "win_rate": _minus(1, pair["win_rate"]),
        "ci95": _reflect(pair["ci95"], 1),
        "length_controlled_win_rate": _minus(1, pair["length_controlled_win_rate"]),
        "length_controlled_ci95": _reflect(pair["length_controlled_ci95"], 1),
        "score_difference": _negated(pair["score_difference"]),
        "answer_differences": {
            question: _negated(leaf) for question, leaf in pair["answer_differences"].items()
        },
    }


def _negated(leaf: Mapping[str, Any]) -> dict[str, Any]:
    return {"mean": _minus(0, leaf["mean"]), "ci95": _reflect(leaf["ci95"], 0), "n": leaf["n"]}


def _minus(total: float, value: float | None) -> float | None:
    return None if value is None else total - value


def _reflect(ends: list[float] | None, total: float) -> list[float] | None:
    return None if ends is None else [total - ends[1], total - ends[0]]


def _above(ends: list[float] | None, threshold: float) -> bool:
    return ends is not None and ends[0] > threshold


def _rating_sentence(report: Mapping[str, Any], name: str) -> str:
    checkpoint = report["checkpoints"][name]
    if checkpoint["rating"] is None:
        leaf = checkpoint["reward"]
        return f"{name} has a mean reward of {number(leaf)} over {_prompts(leaf['n'])}."
    leaf = checkpoint["rating"]
    return f"{name} is rated {number(leaf)} of 7 on {_prompts(leaf['n'])}."


def _pair_sentence(pair: Mapping[str, Any]) -> str:
    sentence = (
        f"Against {pair['b']} it wins {percentage(pair['win_rate'], pair['ci95'], 0)} "
        f"of {_prompts(pair['n'])}, ties counted half"
    )
    controlled = pair["length_controlled_win_rate"], pair["length_controlled_ci95"]
    return f"{sentence}; at equal length {percentage(*controlled, 0)}."


def _answer_sentences(report: Mapping[str, Any], best: str, other: str) -> list[str]:
    """What the intervals leave open about flaws; what they show is a warning."""
    differences = _pair(report, best, other)["answer_differences"]
    if not differences:
        return []
    worse = {name for name, _ in worse_answers(report, best, other)}
    up = [
        f"{_words(name)} +{_points(leaf)}"
        for name, leaf in differences.items()
        if (leaf["mean"] or 0) > 0 and name not in worse
    ]
    sentences = [] if worse else [f"No flaw is shown to be more frequent than in {other}."]
    if up:
        sentences.append(f"Up against {other}, but within the interval: {', '.join(up)}.")
    return sentences


def _points(leaf: Mapping[str, Any]) -> str:
    ends = interval(leaf["ci95"], 100, 1)
    return f"{100 * leaf['mean']:.1f} percentage points {ends} (n = {leaf['n']})"


def _prompts(n: int) -> str:
    return "1 prompt" if n == 1 else f"{n} prompts"


def _words(question: str) -> str:
    return question.replace("_", " ")


def _warnings(report: Mapping[str, Any], best: str, other: str) -> list[str]:
    pair, checkpoint = _pair(report, best, other), report["checkpoints"][best]
    warnings = _training_warnings(report) if best == "ppo" else []
    if best == "best_of_n":
        n = report["settings"].get("best_of_n", {}).get("n", "n")
        warnings.append(
            f"best_of_n is no model: sft answers {n} times and the reward model chooses, at {n} "
            f"times the cost of an answer. {other} is the next."
        )
    for question, leaf in worse_answers(report, best, other):
        a, b = (report["checkpoints"][name]["answers"][question]["mean"] for name in (best, other))
        warnings.append(
            f"“{_words(question)}” is more frequent than in {other}: {percent(a, 1)} against "
            f"{percent(b, 1)}, a difference of {_points(leaf)}."
        )
    if _above(pair["ci95"], 0.5) and not _above(pair["length_controlled_ci95"], 0.5):
        warnings.append(
            f"At equal response length the advantage over {other} is not shown: it may be length."
        )
    distinct, before = (report["checkpoints"][name]["distinct_answers"] for name in (best, other))
    if _below(distinct, 0.9 * (before["mean"] or 0)):
        warnings.append(
            f"Its responses repeat each other: "
            f"{percentage(distinct['mean'], distinct['ci95'])} of them are distinct, against "
            f"{percentage(before['mean'], before['ci95'])} for {other} (n = {distinct['n']})."
        )
    if (checkpoint["empty"]["mean"] or 0) >= 0.01:
        leaf = checkpoint["empty"]
        warnings.append(
            f"{percentage(leaf['mean'], leaf['ci95'])} of its responses are empty "
            f"(n = {leaf['n']})."
        )
    if checkpoint["rating"] is None:
        warnings.append(
            "Only the reward model judged, and what was optimized was trained to please it: have "
            "people rate these responses before shipping."
        )
    return warnings


def _training_warnings(report: Mapping[str, Any]) -> list[str]:
    """How PPO ended early, or what it warned of."""
    training = report.get("ppo") or {}
    if training.get("stopped"):
        return [f"PPO was ended early, after {training['updates']} updates: {training['stopped']}"]
    return [
        f"PPO raised an alarm in update {alarm['update']}: {alarm['message']}."
        for alarm in training.get("alarms", [])
    ]


def _below(leaf: Mapping[str, Any] | None, threshold: float) -> bool:
    return leaf is not None and leaf["ci95"] is not None and leaf["ci95"][1] < threshold
