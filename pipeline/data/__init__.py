"""Text for pretraining: sources, what of them is held out, rows of tokens, and the mixture.

A source is read one document at a time (``sources.py``, from ``tables.py`` and ``texts.py``). The
data stage surveys all sources once (``survey.py``); ``heldout.py`` decides what no training sees.
``shards.py`` keeps tokens in memory-mapped files (``cache.py``), in rows that ``packing.py``
fills; ``mixture.py`` orders them. No torch here.
"""

from pipeline.data.cache import TOKENS_CACHE, Cache
from pipeline.data.mixture import (
    MixtureSchedule,
    format_mixture,
    heldout_sample,
    mixture_schedule,
    mixture_table,
)
from pipeline.data.shards import Rows, TokenizedSource, tokenize_sources, trained_tokenizer
from pipeline.data.sources import Source, SourceEntry, load_sources
from pipeline.data.survey import locate, survey_sources

__all__ = [
    "TOKENS_CACHE",
    "Cache",
    "MixtureSchedule",
    "Rows",
    "Source",
    "SourceEntry",
    "TokenizedSource",
    "format_mixture",
    "heldout_sample",
    "load_sources",
    "locate",
    "mixture_schedule",
    "mixture_table",
    "survey_sources",
    "tokenize_sources",
    "trained_tokenizer",
]
