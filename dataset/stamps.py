"""When frames are shown: which of a container's stamps are true, and what lies between those that are."""

import math
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

HELD = 64  # frames kept until one with a stamp comes; 2 KB of MPEG-PS, which share one, hold fewer
TICK = 0.001  # seconds: the least that lies between two frames


def own_stamps(packets: Iterator[Any], midway: bool) -> Iterator[Any]:
    """Packets of MPEG-TS or -PS, less the stamps that belong to the next one. midway: reading began behind a seek.

    Frames of MPEG-PS begin anywhere in its packets, which state the time of the first that does. libav may give it to
    the frame before instead: to both of them, to an MPEG-2 keyframe alone, or to the rest of a frame after a seek.
    """
    reordered = False  # keyframes are shown later than decoded, as in every stream with B-frames
    for packet, following in pairwise(chain(packets, [None])):
        both = following is not None and (packet.pts, packet.dts) == (following.pts, following.dts)
        alone = reordered and packet.is_keyframe and packet.pts == packet.dts
        reordered |= packet.is_keyframe and packet.pts != packet.dts
        if both or alone or midway:
            packet.pts = packet.dts = None
        midway = False
        yield packet


def paced(stamped: Iterator[tuple[float | None, Any]], step: float) -> Iterator[tuple[float, Any]]:
    """(seconds or None, frame) in presentation order -> (seconds, frame), ascending.

    Frames without a stamp lie evenly between their neighbours that have one; those before the first are left out.
    step: seconds between frames, until two stamps tell.
    """
    last, held = -math.inf, []
    for time, frame in stamped:
        if time is None:
            if last > -math.inf:
                held.append(frame)
            if len(held) < HELD:
                continue
            time, frame = last + step * len(held), held.pop()
        elif time <= last:
            time = last + TICK * (len(held) + 1)
        elif held:
            step = (time - last) / (len(held) + 1)
        yield from between(last, time, held)
        yield time, frame
        last, held = time, []
    yield from between(last, last + step * (len(held) + 1), held)  # what a decoder still held at the end


def between(start: float, end: float, frames: list[Any]) -> Iterator[tuple[float, Any]]:
    for number, frame in enumerate(frames, 1):
        yield start + (end - start) * number / (len(frames) + 1), frame
