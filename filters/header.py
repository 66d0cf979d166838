"""What the file's header says: length, frame rate, size, audio stream, compression."""

from filters.base import ClipView, Filter, Measurement, score


class Header(Filter):
    """Facts that cost no decoding, so that hopeless clips are dropped first (paper section 2, automated screening)."""

    class Scores(Measurement):
        duration: float | None = score(unit="s", better="middle", about="length of the clip")
        fps: float | None = score(unit="frames/s", better="higher", about="average over the source")
        short_side: float | None = score(unit="px", better="higher", about="upright, square pixels")
        audio: float | None = score(unit="0 or 1", better="higher", about="1: the source has an audio stream")
        bits_per_pixel: float | None = score(
            unit="bit/px", better="higher", about="bit rate of the file / (width * height * fps); low: over-compressed"
        )

    def measure(self, clip: ClipView) -> Scores:
        media = clip.clip.media
        return self.Scores(
            duration=clip.clip.seconds,
            fps=media.fps,
            short_side=min(media.width, media.height),
            audio=float(media.audio_codec is not None),
            bits_per_pixel=media.bit_rate / (media.width * media.height * media.fps),
        )
