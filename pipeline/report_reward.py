"""What the report says of the reward model: how far its scores can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.figures import gap_figure, reliability_figure
from pipeline.report_markup import cell, cells, figure, row, table, text

LENGTHS = {
    "better_is_longer": "where the better response is the longer one",
    "similar_length": "where both are about as long",
    "better_is_shorter": "where the better response is the shorter one",
}


def reward_section(report: Mapping[str, Any]) -> str:
    """The section, from the reward model's ``report.json``."""
    measured = report["validation"]
    rows = [
        row("Accuracy ↑", "held-out pairs ordered as the labelers did",
            [measured["accuracy_by_prompt"]], share=True),
        ceiling_row(report),
        row("By length alone", "what preferring the longer, or the shorter, response gets",
            [report["length_baseline"]["accuracy"]], share=True),
        row("Log-loss ↓", "nats per pair; 0.69 knows nothing", [measured["log_loss"]], 2),
        row("Brier score ↓", "squared error of its probabilities; 0.25 knows nothing",
            [measured["brier"]], 3),
        row("Calibration slope", "1 is calibrated; below, it is too sure (before normalization)",
            [measured["calibration_slope"]], 2),
        calibration_row(measured["ece"]),
    ]  # fmt: skip
    rows += stranger_rows(report)
    caption = (
        f"On {report['counts']['validation_prompts']} prompts that it did not learn from. Mean "
        "with its 95% interval, prompts as units; n counts prompts, or pairs where it says so."
    )
    parts = [table("reward-model", "The reward model", caption, ["Held out"], rows)]
    parts.append(details_table(measured))
    if report["questions"]:
        parts.append(questions_table(report["questions"]))
    parts.append(f'<div class="grid">{"".join(figures(report))}</div>')
    return "".join(parts)


def ceiling_row(report: Mapping[str, Any]) -> str:
    """The labelers' agreement with one another: no model can be measured to do much better."""
    note = (
        "how often two of the run's own labelers order two responses alike: the ceiling for these"
    )
    agreed = report["validation_labeler_agreement"] or report["labeler_agreement"]
    if agreed is None:
        return cells("Labelers agree", note, ["not measurable: nobody judged the same responses"])
    leaf = {"mean": agreed["agreement"], "ci95": agreed["ci95"], "n": agreed["pair_count"]}
    return row("Labelers agree", f"{note}; n counts pairs", [leaf], share=True)


def calibration_row(error: Mapping[str, Any]) -> str:
    """The expected calibration error, beside what chance alone would show."""
    if error["mean"] is None:
        value = "–"
    else:
        chance = error["expected_if_calibrated"]
        beside = "" if chance is None else f" a calibrated model would show {100 * chance:.1f}%"
        value = f"<b>{100 * error['mean']:.1f}%</b>{text(beside)}<small>n = {error['n']}</small>"
    note = "mean distance of its probabilities from what came true; n counts pairs"
    return cells("Calibration error ↓", note, [value])


def stranger_rows(report: Mapping[str, Any]) -> list[str]:
    """Accuracy on labelers who were held out, if any were."""
    strangers = report.get("held_out_labelers")
    if strangers is None:
        return []
    names = ", ".join(strangers["names"])
    return [
        row("On labelers held out", names, [strangers["accuracy_by_prompt"]], share=True),
        row("… less than on the others", "0 where it learned what people share",
            [strangers["less_than_of_the_others"]], share=True),
    ]  # fmt: skip


def details_table(measured: Mapping[str, Any]) -> str:
    """Accuracy by rating gap, by length and by labeler."""
    gaps, labelers = measured["accuracy_by_rating_gap"], measured["accuracy_by_labeler"]
    rows = [row(f"Rating gap {gap}", "", [leaf], share=True) for gap, leaf in gaps.items()]
    rows += [
        row(label.capitalize(), "", [measured["accuracy_by_length_difference"][key]], share=True)
        for key, label in LENGTHS.items()
    ]
    if len(labelers) > 1:
        rows += [row(f"Labeler {name}", "", [leaf], share=True) for name, leaf in labelers.items()]
    caption = (
        "Pairs ordered as the labelers did; n counts pairs. Longer is at least a quarter more "
        "characters."
    )
    return table("reward-details", "Where it is right", caption, ["Accuracy"], rows)


def questions_table(questions: Mapping[str, Mapping[str, Any]]) -> str:
    """Precision, recall and average precision of the yes/no heads."""
    rows: list[str] = []
    for name, measures in questions.items():
        average = measures["average_precision"]
        shares = [cell(measures[key], 1, share=True) for key in ("precision", "recall")]
        shares.append("–" if average is None else f"<b>{average:.2f}</b>")
        shares.append(cell(measures["base_rate"], 1, share=True))
        rows.append(cells(name.replace("_", " ").capitalize(), "", shares))
    heads = ["Precision", "Recall", "Average precision", "Said yes"]
    caption = "The reward model's answers to the labelers' questions, on held-out prompts."
    return table("reward-questions", "Its answers to the questions", caption, heads, rows)


def figures(report: Mapping[str, Any]) -> list[str]:
    """The reliability diagram, and the losses by epoch where there are several."""
    bins = report["validation"]["reliability"]
    pairs = sum(one["n"] for one in bins)
    caption = (
        f"{pairs} held-out pairs by how sure the scores are, before they are normalized: "
        "σ(difference). On the line, probabilities come true; below it, the model is too sure."
    )
    drawn = [figure("Does it know what it knows?", reliability_figure(bins), caption)]
    epochs: Sequence[Mapping[str, Any]] = report["epochs"]
    if len(epochs) > 1:
        caption = "Log-loss after each epoch. Where the two part, labels are learned by heart."
        drawn.append(figure("Learned and held out", gap_figure(epochs), caption))
    return drawn
