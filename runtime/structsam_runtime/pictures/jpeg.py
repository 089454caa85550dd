"""What a JPEG file says of itself before it is decoded."""

import re

_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # not what stands inside the data of a scan
_SCAN, _END = 0xDA, 0xD9


def scans(data: bytes) -> int:
    """How many times a decoder goes through the whole picture; some ten in a progressive file."""
    count, place = 0, 2
    while found := _MARKER.search(data, place):
        place, marker = found.end(), data[found.end() - 1]
        if marker == _END:
            break  # behind it phones store other pictures and films
        count += marker == _SCAN
        place += int.from_bytes(data[place : place + 2], "big")  # the length of what belongs to the marker
    return count
