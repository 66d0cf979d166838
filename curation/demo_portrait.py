"""Make a still portrait talk: one inverse warp a frame that opens the mouth, blinks and moves the head.

The portrait is NASA's photo of Eileen Collins (public domain), 512 x 512 pixels. All positions are pixels of it.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from filters import weights

FPS = 25
SIZE = 640  # pixels, the side of a demo video

MOUTH_X, MOUTH_Y, MOUTH_HALF = 224.0, 140.5, 21.0  # the corners lie at (MOUTH_X -+ MOUTH_HALF, MOUTH_Y)
UPPER_SAG, LOWER_SAG = 3.0, 9.5  # how far the edges of the lips hang below the corners, at the middle
JAW_END, COLLAR = 176.0, 194.0  # the chin moves with the jaw, the collar does not
EYES = ((203.0, 101.0), (246.0, 103.0))
HEAD = (224.0, 105.0)
FACE_BOX = (180, 78, 268, 180)  # x0, y0, x1, y1: hairline to chin
DARK = np.array((58, 22, 26), np.float32)  # RGB of the open mouth behind the teeth, and of lashes
OUTLINE = (  # of the person, clockwise from the hair on the left
    *((152, 100), (156, 62), (196, 22), (228, 15), (268, 30), (297, 70), (298, 102), (277, 128), (266, 136)),
    *((259, 160), (256, 176), (286, 202), (304, 240), (343, 270), (362, 345), (420, 345), (487, 396), (510, 470)),
    *((512, 512), (22, 512), (20, 440), (46, 302), (78, 248), (124, 222), (113, 192), (136, 162), (182, 152)),
    *((181, 130), (164, 114)),
)


@dataclass(frozen=True)
class View:
    """How the portrait lies in the frame. In portrait pixels: what is in the middle, how much fills the width."""

    centre: tuple[float, float] = (224.0, 140.0)
    width: float = 250.0
    mirror: bool = False

    def shifted(self, pixels: float) -> "View":
        """The person moved to the right by so many portrait pixels."""
        return replace(self, centre=(self.centre[0] - pixels, self.centre[1]))

    def to_frame(self, x: float, y: float) -> tuple[int, int]:
        """Where a point of the portrait lies in the frame, in frame pixels."""
        scale = SIZE / self.width
        across = (x - self.centre[0]) * scale * (-1 if self.mirror else 1)
        return round(SIZE / 2 + across), round(SIZE / 2 + (y - self.centre[1]) * scale)


@dataclass(frozen=True)
class Pose:
    """What the face does in one frame. mouth: 0 closed, 1 as in the photo; blink: 0 to 1; head: portrait pixels."""

    mouth: float = 1.0
    blink: float = 0.0
    head: tuple[float, float] = (0.0, 0.0)


def photo() -> np.ndarray:
    """(512, 512, 4) uint8 RGB of the portrait, and the person's outline as alpha."""
    path = weights.path("scikit-image/astronaut.png")
    bgr = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None, f"{path} is no picture"
    alpha = np.zeros(bgr.shape[:2], np.uint8)
    cv2.fillPoly(alpha, [np.array(OUTLINE, np.int32)], (255,))
    alpha = cv2.erode(alpha, np.ones((3, 3), np.uint8))
    return np.dstack([bgr[..., ::-1], cv2.GaussianBlur(alpha, (0, 0), 1.2)])


