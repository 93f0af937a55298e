"""Pictures as squares: what is cut, mirrored and made poor."""

import numpy as np
import pytest
from PIL import Image

from psalign.errors import DatasetError, UsageError
from psalign.sage.cache.framing import Framing, read_framed


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def wide(tmp_path):
    """40 x 16 pixels, red growing to the right."""
    pixels = np.zeros((16, 40, 3), np.uint8)
    pixels[..., 0] = np.arange(40) * 6
    return save(tmp_path / "wide.png", pixels), pixels


def test_without_a_size_a_picture_is_kept_as_it_is(wide):
    path, pixels = wide
    framed = read_framed(path, Framing(), (0.5, 0.5))
    assert np.array_equal(framed.pixels, pixels)
    assert framed.sizes == (16, 40, 0, 0, 16, 40)


@pytest.mark.parametrize(("share", "left"), [(0.0, 0), (0.5, 12), (1.0, 24)])
def test_the_longer_side_is_cut_where_the_pair_says(wide, share, left):
    path, pixels = wide
    framed = read_framed(path, Framing(size_px=16), (0.5, share))
    assert np.array_equal(framed.pixels, pixels[:, left : left + 16])
    assert framed.sizes == (16, 40, 0, left, 16, 16)


def test_the_shorter_side_is_scaled_to_the_square(wide):
    framed = read_framed(wide[0], Framing(size_px=8), (0.5, 0.5))
    assert framed.pixels.shape == (8, 8, 3)
    assert framed.sizes == (16, 40, 0, 6, 8, 8)


def test_mirrored(wide):
    plain, mirrored = (read_framed(wide[0], Framing(), (0.5, 0.5), flip=flip).pixels for flip in (False, True))
    assert np.array_equal(plain[:, ::-1], mirrored)


def test_a_poor_rendering_is_the_same_picture_with_less_in_it(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), 16, 0), 16, 1)
    path = save(tmp_path / "a.png", smooth)
    clean, poor = (read_framed(path, Framing(), (0.5, 0.5), degraded=d).pixels.astype(int) for d in (False, True))
    assert poor.shape == clean.shape
    assert 0 < np.abs(poor - clean).mean() < 25
    sharpness = [np.abs(np.diff(pixels, axis=1)).max() for pixels in (clean, poor)]
    assert sharpness[1] < 0.7 * sharpness[0]


def test_pairs_have_their_own_place_and_always_the_same():
    framing = Framing(size_px=64, crop="random")
    places = [framing.place(("0000001", "Hate", "concept", str(i))) for i in range(50)]
    assert places == [framing.place(("0000001", "Hate", "concept", str(i))) for i in range(50)]
    assert len(set(places)) == 50
    for axis in range(2):
        values = [place[axis] for place in places]
        assert min(values) >= 0
        assert max(values) <= 1
        assert 0.3 < np.mean(values) < 0.7
    assert Framing(size_px=64).place(("a",)) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "left"}, "Unknown crop 'left'; choose one of: centre, random"),
        ({"size_px": 100}, "size_px must be a multiple of 8; saw 100"),
        ({"size_px": 0}, "size_px must be a multiple of 8; saw 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        Framing(**settings)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8 cut", b"GIF89a"])
def test_files_that_are_no_pictures(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.jpg cannot be read as a picture"):
        read_framed(path, Framing(), (0.5, 0.5))
