import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="CLIP needs torch")
transformers = pytest.importorskip("transformers", reason="CLIP comes with transformers")

from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402

from filters import weights  # noqa: E402
from filters.aesthetic import FRAMES, Aesthetic  # noqa: E402
from filters.nets.aesthetic import AestheticHead, load  # noqa: E402
from tests.conftest import shared  # noqa: E402
from tests.filters.builders import scores, texture, view  # noqa: E402


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Where the filter looks for its weights: a tiny CLIP and a head, both random, in the official layouts."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("aesthetic")
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=14,
        image_size=224, projection_dim=768, hidden_act="quick_gelu",
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder / "clip")
    CLIPImageProcessorPil().save_pretrained(folder / "clip")
    torch.save(AestheticHead().state_dict(), folder / "head.pth")
    return {"clip-vit-large-patch14": folder / "clip", Aesthetic.weights[1]: folder / "head.pth"}


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


def test_the_filter_scores_each_second(official, monkeypatch):
    monkeypatch.setattr(weights, "path", official.__getitem__)
    images = [texture(252, 448, seed=n) for n in range(4)]
    found = scores(Aesthetic(), view({FRAMES: images}))
    alone = [scores(Aesthetic(), view({FRAMES: [image]}))["mean"] for image in images]
    assert found["mean"] == pytest.approx(np.mean(alone), abs=1e-5)
    assert found["least"] == pytest.approx(min(alone), abs=1e-5)
    assert len({round(one, 6) for one in alone}) == 4
    sides = images[0].copy()
    sides[:, :90] = sides[:, -90:] = 0
    assert scores(Aesthetic(), view({FRAMES: [sides]}))["mean"] == pytest.approx(alone[0], abs=1e-5)


def test_other_files_are_refused(tmp_path):
    torch.save({"layers.0.weight": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="doesn't hold the aesthetic head"):
        load(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("<html>")
    with pytest.raises(ValueError, match="can't be read"):
        load(tmp_path / "b.pth")
