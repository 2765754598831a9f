"""`load_calibration_set`: all steps from files to rows of tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from q3edge.areas import AREAS
from q3edge.calibration.data.calibration_set import CalibrationSet, SourceCount
from q3edge.calibration.data.cleaning import clean_document, passages
from q3edge.calibration.data.dialogues import DocumentEncoder
from q3edge.calibration.data.documents import Document, seeded_rank
from q3edge.calibration.data.duplicates import find_duplicates
from q3edge.calibration.data.files import SourceFile, open_sources
from q3edge.calibration.data.mixture import Mixture, mix, normalised_shares
from q3edge.calibration.data.notices import Losses, notices_of
from q3edge.calibration.data.quality import rejection
from q3edge.calibration.data.readers import read_documents
from q3edge.calibration.data.tagging import tag_document
from q3edge.errors import InputError, UsageError
from q3edge.runtime.text.chat_template import ChatTemplate
from q3edge.runtime.text.tokenizer import Tokenizer

MIN_SEQ_LEN = 16
_MIN_PASSAGE = 2000  # characters; longer rows get longer passages
_MIN_CANDIDATES = 4_000_000  # characters of one file that are considered
_CANDIDATES_PER_TOKEN = 64


def load_calibration_set(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    *,
    samples: int,
    seq_len: int,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    context: int | None = None,
) -> CalibrationSet:
    """Load calibration tokens from the files and folders in `paths`, or from the built-in set if there are none.

    The result depends on the files' names and contents, the options and the tokenizer; not on the order of `paths`.
    UsageError: samples < 1, seq_len out of 16..`context`, bad shares. InputError: a file that cannot be read (with
    file and line), nothing left after filtering, too little for one row. ResourceError: a reader's library is missing.
    """
    _check_sizes(samples, seq_len, context)
    asked = normalised_shares(shares)
    files, skipped = open_sources(paths)
    losses = Losses(len(files), skipped)
    limit = max(_MIN_CANDIDATES, _CANDIDATES_PER_TOKEN * samples * seq_len)
    documents = _read(files, max(_MIN_PASSAGE, 8 * seq_len), limit, seed, losses)
    kept = _without_duplicates(_worthwhile(map(tag_document, documents), losses), losses)
    _check_left(kept, asked, losses)
    encoder = DocumentEncoder(tokenizer, template)
    try:
        mixture = mix(kept, encoder.encode, encoder.separator, asked, samples=samples, seq_len=seq_len, seed=seed)
    except InputError as error:
        raise InputError(f"{error}{_refusals(encoder)}") from None
    for document in encoder.refused:
        losses.drop(document.source, "refused")
    losses.plain_dialogues = encoder.plain
    return _assemble(files, kept, mixture, losses, asked, samples, seed, encoder.refused)


def _check_sizes(samples: int, seq_len: int, context: int | None) -> None:
    if samples < 1:
        raise UsageError(f"samples {samples}: expected at least 1")
    if seq_len < MIN_SEQ_LEN or (context is not None and seq_len > context):
        to = " or more" if context is None else f"..{context}, the model's context"
        raise UsageError(f"sequence length {seq_len}: expected {MIN_SEQ_LEN}{to}")


def _read(files: Sequence[SourceFile], passage: int, limit: int, seed: int, losses: Losses) -> list[Document]:
    """Read clean passages of all files; of a huge file a seeded choice of `limit` characters, in the file's order."""
    documents = []
    for source, file in enumerate(files):
        inside: list[Document] = []
        read, bad = read_documents(file, source)
        losses.add_bad(source, file.name, bad)
        for document in read:
            clean, damaged = clean_document(document)
            losses.repaired += int(damaged)
            inside += passages(clean, passage)
        losses.read[source] = len(inside) + len(bad)
        if sum(len(document.plain_text) for document in inside) > limit:
            inside = _chosen(inside, limit, seed)
            losses.drop(source, "beyond-limit", losses.read[source] - len(bad) - len(inside))
        documents += inside
    return documents


def _chosen(documents: Sequence[Document], limit: int, seed: int) -> list[Document]:
    chosen, left = [], limit
    for index in sorted(range(len(documents)), key=lambda i: seeded_rank(seed, documents[i].plain_text)):
        left -= len(documents[index].plain_text)
        chosen.append(index)
        if left <= 0:
            break
    return [documents[index] for index in sorted(chosen)]


def _worthwhile(documents: Iterable[Document], losses: Losses) -> list[Document]:
    kept = []
    for document in documents:
        reason = rejection(document)
        if reason is None:
            kept.append(document)
        else:
            losses.drop(document.source, reason)
    return kept


def _without_duplicates(documents: Sequence[Document], losses: Losses) -> list[Document]:
    found = find_duplicates([document.plain_text for document in documents])
    for index, reason in found.items():
        losses.drop(documents[index].source, reason)
    return [document for index, document in enumerate(documents) if index not in found]


def _check_left(kept: Sequence[Document], asked: Mapping[str, float], losses: Losses) -> None:
    if not kept:
        raise InputError(f"calibration data: nothing is left after filtering ({losses.summary()}); give other text")
    areas = Counter(document.area for document in kept)
    if not areas.keys() & asked.keys():
        found = ", ".join(f"{count} of {area}" for area, count in sorted(areas.items(), key=str))
        raise InputError(f"calibration data: no document of {', '.join(asked)} as the shares ask; found {found}")


def _refusals(encoder: DocumentEncoder) -> str:
    return f"; the chat template refused {len(encoder.refused)} dialogues" if encoder.refused else ""


def _assemble(
    files: Sequence[SourceFile],
    kept: Sequence[Document],
    mixture: Mixture,
    losses: Losses,
    asked: Mapping[str, float],
    samples: int,
    seed: int,
    refused: Sequence[Document],
) -> CalibrationSet:
    tokens = np.bincount(mixture.owners.ravel(), minlength=len(kept))
    by_area: Counter[str] = Counter()
    by_language: Counter[str] = Counter()
    by_source: Counter[int] = Counter()
    areas: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for document, count in zip(kept, tokens.tolist()):
        by_area[str(document.area)] += count
        by_language[str(document.language)] += count
        by_source[document.source] += count
        areas[document.source][str(document.area)] += 1
    for document in refused:
        areas[document.source][str(document.area)] -= 1
    used = {area: by_area[area] / tokens.sum() for area in AREAS if by_area[area]}
    sources = tuple(
        SourceCount(
            name=file.name,
            areas={area: areas[source][area] for area in AREAS if areas[source][area]},
            read=losses.read[source],
            kept=losses.read[source] - losses.dropped[source].total(),
            tokens=by_source[source],
            dropped=dict(sorted(losses.dropped[source].items())),
        )
        for source, file in enumerate(files)
    )
    languages = {language: count for language, count in sorted(by_language.items()) if count}
    notices = notices_of(losses, mixture, asked, used, samples)
    return CalibrationSet(mixture.token_ids, sources, used, languages, seed, notices)
