import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from filters.nets import dover_views as views
from filters.nets.convnext3d import ConvNeXt3D, ConvNeXtV23D
from filters.nets.dover import Dover, Head, fuse, grades, load
from filters.nets.swin3d import Swin3D
from tests.conftest import shared

NAMES = {False: "state_dict_DOVER.tsv", True: "state_dict_DOVER-Mobile.tsv"}


@pytest.fixture(scope="module")
def golden() -> Path:
    return shared("golden/dover")


@pytest.fixture(scope="module")
def view(golden) -> Tensor:
    """(1, 3, 32, 224, 224)"""
    return views.as_input(np.load(golden / "input_32x224x224.npz")["video"])[None]


@pytest.fixture(scope="module")
def reduced(golden) -> Dover:
    net = Dover(mobile=True)
    net.technical_backbone = Swin3D(16, (2, 2, 2, 2), (1, 2, 4, 8))
    net.aesthetic_backbone = ConvNeXt3D((3, 1, 4, 1), (16, 24, 32, 48))
    net.technical_head, net.aesthetic_head = Head(128, 16), Head(48, 16)
    return with_weights(net, golden / "reduced_weights_fp16.npz")


@pytest.fixture(scope="module")
def reduced_mobile(golden) -> Dover:
    net = Dover(mobile=True)
    for half in ("technical", "aesthetic"):
        backbone = ConvNeXtV23D((2, 1, 3, 1), (16, 24, 32, 48))
        backbone.head = nn.Linear(48, 4)
        setattr(net, f"{half}_backbone", backbone)
        setattr(net, f"{half}_head", Head(48, 8))
    return with_weights(net, golden / "reduced_mobile_weights_fp16.npz")


def with_weights(net: Dover, path: Path) -> Dover:
    """The file lacks only the index, which is the same in every network."""
    weights = {name: torch.from_numpy(values.astype(np.float32)) for name, values in np.load(path).items()}
    index = {name: values for name, values in net.state_dict().items() if name.endswith("relative_position_index")}
    net.load_state_dict(weights | index)
    return net.eval().requires_grad_(False)


def with_recipe(net: Dover) -> Dover:
    """Fills the network with numbers that depend on the names and shapes of its parameters alone."""
    for name, parameter in net.named_parameters():
        shape, leaf = tuple(parameter.shape), name.rsplit(".", 1)[-1]
        draws = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=shape).astype(np.float32)
        if leaf.endswith("_bias_table"):
            scale, base = 0.2, 0.0
        elif leaf in ("gamma", "beta"):
            scale, base = 0.1, 0.5 * (leaf == "gamma")
        elif leaf == "bias":
            scale, base = 0.05, 0.0
        elif len(shape) == 1:
            scale, base = 0.1, 1.0
        else:
            scale, base = np.prod(shape[1:]) ** -0.5, 0.0
        parameter.data.copy_(torch.from_numpy(draws * np.float32(scale) + np.float32(base)))
    return net.eval().requires_grad_(False)


def assert_close(found: Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-3, atol=1e-4)


def names_and_shapes(path: Path) -> dict[str, tuple[list[int], str]]:
    rows = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: (json.loads(shape), kind) for name, shape, kind in rows}


