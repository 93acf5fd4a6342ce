#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the bytes of a disk that is an overlay: read_layer.py LAYER BASE

LAYER is a layer file that nobody has open, BASE its base as a raw image. Written from
docs/overlay-format.md alone, so that what the daemon reads is compared with more than the daemon.
"""

import struct
import sys

BLOCK = 4096
MEBIBYTE = 1 << 20
PAGES_AT = 128 << 10
WORDS_PER_PAGE = 508


def newest(copies, magic, order_at):
    """Of the whole copies of a block the one with the largest generation or sequence."""
    whole = [copy for copy in copies if copy[:8] == magic]
    return max(whole, key=lambda copy: struct.unpack_from("<Q", copy, order_at)[0])


def main():
    with open(sys.argv[1], "rb") as layer, open(sys.argv[2], "rb") as base:

        def block(at):
            layer.seek(at)
            return layer.read(BLOCK)

        header = newest([block(0), block(64 << 10)], b"OUTROVLY", 16)
        disk_bytes, cluster_bytes = struct.unpack_from("<QI", header, 32)
        clusters = -(-disk_bytes // cluster_bytes)
        pages = -(-clusters // (WORDS_PER_PAGE * 64))
        data_at = -(-(PAGES_AT + 2 * pages * BLOCK) // MEBIBYTE) * MEBIBYTE
        words = []
        for page in range(pages):
            copies = [block(PAGES_AT + (copy * pages + page) * BLOCK) for copy in range(2)]
            words += struct.unpack_from(f"<{WORDS_PER_PAGE}Q", newest(copies, b"OUTRPAGE", 16), 32)
        present = 0
        for cluster in range(clusters):
            start = cluster * cluster_bytes
            length = min(cluster_bytes, disk_bytes - start)
            if words[cluster // 64] >> cluster % 64 & 1:
                present += 1
                layer.seek(data_at + start)
                content = layer.read(length)
            else:
                base.seek(start)
                content = base.read(length).ljust(length, b"\0")
            sys.stdout.buffer.write(content)
        print(f"{present} of {clusters} clusters are in the layer", file=sys.stderr)


if __name__ == "__main__":
    main()
