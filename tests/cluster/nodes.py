"""A filter for the tests of clusters: it takes its time, and writes down where it ran."""

import os
import time
from pathlib import Path

from filters.base import ClipView, Filter, Measurement, score


class Where(Filter):
    """A line for each clip in `log`: when, on which node, where it finds the job's own files, which clip."""

    log: str
    hurry: str  # a file: while there is none, each clip takes `seconds`
    seconds: float = 5.0

    class Scores(Measurement):
        fine: float | None = score(unit="0 or 1", better="higher")

    def measure(self, clip: ClipView) -> Measurement:
        end = time.time() + self.seconds
        while time.time() < end and not os.path.exists(self.hurry):
            time.sleep(0.05)
        with open(self.log, "a") as log:
            log.write(f"{time.time()} {os.environ['S2V_TEST_NODE']} {Path('nodes.py').resolve()} {clip.clip.clip_id}\n")
        return self.Scores(fine=1.0)
