"""Checks the golden vectors with nothing but msgpack: `python3 tests/golden/check.py`.

A vector is a comment, one line of JSON with the decoded frames, and one line of hex for each frame (`-`: empty).
Everything through an empty frame, and the frame behind it, is text; the last is the body, one before it the header.
"""
import json
import pathlib
import sys

import msgpack

count = 0
for path in sorted(pathlib.Path(__file__).parent.glob("*.hex")):
    comment, expected, *lines = path.read_text("utf-8").splitlines()
    frames = [bytes.fromhex(line.strip("-")) for line in lines]
    text = (frames.index(b"") + 1 if b"" in frames else 0) + 1
    decoded = [frame.decode() for frame in frames[:text]] + [msgpack.unpackb(frame) for frame in frames[text:]]
    if decoded != json.loads(expected) or msgpack.packb(decoded[-1]) != frames[-1]:
        sys.exit(f"{path.name}: {decoded} differs from {expected}")
    count += 1
print(f"{count} golden vectors agree")