def poses(openness: np.ndarray, seed: int = 0) -> list[Pose]:
    """Poses that follow `openness` (one value in 0..1 a frame), with a wandering head and a blink about every 2 s."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(len(openness)) / FPS
    phase = rng.uniform(0, 2 * np.pi, 4)
    nod = np.convolve(openness, np.ones(9) / 9, "same")  # the head stresses what the voice stresses
    across = 2.4 * np.sin(2.1 * seconds + phase[0]) + 1.3 * np.sin(4.7 * seconds + phase[1])
    down = 1.2 * np.sin(1.7 * seconds + phase[2]) + 0.6 * np.sin(5.3 * seconds + phase[3]) + 3.0 * nod
    blinks = np.arange(0.9, seconds[-1] + 1, 2.1) + rng.uniform(-0.3, 0.3)
    lids = np.exp(-(((seconds[:, None] - blinks) / 0.07) ** 2)).max(axis=1)
    return [
        Pose(float(0.1 + 1.9 * o), float(b), (float(x), float(y)))
        for o, b, x, y in zip(openness, lids, across, down, strict=True)
    ]


def render(portrait: np.ndarray, view: View, pose: Pose, background: np.ndarray | None = None) -> np.ndarray:
    """One (SIZE, SIZE, 3) uint8 RGB frame; `background` replaces the studio that the photo was taken in."""
    x, y = _portrait_coordinates(view)
    x, y = _move_head(x, y, pose.head)
    face = _face_area(view)
    x[face], y[face], mouth = _open_mouth(x[face], y[face], pose.mouth)
    y[face], lashes = _blink(x[face], y[face], pose.blink)
    layers = portrait if background is not None else np.ascontiguousarray(portrait[..., :3])
    frame = cv2.remap(layers, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    rgb = frame[..., :3]
    rgb[face] = rgb[face] + np.maximum(mouth, lashes)[..., None] * (DARK - rgb[face])
    if background is not None:
        within = (x >= 0) & (x < portrait.shape[1] - 1) & (y < portrait.shape[0] - 1)
        alpha = (frame[..., 3] * within)[..., None] / np.float32(255)
        rgb = (background + alpha * (rgb - background.astype(np.float32))).astype(np.uint8)
    return rgb


def _face_area(view: View) -> tuple[slice, slice]:
    """The rows and columns of the frame that the mouth and the lids can touch; the rest of the frame is left alone."""
    (x0, y0), (x1, y1) = view.to_frame(MOUTH_X - 85, 70), view.to_frame(MOUTH_X + 85, 205)
    columns = sorted((x0, x1))
    return slice(max(0, y0), max(0, y1)), slice(max(0, columns[0]), max(0, columns[1]))


def _portrait_coordinates(view: View) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of the frame, the point of the portrait that it shows."""
    offset = (np.arange(SIZE, dtype=np.float32) - SIZE / 2) * np.float32(view.width / SIZE)
    across = -offset if view.mirror else offset
    x, y = np.meshgrid(across + np.float32(view.centre[0]), offset + np.float32(view.centre[1]))
    return x, y


def _move_head(x: np.ndarray, y: np.ndarray, head: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Shift the head; the shift fades over the neck and the background, so that nothing tears."""
    weight = np.exp(-((((x - HEAD[0]) / 95) ** 2 + ((y - HEAD[1]) / 95) ** 2) ** 2))
    return x - np.float32(head[0]) * weight, y - np.float32(head[1]) * weight


def _open_mouth(x: np.ndarray, y: np.ndarray, opening: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source points for a mouth `opening` times as open as in the photo, and how much of the cavity each pixel shows.

    The upper lip and the teeth stay; the lower lip, the chin and, less and less, the throat follow the jaw.
    """
    near = np.exp(-(((x - MOUTH_X) / 40) ** 2 + ((y - MOUTH_Y - 8) / 24) ** 2))
    x = x + (x - MOUTH_X) * near * np.float32(0.14 * abs(opening - 1))  # the photo smiles; speech narrows the mouth
    t = np.minimum(np.abs(x - MOUTH_X) / MOUTH_HALF, 1)
    upper = MOUTH_Y + UPPER_SAG * (1 - t**2)
    lower = MOUTH_Y + LOWER_SAG * (1 - t * t * t)
    edge = upper + (lower - upper) * opening  # where the lower lip begins now
    below = y - edge
    jaw = (LOWER_SAG - UPPER_SAG) * np.exp(-(((x - MOUTH_X) / 34) ** 2))
    rigid = _smoothstep(below / 14)  # at the lip the shift is the lip's own, further down the jaw's
    loose = 1 - _smoothstep((y - JAW_END) / (COLLAR - JAW_END))
    shift = (opening - 1) * ((lower - upper) * (1 - rigid) + jaw * rigid) * loose
    lip = 0.1 * (lower - upper) * (1 - rigid)  # start just inside the lip: a rim of teeth would tear off with it
    source = np.where(below >= 0, y - shift + lip, y)
    within = np.clip((y - upper) / 1.2, 0, 1) * np.clip(-below / 1.2, 0, 1)
    behind = np.clip((y - lower + 1.5) / 1.5, 0.0, 1)  # below the teeth there is nothing but the dark
    shade = np.float32(0.8 * max(0.0, 1 - opening))  # lips that nearly meet keep the light out
    return x, source, within * np.maximum(behind, shade)


def _blink(x: np.ndarray, y: np.ndarray, closed: float) -> tuple[np.ndarray, np.ndarray]:
    """Pull the skin of the lids over the eyes; the eye itself is squeezed into a line, and darkened to lashes."""
    lashes = np.zeros_like(x)
    if closed < 0.02:
        return y, lashes
    for eye_x, eye_y in EYES:
        across = np.clip(1 - ((x - eye_x) / 15) ** 2, 0, 1)
        lashes += closed * across * np.clip(1 - ((y - eye_y - 6) / 2) ** 2, 0, 1)
        down = np.interp(y, [eye_y - 9, eye_y + 5, eye_y + 7], [0, 1, 0]).astype(np.float32)
        y = y - 9 * closed * across * down
    return y, lashes


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
