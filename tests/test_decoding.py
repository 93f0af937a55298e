"""A picture file becomes what a viewer shows, the same in training, evaluation and validation; or an error by name."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from psalign.decoding import MAX_PIXELS, TURNS, Undecodable, decode, is_hidden
from psalign.errors import DatasetError, EvaluationError
from psalign.evaluation.pictures import PICTURE_SUFFIXES, own_pictures, read_picture
from psalign.sage.cache.framing import Framing, read_framed
from psalign.users import EmbeddingStore

UPRIGHT = np.zeros((16, 24, 3), np.uint8)
UPRIGHT[:8, :12] = 255  # white in the corner at the top left
BACK = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # EXIF orientation -> the turn that undoes it


def saved(picture, **options):
    stream = io.BytesIO()
    picture.save(stream, **{"format": "PNG", **options})
    return stream.getvalue()


def pixels(picture, **options):
    return np.asarray(decode(saved(picture, **options)))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_stand_upright_whatever_exif_says(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(UPRIGHT).transpose(TURNS[BACK[orientation]])
    found = pixels(stored, format=form, exif=exif, **({"quality": 100} if form in ("JPEG", "WEBP") else {}))
    assert found.shape == UPRIGHT.shape
    assert found[2, 3].min() > 200
    assert found[2, 20].max() < 60
    assert found[13, 3].max() < 60


def test_damaged_exif_leaves_a_picture_as_it_is_stored():
    content = saved(
        Image.fromarray(UPRIGHT), format="JPEG", quality=100, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\1" * 40
    )
    assert np.asarray(decode(content)).shape == UPRIGHT.shape


def with_alpha(mode):
    half = np.zeros((8, 8, 4), np.uint8)
    half[:, :4], half[:, 4:] = (0, 0, 255, 255), (255, 0, 0, 0)  # nobody sees the red
    if mode == "P":
        return Image.fromarray(half).quantize(4)
    return Image.fromarray(half).convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_on_white(mode):
    found = pixels(with_alpha(mode))
    assert (found[:, 5:] == 255).all()
    assert found[:, :3].max() == (29 if mode == "LA" else 255)  # blue is kept; its grey is .114 of it
    assert (found[:, :3] != 255).any()


def test_a_colour_that_is_declared_transparent():
    plain = np.full((4, 4, 3), 10, np.uint8)
    plain[:2] = (255, 0, 0)
    found = pixels(Image.fromarray(plain), transparency=(255, 0, 0))
    assert (found[:2] == 255).all()
    assert (found[2:] == 10).all()
    grey = pixels(Image.fromarray(np.full((2, 2), 7, np.uint8)), transparency=7)
    assert (grey == 255).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_scaled_not_cut_off(form):
    """0, a quarter, a half and all of 65535."""
    values = np.tile(np.array([0, 16448, 32896, 65535], np.uint16), (8, 2))
    found = pixels(Image.fromarray(values), format=form, **({"irreversible": False} if form == "JPEG2000" else {}))
    np.testing.assert_array_equal(found[0, :4, 0], [0, 64, 128, 255])


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_pixels_without_a_known_range_are_refused(kind, mode):
    with pytest.raises(Undecodable, match=rf"mode {mode}\) have no known range; expected 8 or 16 bits"):
        decode(saved(Image.fromarray(np.ones((4, 4), kind)), format="TIFF"))


def test_cmyk_is_turned_into_what_is_printed():
    """No ink is white, full yellow is yellow, and black ink wins."""
    ink = np.zeros((8, 24, 4), np.uint8)
    ink[:, 8:16, 2], ink[:, 16:, 3] = 255, 255
    found = pixels(Image.fromarray(ink, "CMYK"), format="JPEG", quality=100, subsampling=0)
    assert found[4, 4].min() > 250
    assert (found[4, 12] > 250).tolist() == [True, True, False]
    assert found[4, 20].max() < 5


def screen_with_red_and_blue_exchanged(srgb):
    """A colour profile of a made-up screen: the tags of sRGB's red and blue change places, and its name goes."""
    places = {srgb[at : at + 4]: at for at in range(132, 132 + 12 * struct.unpack(">I", srgb[128:132])[0], 12)}
    swapped = bytearray(srgb)
    red, blue = (slice(places[name] + 4, places[name] + 12) for name in (b"rXYZ", b"bXYZ"))  # offset and length
    swapped[red], swapped[blue] = srgb[blue], srgb[red]
    return bytes(swapped).replace("sRGB".encode("utf-16-be"), "made".encode("utf-16-be"))


def test_a_colour_profile_is_followed():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert pixels(red, icc_profile=srgb)[0, 0].tolist() == [255, 0, 0]
    assert pixels(red, icc_profile=b"no profile")[0, 0].tolist() == [255, 0, 0]
    found = pixels(red, icc_profile=screen_with_red_and_blue_exchanged(srgb))[0, 0]
    assert found[2] > 200
    assert found[0] < 60


def test_what_is_plain_stays_bit_for_bit():
    for array in (UPRIGHT, UPRIGHT[..., 0], np.eye(8, dtype=bool)):
        picture = Image.fromarray(array)
        np.testing.assert_array_equal(pixels(picture), np.asarray(picture.convert("RGB")))


HUGE = {"too many for Pillow": (15000, 15000), "more than its warning": (10000, 10000)}


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("strict", [True, False])
def test_pictures_of_too_many_pixels_are_refused(size, strict, tmp_path):
    """Whatever Python does with warnings."""
    Image.new("1", HUGE[size]).save(tmp_path / "panorama.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore", Image.DecompressionBombWarning)
        for read, error in ((read_picture, EvaluationError),
                            (lambda path: read_framed(path, Framing(), (0, 0)), DatasetError)):  # fmt: skip
            with pytest.raises(error, match=r"panorama\.png cannot be read as a picture"):
                read(tmp_path / "panorama.png")
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def bomb_of_text():
    info = PngInfo()
    info.add_text("words", "a" * (2 << 20), zip=True)
    return saved(Image.fromarray(UPRIGHT), pnginfo=info)


BROKEN = {
    "empty": b"",
    "text": b"not a picture",
    "cut short": saved(Image.fromarray(UPRIGHT))[:-40],
    "a JPEG cut short": saved(Image.effect_noise((64, 64), 50), format="JPEG")[:300],
    "a broken chunk": saved(Image.fromarray(UPRIGHT)).replace(b"IDAT", b"IDAX"),
    "text that unpacks without end": bomb_of_text(),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damaged_files_are_named(case, tmp_path):
    (tmp_path / "a.png").write_bytes(BROKEN[case])
    with pytest.raises(EvaluationError, match=r"a\.png cannot be read as a picture \(.+\)"):
        read_picture(tmp_path / "a.png")


def test_any_fault_of_a_decoder_is_an_error_of_the_file(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise struct.error("unpack requires a buffer")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(Undecodable, match="unpack requires"):
        decode(b"x")


def test_files_that_a_mac_leaves_beside_are_not_pictures(tmp_path):
    for name in ("a.png", "._a.png", ".b.png.1.part", "__MACOSX/._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(UPRIGHT).save(tmp_path / name, format="PNG")
    assert [path.name for path in own_pictures(tmp_path)] == ["a.png"]
    assert [path.name for path in tmp_path.rglob("*") if path.suffix in PICTURE_SUFFIXES and not is_hidden(path)] == [
        "a.png"
    ]
    np.save(tmp_path / "0000001.npy", np.ones(3))
    (tmp_path / "._0000001.npy").write_bytes(b"\0\5\x16\7")
    assert EmbeddingStore.load(tmp_path).user_ids == ("0000001",)
