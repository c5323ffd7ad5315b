"""All decoders of bytes from outside, by name."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import files, messages, page, streams
from tests.fuzz.decoder import Decoder

CORPUS = Path(__file__).parent / "corpus"
DECODERS: dict[str, Decoder] = {**messages.DECODERS, **files.DECODERS, **page.DECODERS, **streams.DECODERS}
