"""The verdict says no more than the intervals do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.comparison import CheckpointResult, JudgedResponse, build_report
from pipeline.verdict import decide, interval, number, percent, worse_answers


def make(
    name: str, ratings: Any, rude_share: float = 0.1, length: int = 20, rated: bool = True
) -> CheckpointResult:
    """A checkpoint with these scores; the first ``rude_share`` of its responses are rude."""
    rows = [
        JudgedResponse(
            prompt_id=f"p{i}",
            prompt="prompt",
            text=f"{name} {i}",
            finished=True,
            length_tokens=length + i % 5,
            rating=float(rating) if rated else None,
            answers={"rude": i < rude_share * len(ratings)} if rated else {},
            reward=float(rating),
            kl_to_sft=0.0,
            token_losses=[1.0],
        )
        for i, rating in enumerate(ratings)
    ]
    return CheckpointResult(name, name, rows)


def report_of(*results: CheckpointResult, judge: str = "tinyworld") -> dict[str, Any]:
    return build_report(results, judge=judge, seed=0, bootstrap_samples=20, examples=2, settings={})


def noisy(mean: float, seed: int, n: int = 200) -> Any:
    return np.clip(np.random.default_rng(seed).normal(mean, 1.0, n).round(), 1, 7)


def test_a_clear_winner_is_shipped() -> None:
    verdict = decide(report_of(make("base", noisy(2, 0)), make("sft", noisy(5.5, 1))))
    assert verdict.name == "sft"
    assert verdict.headline.startswith("Ship sft")
    assert verdict.warnings == []


def test_equal_checkpoints_have_no_winner() -> None:
    verdict = decide(report_of(make("sft", noisy(5, 0)), make("ppo", noisy(5, 1))))
    assert verdict.name is None
    assert "No clear winner" in verdict.headline
    assert not any("Ship" in line for line in [verdict.headline, *verdict.evidence])


def test_the_best_must_beat_every_other_one() -> None:
    verdict = decide(
        report_of(make("base", noisy(2, 0)), make("sft", noisy(5, 1)), make("ppo", noisy(5, 2)))
    )
    assert verdict.name is None
    assert "base" not in verdict.headline


def test_an_earlier_checkpoint_can_win() -> None:
    report = report_of(make("sft", noisy(6, 0)), make("ppo", noisy(3, 1), rude_share=0.0))
    verdict = decide(report)
    assert verdict.name == "sft"
    # The report holds ppo against sft; from sft's side its 10% rude responses are 10 points more.
    [(question, leaf)] = worse_answers(report, "sft", "ppo")
    assert question == "rude"
    assert leaf["mean"] > 0.09
    assert any("rude" in warning for warning in verdict.warnings)


def test_a_worse_flaw_is_named() -> None:
    verdict = decide(
        report_of(make("sft", noisy(3, 0), 0.05), make("ppo", noisy(5.5, 1), rude_share=0.3))
    )
    assert verdict.name == "ppo"
    assert any(
        "rude" in warning and "30.0% against 5.0%" in warning for warning in verdict.warnings
    )
    assert not any("No flaw is shown" in line for line in verdict.evidence)


def test_a_flaw_within_noise_is_evidence_and_no_warning() -> None:
    verdict = decide(
        report_of(make("sft", noisy(3, 0), 0.1), make("ppo", noisy(5.5, 1), rude_share=0.11))
    )
    assert verdict.warnings == []
    assert any(
        "within the interval: rude +1.0 percentage points" in line for line in verdict.evidence
    )


def test_the_best_of_a_bad_lot_is_not_shipped() -> None:
    verdict = decide(report_of(make("base", noisy(1, 0)), make("ppo", noisy(2.4, 1))))
    assert verdict.name is None
    assert "too low to ship" in verdict.headline


def test_the_reward_model_alone_is_no_proof() -> None:
    sft, ppo = make("sft", noisy(2, 0), rated=False), make("ppo", noisy(5, 1), rated=False)
    verdict = decide(report_of(sft, ppo, judge="reward"))
    assert verdict.name is None
    assert "only the reward model judged" in verdict.headline
    assert any("Only the reward model judged" in warning for warning in verdict.warnings)


def test_an_advantage_that_is_length_is_called_so() -> None:
    rng = np.random.default_rng(0)
    sft, ppo = make("sft", np.full(400, 4.0)), make("ppo", np.full(400, 4.0))
    rows = []
    for row in ppo.responses:  # whoever is longer wins, and ppo is mostly longer
        longer = rng.random() < 0.65
        length, rating = (60, 5.0) if longer else (1, 3.0)
        rows.append(replace(row, length_tokens=length, rating=rating))
    verdict = decide(report_of(sft, CheckpointResult("ppo", "ppo", rows)))
    assert any("it may be length" in warning for warning in verdict.warnings)


def test_empty_and_repeated_responses_are_called_out() -> None:
    rows = [replace(row, text="") for row in make("ppo", noisy(6, 1)).responses]
    verdict = decide(report_of(make("sft", noisy(3, 0)), CheckpointResult("ppo", "ppo", rows)))
    assert any("are empty" in warning for warning in verdict.warnings)
    assert any("repeat each other" in warning for warning in verdict.warnings)


def test_one_checkpoint_is_no_choice() -> None:
    verdict = decide(report_of(make("sft", noisy(5, 0))))
    assert verdict.name is None
    assert "nothing to choose" in verdict.headline


def test_identical_checkpoints_have_no_winner() -> None:
    verdict = decide(report_of(*(make(name, noisy(5, 0)) for name in ("base", "sft", "ppo"))))
    assert verdict.name is None
    assert verdict.headline == "No clear winner: base is not shown to be better than sft and ppo."


def test_numbers_are_written_in_american_style() -> None:
    assert percent(0.7467, 1) == "74.7%"
    assert percent(None) == "–"
    assert interval([0.7049, 0.7834], 100, 1) == "[70.5, 78.3]"
    assert interval([-0.001, 2.5e7]) == "[0.00, 2.5e+07]"


def test_one_prompt_decides_nothing() -> None:
    verdict = decide(report_of(make("sft", [1.0]), make("ppo", [7.0])))
    assert verdict.name is None
    assert any("[no interval]" in line for line in verdict.evidence)
    assert number(None) == "–"


def test_a_verdict_does_not_depend_on_which_of_two_is_named_first() -> None:
    """The worse one stands later in the chain: its pair is read the other way round."""
    better, worse = make("a", noisy(5.5, 1), length=30), make("b", noisy(3, 0))
    first, second = decide(report_of(better, worse)), decide(report_of(worse, better))
    assert first.name == second.name == "a"
    assert first.evidence == second.evidence
    assert first.warnings == second.warnings
    assert "at equal length" in first.evidence[1]


def test_the_best_of_n_is_no_model_to_ship_without_a_word() -> None:
    report = report_of(make("sft", noisy(2, 0)), make("best_of_n", noisy(5.5, 1)))
    report["settings"] = {"best_of_n": {"n": 8}}
    report["ppo"] = {"updates": 9, "stopped": "collapsed", "alarms": []}
    (warning,) = decide(report).warnings  # not of PPO, which is not what is shipped
    assert "sft answers 8 times and the reward model chooses" in warning
    assert warning.endswith("sft is the next.")


def test_alarms_and_an_early_end_of_ppo_are_looked_at_first() -> None:
    report = report_of(make("sft", noisy(2, 0)), make("ppo", noisy(5.5, 1)))
    alarm = {"name": "kl", "update": 7, "message": "the divergence is 120", "advice": "more"}
    report["ppo"] = {"updates": 9, "stopped": None, "alarms": [alarm]}
    assert decide(report).warnings[0] == "PPO raised an alarm in update 7: the divergence is 120."
    report["ppo"]["stopped"] = "collapsed in update 9"
    first = decide(report).warnings[0]
    assert first == "PPO was ended early, after 9 updates: collapsed in update 9"
