"""Trains a dictionary from the store's own spans, once there are enough, and again as it grows.

Agents repeat themselves: the same instructions, tools and keys in every span. With a dictionary a
packed span of a few KB is a third smaller, and cheaper to pack. The training has a thread of its
own, for half a second; the writer's thread only gathers samples, in turns, and stores what came of
it.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everyspan.server.stores.sqlite_codec import FIRST_DICTIONARY, Packer
from everyspan.server.stores.sqlite_writer import Transaction

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

FIRST_AT_SPANS = 2_000
GROWTH = 10
"""A new dictionary once there are so many times the spans of the last; chosen, not measured."""
DICTIONARY_BYTES = 100 * 1024
_SAMPLES = 1_000
_SAMPLE_BYTES_MAX = 16 * 1024
_POLL_S = 0.5

_LAST_SQL = "SELECT codec, seq FROM dictionaries ORDER BY codec DESC LIMIT 1"
_SAMPLE_SQL = (
    "SELECT substr(unpack(codec, body), 1, ?) FROM payloads WHERE seq >= ? ORDER BY seq LIMIT 1"
)
_INSERT_SQL = "INSERT INTO dictionaries (codec, seq, body) VALUES (?, ?, ?)"

_log = logging.getLogger("everyspan.server.store")


class Trainer:
    """A follower of the writer (W5), which tells `packer` of new dictionaries."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._next_at_spans = 0
        """Nothing to do before the store has had so many; 0: what there is, is yet to be read."""
        self._wanted: Iterator[int] | None = None
        self._samples: list[bytes] = []
        self._training: _Training | None = None

    def follow(self, transaction: Transaction, budget_s: float) -> float | None:
        """Gather samples, begin a training, or store what came of one."""
        if self._training is not None:
            if self._training.is_alive():
                return _POLL_S
            dictionary, self._training = self._training.dictionary, None
            if dictionary is None:
                self._next_at_spans = transaction.seq * GROWTH
                return None
            self._store(transaction, dictionary)
            self._next_at_spans = 0
            return 0.0  # It is used from the next turn on, when it is committed.
        if self._next_at_spans == 0:
            self._packer.use_newest_dictionary(transaction.connection)
            last = transaction.connection.execute(_LAST_SQL).fetchone()
            self._next_at_spans = FIRST_AT_SPANS if last is None else last[1] * GROWTH
        if transaction.seq < self._next_at_spans:
            return None
        if self._gather(transaction, budget_s):
            self._training = _Training(self._samples)
            self._wanted, self._samples = None, []
            return _POLL_S
        return 0.0

    def _gather(self, transaction: Transaction, budget_s: float) -> bool:
        """Read samples, the beginnings of spans from the newer half; True when there are all."""
        until_s = time.monotonic() + budget_s
        if self._wanted is None:
            last = transaction.seq
            self._wanted = iter([random.randint(last // 2, last) for _ in range(_SAMPLES)])
        for seq in self._wanted:
            sample = transaction.connection.execute(_SAMPLE_SQL, (_SAMPLE_BYTES_MAX, seq)).get
            if sample:
                self._samples.append(sample)
            if time.monotonic() > until_s:
                return False
        return True

    def _store(self, transaction: Transaction, dictionary: bytes) -> None:
        last = transaction.connection.execute(_LAST_SQL).fetchone()
        if last is None or transaction.seq >= last[1] * GROWTH:  # Else another process was faster.
            codec = FIRST_DICTIONARY if last is None else last[0] + 1
            transaction.connection.execute(_INSERT_SQL, (codec, transaction.seq, dictionary))


class _Training(threading.Thread):
    """Makes a dictionary of samples; None where they are too few, too short or too alike."""

    def __init__(self, samples: list[bytes]) -> None:
        super().__init__(name="everyspan-dictionary", daemon=True)
        self._samples = samples
        self.dictionary: bytes | None = None
        self.start()

    def run(self) -> None:
        try:
            self.dictionary = zstd.train_dict(self._samples, DICTIONARY_BYTES).dict_content
        except (zstd.ZstdError, ValueError) as error:
            _log.debug("no dictionary could be made: %s", error)
        self._samples = []
