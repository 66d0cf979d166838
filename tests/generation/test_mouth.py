"""Masks of the mouth on the demo's portrait (NASA, public domain), whose geometry is known, and on real talkers."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.demo_portrait import EYES, JAW_END, MOUTH_HALF, MOUTH_X, MOUTH_Y, SIZE, Pose, View, photo, render
from dataset.media import Counters, Frames, read_clips
from filters import weights
from filters.nets.blaze import Face, FaceDetector, FaceMesh
from filters.nets.person import Person
from generation.mouth import Mouths, has_face, look_twice, put_back, track_mouths
from model.errors import InputError
from tests.filters.builders import texture

FPS = 16
FOREHEAD = (224, 70)
ROOM = 7  # portrait pixels below the chin, a tenth of the face's height
LIPS = [61, 291, 0, 17, 13, 14, 78, 308]  # of the mesh: corners and middles, outer and inner
EYELIDS = [33, 133, 159, 145, 263, 362, 386, 374]
GREY = np.full((360, 360, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """(512, 512, 4) uint8 RGB and alpha: a woman, head to waist."""
    try:
        FaceDetector()
        return photo()
    except weights.MissingWeights as missing:
        pytest.skip(f"the networks can't be fetched here: {missing.remedy}")


def shrunk(image: np.ndarray) -> np.ndarray:
    scale = min(1.0, 360 / min(image.shape[:2]))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def track(images: list[np.ndarray], person: int | None = None) -> Mouths:
    return track_mouths([shrunk(image) for image in images], np.arange(len(images)) / FPS, person)


def frames(path: Path, start: float, seconds: float) -> list[np.ndarray]:
    need = Frames(FPS)
    clip = next(read_clips(str(path), [(start, start + seconds)], [need], audio=False, counters=Counters()))
    return clip.batches[need].images


def values(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What the mask holds at (K, 2) pixels."""
    x, y = np.asarray(points).round().astype(int).T
    return mask[y, x]


@pytest.fixture(scope="module")
def walk(portrait) -> tuple[list[View], list[Pose], Mouths]:
    """Eighteen frames: the woman crosses the picture, and opens and shuts her mouth."""
    views = [View(width=320).shifted(float(x)) for x in np.linspace(-50, 50, 18)]
    poses = [Pose(mouth=float(m)) for m in 1 + np.sin(np.arange(18))]
    return views, poses, track([render(portrait, view, pose) for view, pose in zip(views, poses, strict=True)])


def test_the_mask_covers_the_mouth_and_spares_the_eyes(walk):
    views, poses, mouths = walk
    assert mouths.share == 1
    for view, pose, mask in zip(views, poses, mouths.masks(0, len(views), SIZE, SIZE), strict=True):
        chin = JAW_END + 6 * (pose.mouth - 1)
        corners = [(MOUTH_X + side * MOUTH_HALF, MOUTH_Y) for side in (-1, 1)]
        covered = [*corners, (MOUTH_X, MOUTH_Y), (MOUTH_X, chin), (MOUTH_X, chin + ROOM)]
        assert values(mask, [view.to_frame(x, y) for x, y in covered]).min() >= 0.99
        assert values(mask, [view.to_frame(x, y) for x, y in (*EYES, FOREHEAD)]).max() == 0
        assert mask[:10].max() == mask[-10:].max() == 0


def test_the_mask_fades_smoothly_and_follows(walk):
    views, _, mouths = walk
    masks = mouths.masks(0, len(views), SIZE, SIZE)
    assert (masks.min(), masks.max(), masks.dtype) == (0, 1, np.float32)
    assert max(np.abs(np.diff(masks, axis=axis)).max() for axis in (1, 2)) < 0.15
    middles = [np.average(np.arange(SIZE), weights=mask.sum(axis=0)) for mask in masks]
    true = [view.to_frame(MOUTH_X, MOUTH_Y)[0] for view in views]
    np.testing.assert_allclose(np.diff(middles).sum(), np.diff(true).sum(), atol=8)
    areas = masks.sum(axis=(1, 2))
    assert areas.max() < 1.15 * areas.min()  # it does not breathe with the mouth


def test_pieces_and_sizes_agree(walk):
    mouths = walk[-1]
    whole = mouths.masks(0, 18, 256, 256)
    np.testing.assert_array_equal(mouths.masks(5, 9, 256, 256), whole[5:9])
    large = mouths.masks(5, 6, 512, 512)[0]
    assert np.abs(cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA) - whole[5]).mean() < 0.01


