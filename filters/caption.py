"""The coarse text screen: does the caption that came with a source say that a person does something (section 2)?"""

from captioning.screen import screen
from filters.base import ClipView, Filter, Measurement, Needs, score


class Caption(Filter):
    """Needs nothing but the text, so it runs before anything is decoded."""

    version = 2  # raise it also when captioning/screen.py or its word lists change
    needs = Needs()

    class Scores(Measurement):
        person: float | None = score(
            unit="0 or 1",
            better="higher",
            about="the source's own caption names a person; null without a caption, or when it can't be judged",
        )
        action: float | None = score(
            unit="0 or 1",
            better="higher",
            about="the source's own caption says that something is done that people do; null like `person`",
        )

    def measure(self, clip: ClipView) -> Scores:
        return self.read(clip.clip.caption)

    def read(self, caption: str | None) -> Scores:
        """The scores of a text, for whoever has no clip yet."""
        said = screen(caption or "")
        if said is None:
            return self.Scores(person=None, action=None)
        return self.Scores(person=float(said.person), action=float(said.acts))
