"""How fast PPO is, in episodes a second, against TRL's last PPO trainer at equal work.

    make .venv-trl/installed            once: TRL 1.12 in an environment of its own
    python -m benchmarks.ppo
    python -m benchmarks.ppo --size gpt2
    python -m benchmarks.ppo --quick

Both train four separate networks (policy, reference, reward model, critic) of the same random
weights on the same prompts: the quickstart's size, episodes, epochs, minibatches and precision, the
same number of threads. They take turns, an update a turn, each in a process of its own. Responses
are *forced* (the end token is impossible: each has its full length) or *natural* (it has a
probability of 4% at each token: 22 of 56 in the mean). Each figure is the median over the rounds;
``ratio_vs_trl_equal_work`` is the smaller of the two lengths' in fp32. Where bf16 is native, both
also train under autocast. ``ratio_vs_trl_shared_trunk`` is no equal work: ours with policy and
reward model as adapters on one model, the reference as that model without any, and a value head on
the policy's hidden states, so that policy and critic share one forward (``ppo.lora`` with
``ppo.critic_trunk: policy``); against TRL's four networks.

``roofline_fraction`` is the share of the measured time that the update's arithmetic on real tokens
would take at the speed of this machine's matrix products (``ppo_work.least_seconds``).

What cannot be made equal:

- TRL pads prompts on the left and responses on the right and computes both in every forward, and
  logits of all positions; its scoring and training forwards are as long as the longest of all.
- TRL puts the score, and a value, one slot after the end token where there is room.
- Each minibatch is one forward in TRL: accumulation over smaller parts changes how many steps its
  optimizer takes. Ours are as the quickstart sets them. For scoring, TRL has the faster of a whole
  batch and a quarter, tried in its first turns.
- TRL clips no gradients (`max_grad_norm` is not honored) and has one optimizer; ours clips and has
  two. All are AdamW. Neither uses dropout, evaluates or saves. Ours checks sampler against trainer
  in the first update, which is not timed.
- In bf16 TRL's reference, reward model and sampler stay in fp32, and so do the reward model and the
  sampler here. TRL's own `bf16=True` changes nothing with this transformers; accelerate is told.
- Our process keeps freed memory and shares sampling out among the cores, as our stages do. TRL's is
  as Python starts it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.ppo_work import Work, least_seconds, limits_of, write_work
from benchmarks.turns import ROOT, Contestant
from pipeline.errors import EXIT_CODE, UserError
from pipeline.precision import has_native_bf16

ENVIRONMENT = ROOT / ".venv-trl"
ROUNDS = 7
WARM_UP = 5  # TRL's first update, and two of each of its choices
Answers = dict[str, list[dict[str, Any]]]


def commands(folder: Path, peer: Path | None) -> dict[str, list[str]]:
    """Who takes part, and how it is started; without TRL where ``peer`` is None."""
    ours = [sys.executable, "-P", "-m", "benchmarks.ppo_ours", str(folder)]
    started = {"ours": [*ours, "four_networks"], "shared_trunk": [*ours, "shared_trunk"]}
    if peer is not None:
        started["trl"] = [str(peer), "-P", "-m", "benchmarks.ppo_trl", str(folder)]
    return started


def in_turns(started: dict[str, list[str]], rounds: int) -> Answers:
    """What each process said of each of its updates, warm-up left out."""
    contestants = {name: Contestant(command) for name, command in started.items()}
    answers: Answers = {name: [] for name in contestants}
    try:
        for turn in range(WARM_UP + rounds):
            for name, contestant in contestants.items():
                answer = contestant.turn()
                if turn >= WARM_UP:
                    answers[name].append(answer)
    finally:
        for contestant in contestants.values():
            contestant.close()
    return answers


def figures_of(answers: Answers, work: Work, prompt_tokens: float) -> dict[str, dict[str, float]]:
    """For each process: medians over its updates, and shares over all of them."""
    epochs, batch = work.ppo.num_ppo_epochs, work.ppo.batch_size
    found: dict[str, dict[str, float]] = {}
    for name, turns in answers.items():
        seconds = statistics.median(turn["seconds"] for turn in turns)
        rows, slots, tokens = (sum(turn[k] for turn in turns) for k in ("rows", "slots", "tokens"))
        assert rows == len(turns) * epochs * batch, f"{name} did other work"
        found[name] = {
            "episodes_per_second": batch / seconds,
            "seconds": seconds,
            "response_tokens": tokens / rows - prompt_tokens,
            "padding_fraction": 1 - tokens / slots,
            "peak_gigabytes": turns[-1]["peak_bytes"] / 1e9,
        }
    return found


def compare(work: Work, rounds: int, peer: Path | None) -> dict[str, Any]:
    """All figures of one comparison; the ratios only where TRL takes part."""
    with tempfile.TemporaryDirectory() as name:
        prompt_tokens = write_work(work, Path(name))
        answers = in_turns(commands(Path(name), peer), rounds)
    figures: dict[str, Any] = figures_of(answers, work, prompt_tokens)
    limits = limits_of(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"), [work.precision]
    )
    for one in (figures[who] for who in ("ours", "trl") if who in figures):
        least = least_seconds(work, prompt_tokens, one["response_tokens"], limits)
        one["roofline_fraction"] = least / one["seconds"]
    for phase in answers["ours"][0]["phases"]:
        times = [turn["phases"][phase] for turn in answers["ours"]]
        figures["ours"][f"{phase}_seconds"] = statistics.median(times)
    figures["limits"] = limits
    if "trl" in figures:
        theirs, last = figures["trl"], answers["trl"][-1]
        figures["ratio_equal_work"] = theirs["seconds"] / figures["ours"]["seconds"]
        figures["ratio_shared_trunk"] = theirs["seconds"] / figures["shared_trunk"]["seconds"]
        theirs["rows_scored_at_once"] = last["rows_at_once"]
        figures["versions"] = {name: last[name] for name in ("torch", "transformers", "trl")}
        assert last["threads"] == answers["ours"][-1]["threads"], (
            "they use other numbers of threads"
        )
    return figures


def peer_of(path: Path | None, quick: bool) -> Path | None:
    """The Python that has TRL 1.12; None where it is missing and ``quick`` goes without.

    Raises:
        UserError: it is missing.
    """
    python = path or ENVIRONMENT / "bin" / "python"
    if python.exists():
        return python
    if quick and path is None:
        return None
    raise UserError(python, "there is no TRL 1.12 here.", "make .venv-trl/installed")


def row_of(name: str, figures: dict[str, Any]) -> str:
    """A comparison as a row of the table; what is TRL's is empty without it."""
    ours, theirs = figures["ours"], figures.get("trl", {})
    cells = [
        name,
        *of_both("response_tokens", ".1f", ours, theirs),
        *of_both("episodes_per_second", ".1f", ours, theirs),
        *of_both("ratio_equal_work", ".2f", figures),
        *of_both("episodes_per_second", ".1f", figures["shared_trunk"]),
        *of_both("ratio_shared_trunk", ".2f", figures),
        *of_both("padding_fraction", ".0%", ours, theirs),
        *of_both("peak_gigabytes", ".2f", ours, theirs),
        *of_both("roofline_fraction", ".0%", ours, theirs),
    ]
    return f"| {' | '.join(cells)} |"


