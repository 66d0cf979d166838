from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="DOVER needs torch")

from dataset.media import Counters, Frames, read_clips  # noqa: E402
from filters import weights  # noqa: E402
from filters.base import ClipView  # noqa: E402
from filters.clarity import FRAMES, Clarity  # noqa: E402
from filters.nets import dover_views as views  # noqa: E402
from filters.nets.dover import Dover, fuse, load  # noqa: E402
from tests.filters.builders import moved, texture, view  # noqa: E402
from tests.videos import write_video  # noqa: E402

NATIVE = Frames(fps=30)


@pytest.fixture
def mobile(tmp_path, monkeypatch) -> Path:
    """DOVER-Mobile with random weights, in the official file's layout, where the filter looks for it."""
    path = tmp_path / "DOVER-Mobile.pth"
    torch.save(Dover(mobile=True).state_dict(), path)
    monkeypatch.setattr(weights, "path", {"dover/DOVER-Mobile.pth": path}.__getitem__)
    return path


def decoded(path: Path, *, fps: int, seconds: float, height: int, width: int) -> ClipView:
    """A clip of a moving picture, read from a file as the filter asks for it, and whole besides."""
    scene = texture(height, width)
    write_video(path, seconds, fps=fps, picture=lambda time: moved(scene, 60 * time, 30 * time))
    needs = [*Clarity.needs.frames, NATIVE]
    clip = next(read_clips(str(path), [(0.0, seconds)], needs, audio=False, counters=Counters()))
    return ClipView(view().clip, clip.batches, None, {})


@torch.inference_mode()
def test_scores_are_those_of_the_whole_native_frames(tmp_path, mobile):
    clip = decoded(tmp_path / "a.mp4", fps=25, seconds=4, height=240, width=322)
    images = clip.frames(NATIVE).images
    assert images[0].shape == (240, 322, 3)
    technical_view = views.technical_view(images[i] for i in views.technical_frames(100).flat)
    aesthetic_view = views.aesthetic_view(images[i] for i in views.aesthetic_frames(100))
    technical, aesthetic = load(mobile, mobile=True)(technical_view[None], aesthetic_view[None])

    clarity = Clarity(mobile=True)
    clarity.setup()
    found = clarity.measure(clip)
    assert found.technical == pytest.approx(technical.item(), abs=1e-6)
    assert found.aesthetic == pytest.approx(aesthetic.item(), abs=1e-6)
    assert found.overall == pytest.approx(fuse(technical, aesthetic).item(), abs=1e-6)


def test_pictures_of_any_size_are_cut_as_they_are_decoded(tmp_path):
    clip = decoded(tmp_path / "a.mp4", fps=60, seconds=1, height=160, width=200)  # smaller than the views
    cut, native = clip.frames(FRAMES).images, clip.frames(NATIVE).images
    assert len(cut) == 30
    assert {image.shape for image in cut} == {(448, 224, 3)}
    fragments = views.technical_view(native[:1] * 96)[0, :, 0]
    assert torch.equal(views.as_input(cut[0][None, :224])[:, 0], fragments)


def test_only_the_weights_of_the_chosen_network_are_asked_for():
    assert Clarity().chosen_weights() == ("dover/DOVER.pth",)
    assert Clarity(mobile=True).chosen_weights() == ("dover/DOVER-Mobile.pth",)
