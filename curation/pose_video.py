"""`s2v render-pose`: the DWPose control video of a clip."""

import io
from fractions import Fraction
from pathlib import Path

import av

from curation.layout import TRACKS
from curation.stored import find_clip, row_of
from dataset.draw import draw_pose
from dataset.errors import RunError
from dataset.tables import write_atomically
from dataset.tracks import Tracks


def render_pose(dataset: str, name: str, out: str, fps: float = 25.0) -> int:
    """Write the DWPose control video of a clip; returns its number of frames."""
    clip = find_clip(dataset, name)
    row = row_of(dataset, TRACKS, clip)
    if row is None:
        raise RunError(f"Clip {clip.clip_id} has no tracks: its chain stopped before `pose`, or it was not measured.")
    tracks = Tracks.from_row(row)
    height, width = clip.media.height // 2 * 2, clip.media.width // 2 * 2
    count = max(1, round(clip.seconds * fps))
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as target:
        video = target.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(draw_pose(tracks, i / fps, height, width), "rgb24")
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
    folder, file = str(Path(out).parent), Path(out).name
    write_atomically(folder, file, data.getvalue())
    return count
