#!/usr/bin/python3
"""Walks the recorded sub-buffers of a kernel, prints what is in them, and fails
unless they are what the recording is meant to hold."""
import collections
import pathlib
import re
import struct
import sys


def sub_buffer_size(header_page):
    offset, size = re.search(r"char data;\s+offset:(\d+);\s+size:(\d+);", header_page.read_text()).groups()
    return int(offset) + int(size)


def walk(data, names, counts):
    """Counts the events in the data of one sub-buffer."""
    at = 0
    while at < len(data):
        type_len = struct.unpack_from("<I", data, at)[0] & 31
        at += 4
        if type_len == 29:
            at += struct.unpack_from("<I", data, at)[0]
        elif type_len in (30, 31):
            at += 4
        else:
            length = 4 * type_len if type_len else struct.unpack_from("<I", data, at)[0]
            payload = at if type_len else at + 4
            counts[names[struct.unpack_from("<H", data, payload)[0]]] += 1
            at += length
    if at != len(data):
        sys.exit(f"an event reaches beyond the data: {at} of {len(data)}")


def main():
    pages = pathlib.Path(sys.argv[1])
    names = {int(re.search(r"^ID: (\d+)$", file.read_text(), re.M)[1]): file.name
             for file in (pages / "format").iterdir()}
    total = collections.Counter()
    for file in sorted(pages.glob("*.raw")):
        raw = file.read_bytes()
        size = sub_buffer_size(pages / ("header_page-64k" if "64k" in file.name else "header_page"))
        counts = collections.Counter()
        lost = []
        used = 0
        for start in range(0, len(raw), size):
            commit = struct.unpack_from("<Q", raw, start + 8)[0]
            used = commit & 0x3fffffff
            data = start + 16
            if commit & 1 << 31:
                stored = commit & 1 << 30
                lost.append(struct.unpack_from("<Q", raw, data + used)[0] if stored else None)
            walk(raw[data:data + used], names, counts)
        print(f"  {file.name}: {len(raw) // size} of {size} bytes, {used} in the last, "
              f"{sum(counts.values())} events, lost before: {lost}")
        if len(raw) % size:
            sys.exit(f"{file.name} ends in the middle of a sub-buffer")
        if "lost" in file.name and not any(lost):
            sys.exit(f"{file.name} has no loss with its count: record again")
        if file.name in ("cpu0.raw", "cpu1.raw"):
            total += counts
    print("  in cpu0.raw and cpu1.raw:", ", ".join(f"{name} {count}" for name, count in sorted(total.items())))


if __name__ == "__main__":
    main()
