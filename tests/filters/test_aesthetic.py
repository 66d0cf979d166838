import json
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="CLIP needs torch")
transformers = pytest.importorskip("transformers", reason="CLIP comes with transformers")

from filters import weights  # noqa: E402
from filters.aesthetic import FRAMES, Aesthetic  # noqa: E402
from filters.nets.aesthetic import AestheticHead, load  # noqa: E402
from filters.nets.snapshot import load as load_snapshot  # noqa: E402
from tests.conftest import shared  # noqa: E402
from tests.filters.builders import texture, view  # noqa: E402

CLIP, HEAD = Aesthetic.weights


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Where the filter looks for its weights: a tiny CLIP with both towers and a head, random, in official layouts."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("aesthetic")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        vision_config={**tower, "patch_size": 14, "image_size": 224, "projection_dim": 768},
        text_config={**tower, "vocab_size": 100, "projection_dim": 768},
        projection_dim=768,
    )
    transformers.CLIPModel(config).save_pretrained(folder / "clip")
    # The official file is of an older form: bare sizes, and the name of a class that is no more.
    prepare = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3}
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(prepare))
    torch.save(AestheticHead().state_dict(), folder / "head.pth")
    return {CLIP: folder / "clip", HEAD: folder / "head.pth"}


@pytest.fixture
def aesthetic(official, monkeypatch):
    monkeypatch.setattr(weights, "path", official.__getitem__)
    found = Aesthetic()
    found.setup()
    return found


@pytest.fixture
def head():
    return load(shared("golden/aesthetic/sac+logos+ava1-l14-linearMSE.pth"))


def test_the_head_gives_the_official_scores(head):
    golden = np.load(shared("golden/aesthetic/golden.npz"))
    found = head(torch.from_numpy(golden["emb"])).numpy()
    assert found == pytest.approx(golden["score"][:, 0], abs=1e-5)
    assert head(torch.from_numpy(golden["emb_normalized"])).numpy() == pytest.approx(found, abs=1e-5)
    wrong = golden["score_if_not_normalized"][:, 0]
    assert np.abs(found - wrong).max() > 1  # what a missing normalisation would give
    assert head(torch.zeros(1, 768)).item() == pytest.approx(golden["collapsed_b"].item(), abs=1e-5)


def test_the_filter_scores_each_second(aesthetic):
    images = [texture(252, 448, seed=n) for n in range(4)]
    found = aesthetic.measure(view({FRAMES: images}))
    alone = [aesthetic.measure(view({FRAMES: [image]})).mean for image in images]
    assert found.mean == pytest.approx(np.mean(alone), abs=1e-5)
    assert found.least == pytest.approx(min(alone), abs=1e-5)
    assert len({round(one, 6) for one in alone}) == 4
    assert aesthetic.measure(view({FRAMES: images})) == found


def test_the_middle_of_a_picture_counts_and_its_sides_do_not(aesthetic):
    picture = texture(252, 448)
    sides, middle = picture.copy(), picture.copy()
    sides[:, :90] = sides[:, -90:] = 0
    middle[:, 110:-110] = 128
    whole, without_sides, without_middle = (
        aesthetic.measure(view({FRAMES: [image]})).mean for image in (picture, sides, middle)
    )
    assert without_sides == pytest.approx(whole, abs=1e-5)
    assert abs(without_middle - whole) > 1e-4


def test_the_half_of_clip_that_sees_gives_the_embedding_of_the_whole(aesthetic, official):
    whole = transformers.CLIPModel.from_pretrained(official[CLIP]).eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        wanted = whole.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(aesthetic._vision(pixel_values=pixels).image_embeds, wanted)
    assert not any("text" in name for name, _ in aesthetic._vision.named_parameters())


def test_weights_that_are_passed_over_are_no_news(official, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    kind = transformers.CLIPVisionModelWithProjection
    load_snapshot(kind, official[CLIP])
    assert not caplog.records
    kind.from_pretrained(official[CLIP])  # transformers' own voice is back
    assert "UNEXPECTED" in caplog.text


def test_weights_of_another_size_are_refused(official, tmp_path):
    kind = transformers.CLIPVisionModelWithProjection
    net = load_snapshot(kind, official[CLIP])
    net.save_pretrained(tmp_path, state_dict={**net.state_dict(), "visual_projection.weight": torch.zeros(5, 5)})
    with pytest.raises(ValueError, match=r"another size, visual_projection\.weight among.*fetch it again"):
        load_snapshot(kind, tmp_path)


def test_other_files_are_refused(tmp_path):
    torch.save({"layers.0.weight": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="doesn't hold the aesthetic head"):
        load(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("<html>")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "b.pth")
