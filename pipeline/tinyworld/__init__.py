"""A small invented world: a grammar that writes its texts, and a rubric that judges responses."""

from pipeline.tinyworld.constants import world_constants
from pipeline.tinyworld.corpus import MIXTURE, CopyProbe, copy_probes, make_corpus
from pipeline.tinyworld.demonstrations import make_demonstrations
from pipeline.tinyworld.prompts import make_prompts, parse_prompt, prompt_text
from pipeline.tinyworld.rubric import QUESTIONS, Rubric, Verdict
from pipeline.tinyworld.world import Task, World, build_world

__all__ = [
    "MIXTURE",
    "QUESTIONS",
    "CopyProbe",
    "Rubric",
    "Task",
    "Verdict",
    "World",
    "build_world",
    "copy_probes",
    "make_corpus",
    "make_demonstrations",
    "make_prompts",
    "parse_prompt",
    "prompt_text",
    "world_constants",
]
