"""What is flawed, how it is scored and how noisy labelers are, in one block.

Fixed before any setting was tuned, and printed with the results. The mixture of the corpus
(``corpus.MIXTURE``, ``corpus.FLAWS_IN_REVIEW``) is a setting: it was chosen on seed 0.
"""

from __future__ import annotations

from typing import Any

# Demonstrations are imperfect on purpose, so that labels and reinforcement have something to mend.
FLAWED_DEMONSTRATION_SHARE = 0.85
TWO_FLAWS_SHARE = 0.40  # of the flawed ones; the rest carry one flaw
FLAW_WEIGHTS = {
    "rude": 0.22,
    "unfinished": 0.18,
    "too_short": 0.16,
    "missing_subject": 0.12,
    "wrong_fact": 0.11,
    "off_topic": 0.11,
    "repeated": 0.10,
}

# The rubric starts at the best rating, takes these off, and clips to 1..7.
BEST_RATING = 7
PENALTIES = {
    "missing_subject": 2.0,  # each
    "rude": 3.0,
    "wrong_fact": 2.0,  # each, at most WRONG_FACTS_COUNTED of them
    "unfinished": 2.0,
    "off_topic": 2.0,
    "wrong_form": 2.0,
    "ungrammatical": 2.0,
    "no_answer": 2.0,
    "repetition": 1.5,
    "too_short": 1.5,
}
WRONG_FACTS_COUNTED = 2

# A scripted labeler is the rubric, noise, and a personality.
LABELER_NOISE = 0.8  # standard deviation, in rating points
LABELER_RANDOM_SHARE = 0.03  # of the ratings are drawn blindly
LABELER_MAX_SEVERITY = 0.5  # a constant shift of all of a labeler's ratings
LABELER_PET_PEEVE = 0.5  # taken off once more for the one flag this labeler minds most
LABELER_ANSWER_FLIP_SHARE = 0.03
LABELER_SECONDS_PER_WORD = 0.4  # reading at 200 words a minute, and as long again to decide
LABELER_PACE_SPREAD = 0.3  # log-standard deviation of the time that a labeler takes
LABELER_TIE_WIDTH = 0.25  # equal ratings closer than this are ranked as a tie

# Of each kind of prompt, this share of contents (animal and object, …) is only ever held out.
HELDOUT_SHARE = 0.25


def world_constants() -> dict[str, Any]:
    """Every constant of this block by name, for printing with results."""
    return {name: value for name, value in sorted(globals().items()) if name.isupper()}
