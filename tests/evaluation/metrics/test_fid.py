"""Frechet and kernel distances, against other ways to compute them."""

import numpy as np
import pytest
from PIL import Image

from psalign.errors import EvaluationError
from psalign.evaluation.metrics.cache import Lazy
from psalign.evaluation.metrics.fid import (
    Extraction,
    Moments,
    Statistics,
    frechet_distance,
    kernel_distance,
    picture_statistics,
    read_statistics,
    reference_statistics,
    write_statistics,
)
from psalign.fingerprints import file_fingerprint

WIDTH = 24


def statistics(features):
    moments = Moments()
    for start in range(0, len(features), 7):
        moments.add(features[start : start + 7])
    return Statistics(moments.mean, moments.covariance, moments.n, features, "tests", "tests")


def features(n, *, seed, width=WIDTH, shift=0.0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(seed + 100).normal(size=(width, width))
    return (rng.normal(size=(n, width)) @ mixing + shift).astype(np.float32)


def independent(a, b):
    """FID by the eigenvalues of the product of covariances, which is not symmetric: another way to the same trace."""
    mean_a, mean_b = a.astype(float).mean(0), b.astype(float).mean(0)
    cov_a, cov_b = np.cov(a.astype(float), rowvar=False), np.cov(b.astype(float), rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots


def test_moments_are_those_of_all_features_at_once():
    rows = features(50, seed=1, shift=1000.0)
    found = statistics(rows)
    assert found.mean == pytest.approx(rows.astype(float).mean(0), rel=1e-12)
    assert found.covariance == pytest.approx(np.cov(rows.astype(float), rowvar=False), rel=1e-9, abs=1e-9)


def test_frechet_distance_against_independent_computations():
    a, b = features(300, seed=1), features(200, seed=2, shift=0.5)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(independent(a, b), rel=1e-6)
    scipy_linalg = pytest.importorskip("scipy.linalg")
    one, other = statistics(a), statistics(b)
    root = scipy_linalg.sqrtm(one.covariance @ other.covariance).real
    expected = ((one.mean - other.mean) ** 2).sum() + np.trace(one.covariance + other.covariance - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_one_dimension_by_hand():
    """MethodInputs 0 and 3, variances 4 and 9 (n - 1): 3^2 + 4 + 9 - 2 * sqrt(4 * 9) = 10."""
    a, b = np.array([[-2.0], [0.0], [2.0]], np.float32), np.array([[0.0], [3.0], [6.0]], np.float32)
    assert statistics(a).covariance.item() == 4
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(10, rel=1e-12)


@pytest.mark.parametrize("n", [5, 300])
def test_a_set_has_no_distance_to_itself_even_where_its_covariance_is_singular(n):
    one = statistics(features(n, seed=3))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-10 * np.trace(one.covariance))


def test_singular_covariances_by_hand():
    """All of a on one axis, all of b on another: the cross term is 0, so |m|^2 + tr + tr = 0 + 1 + 4."""
    a = np.array([[-1, 0, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    b = np.array([[0, -2, 0], [0, 0, 0], [0, 2, 0]], np.float32)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(5, rel=1e-12)


def test_kernel_distance_against_a_sum_written_by_hand():
    x, y = features(6, seed=4, width=3), features(5, seed=5, width=3)

    def kernel(a, b):
        return (float(a.astype(float) @ b.astype(float)) / 3 + 1) ** 3

    def unbiased(x, y):
        m, n = len(x), len(y)
        within_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        within_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)

    found = kernel_distance(x, y, block=2)
    assert found.value == pytest.approx(unbiased(x, y), rel=1e-9)
    without_x = np.array([unbiased(np.delete(x, i, 0), y) for i in range(6)])
    without_y = np.array([unbiased(x, np.delete(y, i, 0)) for i in range(5)])
    variance = sum((len(w) - 1) / len(w) * ((w - w.mean()) ** 2).sum() for w in (without_x, without_y))
    assert found.high - found.value == pytest.approx(1.959963984540054 * variance**0.5, rel=1e-9)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_kernel_distance_is_unbiased_and_its_interval_covers():
    """Two sets of one distribution, 200 times: the mean is near 0, and the interval has 0 nearly always."""
    draws = [np.random.default_rng(seed).normal(size=(2, 40, 4)).astype(np.float32) for seed in range(200)]
    found = [kernel_distance(x, y) for x, y in draws]
    values = np.array([mean.value for mean in found])
    assert abs(values.mean()) < 3 * values.std() / 200**0.5
    assert np.mean([mean.low <= 0 <= mean.high for mean in found]) > 0.9


def test_a_set_beside_itself_is_compared_with_itself_too():
    """Cross pairs include each picture with itself, which no within pair does: the value is below 0, by hand.

    x = 0, 1, 2 of one feature, kernel (x y + 1)^3. Within: k(0,1) + k(0,2) + k(1,2) = 1 + 1 + 27, so the mean over
    ordered pairs is 29/3. Across: those twice and k(0,0) + k(1,1) + k(2,2) = 1 + 8 + 125: (58 + 134) / 9.
    """
    x = np.array([[0], [1], [2]], np.float32)
    assert kernel_distance(x, x).value == pytest.approx(2 * 29 / 3 - 2 * 192 / 9)
    assert kernel_distance(x, x) == kernel_distance(x, x.copy())


def test_too_few_pictures_are_refused():
    with pytest.raises(EvaluationError, match=r"KID needs at least three pictures on each side; saw 2 and 9\."):
        kernel_distance(features(2, seed=0), features(9, seed=1))
    with pytest.raises(EvaluationError, match=r"at least two pictures; saw 1\."):
        statistics(features(1, seed=0))


# --- folders -------------------------------------------------------------------------------------------------------


class Colours:
    """Mean colour of each picture, and how often it was asked."""

    asked = 0

    def __call__(self, pictures):
        self.asked += 1
        return pictures.reshape(len(pictures), -1, 3).mean(1).astype(np.float32)


def extraction(cache, *, name="colours", batch_size=4):
    return Extraction(Lazy(lambda: name, Colours), cache, batch_size)


def colour_folder(folder, sizes, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def test_a_reference_is_a_folder_of_pictures_of_any_sizes(tmp_path):
    folder = colour_folder(tmp_path / "real", [(4, 4), (4, 4), (6, 5), (4, 4), (6, 5)])
    found = reference_statistics(folder, extraction(None))
    expected = np.stack([np.asarray(Image.open(p)).reshape(-1, 3).mean(0) for p in sorted(folder.glob("*"))])
    assert found.n == 5
    assert found.mean == pytest.approx(expected.mean(0), rel=1e-6)
    assert found.features == pytest.approx(expected, rel=1e-6)
    for size in (1, 3):
        again = reference_statistics(folder, extraction(None, batch_size=size))
        assert again.covariance == pytest.approx(found.covariance, rel=1e-9)


def test_statistics_are_kept_and_nothing_is_computed_twice(tmp_path):
    folder, how = colour_folder(tmp_path / "real", [(4, 4)] * 5), extraction(tmp_path / "cache")
    first = reference_statistics(folder, how)
    asked = how.extractor().asked
    again = reference_statistics(folder, how)
    assert (asked, how.extractor().asked) == (2, 2)
    for name in ("mean", "covariance", "features"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert (again.n, again.fingerprint, again.extractor) == (5, first.fingerprint, "colours")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "00.png")
    assert reference_statistics(folder, how).fingerprint != first.fingerprint
    assert how.extractor().asked == 4


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40  # the last number of the last array
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "a page": lambda path: path.write_text("<html>"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "one other number": _flip,
    "of other pictures": lambda path: path.write_bytes(path.read_bytes().replace(b'"n":"5"', b'"n":"9"')),
}


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE)
def test_damaged_statistics_in_the_cache_are_made_again(spoil, tmp_path):
    folder, how = colour_folder(tmp_path / "real", [(4, 4)] * 5), extraction(tmp_path / "cache")
    first = reference_statistics(folder, how)
    [kept] = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    spoil(kept)
    assert kept.read_bytes() != whole
    again = reference_statistics(folder, how)
    for name in ("mean", "covariance", "features", "n", "fingerprint"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert np.array_equal(read_statistics(kept).features, first.features)
    _flip(kept)
    with pytest.raises(EvaluationError, match=r"cannot be read as statistics of pictures: it is damaged\.\nGive the"):
        reference_statistics(kept, how)


def test_a_file_of_statistics_is_a_reference_for_its_own_extractor_only(tmp_path):
    folder = colour_folder(tmp_path / "real", [(4, 4)] * 3)
    made = reference_statistics(folder, extraction(None))
    write_statistics(tmp_path / "real.safetensors", made)
    assert reference_statistics(tmp_path / "real.safetensors", extraction(None)).n == 3
    with pytest.raises(EvaluationError, match="was made with the feature extractor colours, not shapes"):
        reference_statistics(tmp_path / "real.safetensors", extraction(None, name="shapes"))


def test_references_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(EvaluationError, match="holds no pictures to compare with"):
            reference_statistics(place, extraction(None))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(EvaluationError, match="cannot be read as safetensors"):
        read_statistics(tmp_path / "broken.safetensors")
    folder = colour_folder(tmp_path / "one", [(4, 4)])
    with pytest.raises(EvaluationError, match=r"at least two pictures; saw 1\."):
        reference_statistics(folder, extraction(None))
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes()[:40])
    paths = sorted(folder.glob("*"))
    with pytest.raises(EvaluationError, match=r"1 pictures cannot be read as pictures: 01\.png"):
        picture_statistics(folder, paths, [file_fingerprint(path) for path in paths], extraction(None))


def test_features_that_are_not_finite_are_refused(tmp_path):
    def broken(pictures):
        return np.full((len(pictures), 3), np.nan, np.float32)

    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    how = Extraction(Lazy(lambda: "broken", lambda: broken), tmp_path / "cache", 2)
    with pytest.raises(EvaluationError, match="the feature extractor gives numbers that are not finite"):
        reference_statistics(tmp_path, how)
    assert not (tmp_path / "cache").exists()