def held(net: Dover) -> dict[str, tuple[list[int], str]]:
    return {name: (list(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in net.state_dict().items()}


@torch.inference_mode()
def test_reduced_network(golden, view, reduced):
    outputs, info = np.load(golden / "reduced_outputs.npz"), json.loads((golden / "info.json").read_text())["reduced"]
    swin, early = reduced.technical_backbone, []
    for part in (swin.patch_embed, swin.layers[0]):
        part.register_forward_hook(lambda part, inputs, output: early.append(output[0].movedim(-1, 0)))
    for half in ("technical", "aesthetic"):
        features = getattr(reduced, f"{half}_backbone")(view)
        assert_close(features[0], outputs[f"{half}_feat"])
        quality = getattr(reduced, f"{half}_head")(features)
        assert_close(quality[0, 0], outputs[f"{half}_map"])
        assert quality.mean().item() == pytest.approx(info[half], abs=1e-4)
    assert_close(early[0][:, ::4, ::8, ::8], outputs["swin_patch_embed_slice"])
    assert_close(early[1][:, ::4, ::4, ::4], outputs["swin_layer0_slice"])


@torch.inference_mode()
def test_reduced_mobile_network(golden, view, reduced_mobile):
    outputs, info = np.load(golden / "reduced_outputs.npz"), json.loads((golden / "info.json").read_text())["reduced"]
    features = reduced_mobile.technical_backbone(view)
    assert_close(features[0], outputs["mobile_feat"])
    assert_close(reduced_mobile.technical_head(features)[0, 0], outputs["mobile_map"])
    technical, aesthetic = reduced_mobile(view[:, None], view)
    assert technical.tolist() == pytest.approx([info["mobile"]], abs=1e-4)
    assert aesthetic.tolist() == reduced_mobile.aesthetic(view).tolist() != technical.tolist()


@pytest.mark.real
@torch.inference_mode()
def test_network_of_full_size(golden, view):
    outputs, net = np.load(golden / "full_recipe_outputs.npz"), with_recipe(Dover(mobile=False))
    for half, score in (("technical", "tech_mean"), ("aesthetic", "aes_mean")):
        features = getattr(net, f"{half}_backbone")(view)
        assert_close(features[0, :64], outputs[f"{half}_feat_slice"])
        quality = getattr(net, f"{half}_head")(features)
        assert_close(quality[0, 0], outputs[f"{half}_score_map"])
        assert quality.mean().item() == pytest.approx(float(outputs[score]), abs=1e-4)


@pytest.mark.parametrize("mobile", [False, True])
def test_official_names(golden, mobile):
    with torch.device("meta"):
        net = Dover(mobile)
    assert held(net) == names_and_shapes(golden / NAMES[mobile])


def test_a_score_is_the_mean_over_the_clips_of_one_video(reduced_mobile):
    clips = torch.rand(2, 2, 3, 32, 224, 224)
    apart = reduced_mobile.technical(clips.flatten(0, 1)[:, None]).unflatten(0, (2, 2))
    assert reduced_mobile.technical(clips).tolist() == pytest.approx(apart.mean(1).tolist(), abs=1e-6)


def test_views_of_another_shape_are_refused():
    with torch.device("meta"):
        net = Dover(mobile=True)
        with pytest.raises(ValueError, match=r"technical views are .* not \(1, 3, 32, 224, 224\)"):
            net.technical(torch.zeros(1, 3, 32, 224, 224))
        with pytest.raises(ValueError, match=r"aesthetic views are .* not \(1, 3, 16, 224, 224\)"):
            net.aesthetic(torch.zeros(1, 3, 16, 224, 224))


def light(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes, small on disk."""
    return {name: torch.zeros((), dtype=values.dtype).expand(values.shape) for name, values in weights.items()}


def test_load(tmp_path):
    weights = Dover(mobile=True).state_dict()
    torch.save(weights, tmp_path / "DOVER-Mobile.pth")
    net = load(tmp_path / "DOVER-Mobile.pth", mobile=True)
    assert not net.training
    assert all(torch.equal(values, weights[name]) for name, values in net.state_dict().items())


@pytest.mark.parametrize("wrong", ["missing", "added", "shape"])
def test_load_refuses_other_names_and_shapes(tmp_path, wrong):
    weights = light(Dover(mobile=True).state_dict())
    if wrong == "missing":
        del weights["technical_head.fc_hid.bias"]
    else:
        weights["technical_head.fc_hid.bias" if wrong == "shape" else "technical_head.fc_hid.scale"] = torch.zeros(33)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"weights of DOVER-Mobile: 1 names or shapes differ, such as technical_head"):
        load(tmp_path / "other.pth", mobile=True)


def test_load_tells_the_two_networks_apart(tmp_path):
    torch.save(light(Dover(mobile=True).state_dict()), tmp_path / "DOVER-Mobile.pth")
    with pytest.raises(ValueError, match=r"weights of DOVER: .* Use https://.*/v0.1.0/DOVER.pth"):
        load(tmp_path / "DOVER-Mobile.pth", mobile=False)


def test_fusion(golden):
    for example in json.loads((golden / "info.json").read_text())["fusion_examples"]:
        scores = [torch.tensor(example[half], dtype=torch.float64) for half in ("technical", "aesthetic")]
        technical, aesthetic = grades(*scores)
        assert [aesthetic, technical, fuse(*scores)] == pytest.approx(example["aes_tech_overall"], abs=1e-9)


def test_fusion_of_ordinary_scores():
    technical, aesthetic = torch.tensor([0.1107, 0.2]), torch.tensor([-0.08285, -0.08285])
    overall = fuse(technical, aesthetic)
    assert overall[0].item() == pytest.approx(0.5, abs=1e-6)
    assert overall[1] > 0.6


def seeded(room: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(0).randint(room, size=shape)


def test_upstreams_draw_of_frames(golden):
    for name, wanted in np.load(golden / "samplers_npseed0.npz").items():
        half, frames = name.split("_")
        sample = views.technical_frames if half == "tech" else views.aesthetic_frames
        np.testing.assert_array_equal(sample(int(frames), seeded).ravel(), wanted)


def test_technical_frames_lie_in_the_middle_of_each_third():
    assert views.technical_frames(300)[:, [0, 1, 31]].tolist() == [[18, 20, 80], [118, 120, 180], [218, 220, 280]]
    assert views.technical_frames(150)[:, [0, 1, 31]].tolist() == [[0, 2, 62], [50, 52, 112], [100, 102, 12]]


@pytest.mark.parametrize("frames", [1, 40, 188, 189, 1000])
def test_frames_exist(frames):
    for numbers, shape in ((views.technical_frames(frames), (3, 32)), (views.aesthetic_frames(frames), (32,))):
        assert numbers.shape == shape
        assert set(numbers.flat) <= set(range(frames))


def test_aesthetic_frames_go_through_the_video():
    assert views.aesthetic_frames(320).tolist() == [4 + 10 * i for i in range(32)]


def picture(channels_first: np.ndarray) -> np.ndarray:
    return np.moveaxis(channels_first, 0, -1)


def test_upstreams_draw_of_fragments(golden):
    stored = np.load(golden / "fragments_270x480.npz")
    drawn = iter([stored["off_h"], stored["off_w"]])  # of two clips; ours has a third
    places = views.corners(270, 480, lambda room, shape: np.pad(next(drawn), ((0, 0), (0, 0), (0, 1))))
    for clip, frame in enumerate(("frame0", "frame32")):
        cut = views.fragments(picture(stored[frame]), places[clip])
        np.testing.assert_array_equal(cut, picture(stored[f"out_{frame}"]))


def test_small_frames_are_enlarged_as_upstream(golden):
    stored = np.load(golden / "fragments_160x200_upsampled.npz")
    frame = views.enlarged(picture(stored["frame0"]))
    assert frame.shape == (224, 280, 3)
    rows, columns = (np.minimum(np.arange(7) * (size // 7), size - 32) for size in (160, 200))
    old_grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)  # upstream takes the size before enlarging
    cut = views.fragments(frame, old_grid)
    np.testing.assert_allclose(cut, picture(stored["out_frame0"]), atol=0.5001)  # ours is rounded to whole numbers


@pytest.mark.parametrize("size", [(224, 224), (270, 480), (1920, 1080)])
@pytest.mark.parametrize("draw", [views.middle, seeded])
def test_each_fragment_lies_in_its_cell(size, draw):
    places = views.corners(*size, draw)
    assert places.shape == (3, 7, 7, 2)
    for axis in (0, 1):
        cell = size[axis] // 7
        within = places[..., axis] - np.expand_dims(np.arange(7) * cell, 1 - axis)
        assert ((within >= 0) & (within + 32 <= cell)).all()


def test_fragments_lie_in_the_middle_of_their_cells():
    places = views.corners(448, 672)
    assert places[0, 0, 0].tolist() == [16, 32]
    assert places[2, 3, 1].tolist() == [3 * 64 + 16, 96 + 32]


def test_what_has_no_view():
    with pytest.raises(ValueError, match="not 0"):
        views.technical_frames(0)
    with pytest.raises(ValueError, match="not 160x200"):
        views.corners(160, 200)


def test_shrinking_without_antialiasing(golden):
    stored = np.load(golden / "resize_270x480_to_224.npz")
    np.testing.assert_array_equal(views.resized(picture(stored["frame"])), picture(stored["antialias_false"]))


def test_views():
    frames = np.random.default_rng(0).integers(0, 256, (96, 240, 250, 3), np.uint8)[..., ::-1]
    technical, aesthetic = views.technical_view(frames), views.aesthetic_view(frames[:32])
    assert technical.shape == (3, 3, 32, 224, 224)
    assert aesthetic.shape == (3, 32, 224, 224)
    colour = frames[32 + 5, 1, 1]  # the fragments of 240x250 start in the middle of the two or three pixels to spare
    assert views.corners(240, 250)[1, 0, 0].tolist() == [1, 1]
    wanted = (colour - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(technical[1, :, 5, 0, 0], wanted, rtol=1e-5)
    assert torch.equal(technical, views.technical_view(frames))


@pytest.mark.parametrize("frames", [0, 95, 97])
def test_views_of_another_number_of_frames(frames):
    with pytest.raises(ValueError, match=f"not {frames}"):
        views.technical_view([np.zeros((224, 224, 3), np.uint8)] * frames)
    with pytest.raises(ValueError, match=f"not {frames}"):
        views.aesthetic_view([np.zeros((224, 224, 3), np.uint8)] * frames)
