"""The video out: H.264 and AAC in an mp4, written clip by clip."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from dataset.cut import SOUND_RATE, TICK, SoundTrack

BT709 = 1  # for primaries and transfer, as libav numbers them
# The header waits for the first fragment: only then can it tell players to skip the silence that AAC begins with.
GROWING = {"movflags": "delay_moov+default_base_moof", "frag_duration": "500000", "flush_packets": "1"}


class VideoWriter:
    """Frames are added as they are made, `fps` a second; sound (2, samples) is cut to them. The file appears when it
    is whole.

    growing: instead a fragmented mp4 under its final name, which players can follow while it is written.
    """

    def __init__(
        self, path: str, width: int, height: int, fps: int, sound: np.ndarray | None, *, growing: bool = False
    ):
        self.path, self.fps, self.growing, self.frames = path, fps, growing, 0
        self.target = path if growing else str(Path(path).with_name(f".{Path(path).name}.partial"))
        self.container = av.open(
            self.target, "w", format="mp4", options=GROWING if growing else {"movflags": "faststart"}
        )
        self.video = self.container.add_stream("libx264", rate=fps)
        self.video.width, self.video.height, self.video.pix_fmt = width, height, "yuv420p"
        context = self.video.codec_context
        context.time_base = TICK
        context.options = {"crf": "16", "preset": "medium"} | ({"tune": "zerolatency"} if growing else {})
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries = context.color_trc = BT709
        self.audio = SoundTrack(self.container, sound) if sound is not None else None

    def add(self, pictures: np.ndarray) -> None:
        """(T, H, W, 3) uint8 RGB"""
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = round(Fraction(self.frames, self.fps) / TICK), TICK
            self.container.mux(self.video.encode(frame))
            self.frames += 1
            if self.audio:
                self.audio.write_until(self.frames / self.fps)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self.growing:
            with suppress(OSError, av.FFmpegError):  # the error at hand is the one to be told
                self.container.close()
            Path(self.target).unlink(missing_ok=True)
            return
        self.container.mux(self.video.encode(None))
        if self.audio:
            self.audio.sound = self.audio.sound[:, : self.frames * SOUND_RATE // self.fps]
            self.audio.write_until(None)
        self.container.close()
        if not self.growing:
            os.replace(self.target, self.path)
