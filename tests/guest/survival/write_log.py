# SPDX-License-Identifier: Apache-2.0
"""Reads the log of writes that outrigger-shuffled-blk keeps (write_log.h)."""

import mmap
import struct

_HEADER = struct.Struct("=QQQQ")  # records, in flight, processes, reserved
_RECORD = struct.Struct("=QQ")  # block, generation


class WriteLog:
    """The file while its writer runs, and after it was killed."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def record_count(self):
        return _HEADER.unpack_from(self._map)[0]

    def in_flight(self):
        """Requests that the image had and had not answered: of the process that runs, or ran last."""
        return _HEADER.unpack_from(self._map)[1]

    def writers(self):
        return _HEADER.unpack_from(self._map)[2]

    def check_order(self):
        """(records, repeated, problems): no write may come behind a newer one to the same block.

        The verifier writes a generation once the one before is acknowledged, so an older one that
        comes later is a write that was done again after its acknowledgement. The same generation
        again is a request that was in flight as its process died.
        """
        newest = {}
        repeated = 0
        problems = []
        count = self.record_count()
        for place in range(count):
            block, generation = _RECORD.unpack_from(self._map, _HEADER.size + place * _RECORD.size)
            if generation == 0:
                continue  # its writer died before it was noted in full, so it was not written
            last = newest.get(block, 0)
            if generation < last:
                problems.append(f"block {block}: generation {generation} was written after {last}")
            repeated += generation == last
            newest[block] = max(last, generation)
        return count, repeated, problems
