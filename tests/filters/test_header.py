import pytest

from filters.header import Header
from tests.filters.builders import facts, scores, view


def test_header_facts():
    found = scores(Header(), view(media=facts(width=720, height=1280, fps=30.0, bit_rate=2_764_800)))
    assert found["short_side"] == 720
    assert found["fps"] == 30
    assert found["duration"] == 5
    assert found["audio"] == 1
    assert found["bits_per_pixel"] == pytest.approx(0.1)


def test_a_source_without_sound():
    assert scores(Header(), view(media=facts(audio_codec=None)))["audio"] == 0


def test_it_decodes_nothing():
    assert not Header.needs.frames
    assert not Header.needs.audio