def test_a_still_face_has_a_still_mask(portrait):
    rng = np.random.default_rng(0)
    still = render(portrait, View(), Pose()).astype(int)
    noisy = [np.clip(still + rng.normal(0, 4, still.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    masks = track(noisy).masks(0, 8, SIZE, SIZE)
    steps = np.abs(np.diff(masks, axis=0)).sum(axis=(1, 2)) / masks[0].sum()
    assert steps.max() < 0.05
    assert steps[3:].max() < 0.01  # the first look at a face is rougher than those that know where it was


def test_short_gaps_are_bridged_and_long_ones_are_not(portrait):
    here = shrunk(render(portrait, View(), Pose()))
    mouths = track([here] * 6 + [GREY] * 4 + [here] * 6 + [GREY] * 12 + [here] * 6)
    assert mouths.seen[:16].all()
    assert not mouths.seen[17:28].any()
    masks = mouths.masks(0, 34, 360, 360)
    assert np.abs(masks[7] - masks[3]).max() < 0.2
    assert masks[17:28].max() == 0


def test_the_largest_face_speaks_unless_another_is_chosen(portrait):
    frame = np.full((360, 640, 3), 128, np.uint8)
    frame[-340:, :340] = cv2.resize(portrait[..., :3], (340, 340), interpolation=cv2.INTER_AREA)
    frame[-240:, 390:630] = cv2.resize(portrait[:, ::-1, :3], (240, 240), interpolation=cv2.INTER_AREA)
    large, small = (track([frame] * 6, person).masks(2, 3, 360, 640)[0] for person in (None, 1))
    assert large[:, 340:].max() == small[:, :340].max() == 0
    assert large.sum() > 1.5 * small.sum() > 0
    with pytest.raises(InputError, match=r"2 face\(s\).*no person 2"):
        track([frame] * 6, 2)


def test_no_face_is_an_error_that_says_what_to_do(portrait):
    with pytest.raises(InputError, match=r"No face was found .* give one that shows"):
        track([GREY] * 6)


def test_a_mesh_that_slid_is_put_back(portrait):
    image = shrunk(render(portrait, View(), Pose()))
    find, mesh = FaceDetector(), FaceMesh()
    true = look_twice(mesh, image, find(image)[0])
    height = true.box[3] - true.box[1]
    person = Person(0, 0.0, faces={0: true, 1: Face(true.mesh + np.array([0, 0.4 * height]), 1.0)})
    put_back([person], [image, image], find, mesh)
    assert person.faces[0] is true
    np.testing.assert_allclose(person.faces[1].mesh, true.mesh, atol=0.02 * height)


@pytest.mark.parametrize(
    ("name", "start"), [("talk_hdtf_01.mp4", 0.0), ("talk_vr_04.mp4", 2.5), ("popvid_paddle.mp4", 3.7)]
)
def test_masks_of_real_talkers(portrait, real_clips: Path, name, start):
    """Judged by meshes of single frames, which know nothing of the track. The last one dances."""
    images = frames(real_clips / name, start, 1.5)
    mouths, (height, width) = track(images), images[0].shape[:2]
    assert mouths.share == 1
    find, mesh = FaceDetector(), FaceMesh()
    for image, mask in zip(images, mouths.masks(0, len(images), height, width), strict=True):
        face = look_twice(mesh, image, find(image)[0]).mesh
        assert values(mask, face[LIPS]).min() >= 0.99
        assert values(mask, face[EYELIDS]).max() == 0


@pytest.mark.parametrize("side", [512, 300, 180])
def test_a_face_is_found_in_a_picture_of_any_size(portrait, side):
    """The face is a fifth of `side` high: at 180 pixels it is 1/28 of the picture, as of a person far off."""
    image = np.full((1024, 704, 3), 128, np.uint8)
    image[500 : 500 + side, 160 : 160 + side] = cv2.resize(
        portrait[..., :3], (side, side), interpolation=cv2.INTER_AREA
    )
    assert has_face(image)


def test_a_face_alone_is_found(portrait):
    assert has_face(np.ascontiguousarray(portrait[..., :3]))


def test_what_is_no_face_is_not_found(portrait):
    digits = np.full((720, 1280, 3), 255, np.uint8)
    for line in range(4):
        cv2.putText(digits, "0123456789", (40, 160 * (line + 1)), cv2.FONT_HERSHEY_DUPLEX, 4 + line, (0, 0, 0), 8)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    for image in (
        GREY,
        np.zeros((64, 64, 3), np.uint8),
        noise,
        texture(480, 640),
        digits,
        portrait[300:, :, :3].copy(),
    ):
        assert not has_face(image)


def test_the_digits_of_a_test_card_are_no_face(portrait, real_clips):
    """The detector takes them for one, and the mesh believes it by 0.7 and 0.9."""
    clip = frames(real_clips / "smpte_mp_01.mp4", 8.5, 1.5)
    assert not any(has_face(clip[at]) for at in (0, -1))
