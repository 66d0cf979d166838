"""Shards: what is cut plays, in sync; other tools read it; the same input gives the same bytes."""

import io
import json
import tarfile

import av
import numpy as np
import pytest
import webdataset

from dataset.cut import cut_clip
from dataset.shards import Sample, make_shard, read_samples
from tests.videos import clicks, grey_ramp, write_video


def play(data: bytes) -> tuple[list[float], list[float], np.ndarray]:
    """(frame times, frame brightness, 48 kHz mono sound) of an mp4."""
    with av.open(io.BytesIO(data)) as container:
        frames = [(f.time, float(f.to_ndarray(format="rgb24").mean())) for f in container.decode(video=0)]
    pieces = []
    with av.open(io.BytesIO(data)) as container:
        if container.streams.audio:
            pieces = [f.to_ndarray()[0] for f in container.decode(audio=0)]
    return [t for t, _ in frames], [b for _, b in frames], np.concatenate(pieces) if pieces else np.zeros(0)


def test_a_cut_clip_keeps_pictures_and_sound_in_step(tmp_path):
    source = write_video(tmp_path / "a.mp4", 6, sound=clicks(6), gop=100)
    cut = cut_clip(str(source), 2.0, 5.0)
    times, brightness, sound = play(cut.video)
    assert len(times) == 75
    assert (cut.width, cut.height) == (128, 96)
    assert times == pytest.approx([i / 25 for i in range(75)], abs=0.002)
    assert brightness[0] == pytest.approx(40, abs=2.5)
    assert brightness[-1] == pytest.approx(69.6, abs=2.5)
    loud = np.flatnonzero(np.abs(sound) > 0.3) / 48_000
    assert loud.min() == pytest.approx(0.5, abs=0.004)
    assert len(sound) / 48_000 == pytest.approx(3.0, abs=0.03)


def test_variable_rate_and_silence_survive_the_cut(tmp_path):
    times = [0, 0.04, 0.08, 0.5, 1.0, 1.04, 1.9]
    shown, _, sound = play(cut_clip(str(write_video(tmp_path / "a.mkv", times=times)), 0, 2).video)
    assert shown == pytest.approx(times, abs=0.002)
    assert not len(sound)


def test_odd_sizes_become_even(tmp_path):
    source = write_video(tmp_path / "a.mp4", 1, picture=lambda t: grey_ramp(t, 97, 131), pix_fmt="yuv444p")
    with av.open(io.BytesIO(cut_clip(str(source), 0, 1).video)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.pix_fmt) == (130, 96, "yuv420p")


def test_full_range_pictures_keep_their_brightness(tmp_path):
    source = write_video(tmp_path / "a.mp4", 2, picture=lambda t: grey_ramp(t + 15), pix_fmt="yuvj420p")
    _, brightness, _ = play(cut_clip(str(source), 0, 2).video)
    assert brightness[0] == pytest.approx(170, abs=3)


def test_the_same_clip_gives_the_same_bytes(tmp_path):
    source = write_video(tmp_path / "a.mp4", 2, sound=clicks(2))
    assert cut_clip(str(source), 0, 2) == cut_clip(str(source), 0, 2)


def samples() -> list[Sample]:
    return [Sample(f"{i:04x}", {"mp4": bytes([i]) * 700, "json": json.dumps({"n": i}).encode()}) for i in range(5)]


def test_webdataset_alone_reads_a_shard(tmp_path):
    (tmp_path / "000000.tar").write_bytes(make_shard(samples())[0])
    data = webdataset.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False)
    found = [(s["__key__"], len(s["mp4"]), json.loads(s["json"])["n"]) for s in data]
    assert found == [(f"{i:04x}", 700, i) for i in range(5)]


def test_an_offset_leads_to_its_sample(tmp_path):
    data, offsets = make_shard(samples())
    (tmp_path / "s.tar").write_bytes(data)
    assert next(read_samples(str(tmp_path / "s.tar"), offsets["0003"])) == samples()[3]
    assert list(read_samples(str(tmp_path / "s.tar"))) == samples()


def test_shards_are_deterministic():
    assert make_shard(samples()) == make_shard(samples())


def liar(lie) -> bytes:
    """A shard with an honest sample, and one whose header `lie` has changed."""
    honest, lying = tarfile.TarInfo("0000.mp4"), tarfile.TarInfo("0001.mp4")
    honest.size = lying.size = 512
    header = bytearray(lying.tobuf(tarfile.GNU_FORMAT))
    lie(header)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    blocks = [honest.tobuf(tarfile.GNU_FORMAT), bytes(512), bytes(header), bytes(512)]
    return b"".join(blocks) + bytes(1024)


def sparse(header: bytearray) -> None:
    """512 bytes, and 4 GiB of holes."""
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (1 << 20, 512)
    header[483:495] = b"%011o\0" % (4 << 30)


def claims(size: int, kind: bytes = tarfile.REGTYPE):
    def lie(header: bytearray) -> None:
        header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
        header[156:157] = kind

    return lie


@pytest.mark.parametrize("lie", [sparse, claims(1 << 62), claims(1 << 62, b"Z"), claims(-512)])
def test_a_member_that_claims_more_than_the_shard_has_is_refused(lie, tmp_path):
    (tmp_path / "s.tar").write_bytes(liar(lie))
    for offset in (0, 1024):
        with pytest.raises(tarfile.ReadError, match="0001"):
            list(read_samples(str(tmp_path / "s.tar"), offset))


def test_a_sample_is_not_blamed_for_the_next_one(tmp_path):
    (tmp_path / "s.tar").write_bytes(liar(sparse))
    assert next(read_samples(str(tmp_path / "s.tar"))) == Sample("0000", {"mp4": bytes(512)})
