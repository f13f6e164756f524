"""The data stage's one reading of all sources: what is in them, and what is held out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.chain import dataset_folder
from pipeline.config import CorpusSource, TextSource
from pipeline.data.heldout import HELDOUT_FILE, SourceScan, heldout_texts, scan_source
from pipeline.data.sources import SOURCES_FILE, SourceEntry, place_sha256, read_documents
from pipeline.data.tables import latest_revision


def locate(source: TextSource, root: Path) -> tuple[Path | None, str | None]:
    """The file or folder of a source below ``root``, or None and its revision on the hub now.

    Raises:
        UserError: the hub does not have it, or cannot be reached.
    """
    if source.path is not None:
        return root / source.path, None
    folder = dataset_folder(source, root)
    return (folder, None) if folder else (None, latest_revision(str(source.dataset)))


def survey_sources(
    sources: Sequence[CorpusSource],
    root: Path,
    corpus: Path,
    *,
    in_run: bool,
    seed: int,
    heldout_share: float,
) -> list[SourceEntry]:
    """The entries of ``sources.json``, written into the folder ``corpus`` with ``heldout.npy``.

    Args:
        root: where the sources' paths start; ``in_run`` says that it is ``corpus`` itself.
        heldout_share: about this share of each source's documents is held out.

    Raises:
        UserError: a source is missing, broken or without text.
    """
    places = [locate(source, root) for source in sources]
    scans = [
        scan_source(read_documents(source, *place), source.name, seed, corpus)
        for source, place in zip(sources, places, strict=True)
    ]
    heldout = heldout_texts(scans, heldout_share)
    np.save(corpus / HELDOUT_FILE, heldout, allow_pickle=False)
    entries = [
        _entry(source, place, revision, in_run, scan, scan.count_among(heldout))
        for source, (place, revision), scan in zip(sources, places, scans, strict=True)
    ]
    listing = [entry.model_dump(mode="json") for entry in entries]
    text = json.dumps(listing, ensure_ascii=False, indent=1) + "\n"
    (corpus / SOURCES_FILE).write_text(text, encoding="utf-8")
    return entries


def _entry(
    source: CorpusSource,
    place: Path | None,
    revision: str | None,
    in_run: bool,
    scan: SourceScan,
    heldout_documents: int,
) -> SourceEntry:
    return SourceEntry(
        **source.model_dump(),
        in_run=in_run,
        sha256=place_sha256(place) if place is not None else None,
        revision=revision,
        documents=scan.documents,
        heldout_documents=heldout_documents,
        bytes=scan.bytes,
        empty_rows=scan.empty_rows,
    )