def of_both(figure: str, style: str, *found: dict[str, Any]) -> list[str]:
    """The figure as each has it."""
    return [format(one[figure], style) if figure in one else "" for one in found]


def ratios_of(compared: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The ratios by their promised names, and for both lengths together the smaller one."""
    found: dict[str, float] = {}
    for kind in ("equal_work", "shared_trunk"):
        for suffix in ("", "_bf16"):
            each = {
                f"ratio_vs_trl_{kind}_{length}{suffix}": figures[f"ratio_{kind}"]
                for length in ("forced", "natural")
                if f"ratio_{kind}" in (figures := compared.get(f"{length}{suffix}", {}))
            }
            if each:
                found |= each | {f"ratio_vs_trl_{kind}{suffix}": min(each.values())}
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the comparisons, prints the table and the JSON line, and returns what it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="show only that it runs")
    parser.add_argument("--size", choices=("quickstart", "gpt2"), default="quickstart")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--trl-python", type=Path, help="of an environment that has TRL 1.12")
    options = parser.parse_args(arguments)
    peer = peer_of(options.trl_python, options.quick)
    size, rounds = ("tiny", 1) if options.quick else (options.size, options.rounds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compared: dict[str, dict[str, Any]] = {}
    print("| responses | tokens | episodes/s | TRL | ratio | shared trunk | ratio | padding | TRL "
          "| GB | TRL | of the limit |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for precision in (
        ("fp32", "bf16") if has_native_bf16(device) and not options.quick else ("fp32",)
    ):
        for length in ("forced", "natural"):
            name = length if precision == "fp32" else f"{length}_{precision}"
            compared[name] = compare(Work(size, length == "natural", precision), rounds, peer)
            print(row_of(name, compared[name]), flush=True)
    result: dict[str, Any] = ratios_of(compared) | compared
    result |= {
        "size": size,
        "n": rounds,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CODE)
