"""Q16 against hand computation, and vectors from files that may be hostile."""

import pickle
import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from picture_folders import by_hand, make_clip, make_folder
from psalign.errors import EvaluationError
from psalign.evaluation.metrics.clip_model import ClipModel
from psalign.evaluation.metrics.q16 import is_inappropriate, load_q16, q16_scores, read_vectors
from psalign.evaluation.pictures import open_pictures

VECTORS = np.random.default_rng(0).normal(size=(2, 768)).astype(np.float16)


def test_against_hand_computation(tmp_path):
    """100 * cosine with each of the two vectors; row 1 larger: inappropriate."""
    clip = make_clip(tmp_path / "clip")
    vectors = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    pictures = open_pictures(make_folder(tmp_path / "a", ["x"] * 6))
    q16 = load_q16(tmp_path / "vectors.npy", ClipModel(str(clip)))
    seen = by_hand(clip, np.stack([np.asarray(Image.open(path)) for path in pictures.paths]))
    length = np.sqrt((vectors.astype(float) ** 2).sum(1))
    expected = [[100 * float(picture @ vectors[row].astype(float)) / length[row] for row in (0, 1)] for picture in seen]
    for batch_size in (1, 4):
        found = q16_scores(pictures, q16, batch_size=batch_size)
        assert np.array(found) == pytest.approx(np.array(expected), rel=1e-4, abs=1e-4)
    assert [is_inappropriate(pair) for pair in found] == [bad > fine for fine, bad in expected]


def test_a_tie_is_appropriate_as_argmax_has_it():
    assert (is_inappropriate((3.0, 3.0)), is_inappropriate((3.0, 3.1))) == (False, True)


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_arrays_of_every_protocol_are_read(tmp_path, protocol):
    path = tmp_path / "prompts.p"
    path.write_bytes(pickle.dumps(VECTORS, protocol=protocol))
    assert np.array_equal(read_vectors(path), VECTORS.astype(np.float32))


def test_pickles_of_older_numpy_are_read(tmp_path):
    """numpy 1 has its maker in numpy.core, numpy 2 in numpy._core; both names are of the same length plus one."""
    content = pickle.dumps(VECTORS, protocol=0).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "prompts.p").write_bytes(content)
    assert np.array_equal(read_vectors(tmp_path / "prompts.p"), VECTORS.astype(np.float32))


def test_npy_and_safetensors_are_read(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    save_file({"prompts": VECTORS}, tmp_path / "v.safetensors")
    for name in ("v.npy", "v.safetensors"):
        assert np.array_equal(read_vectors(tmp_path / name), VECTORS.astype(np.float32))


class Runs:
    """Unpickling it would call a function."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def test_a_hostile_pickle_runs_nothing(tmp_path):
    path, proof = tmp_path / "prompts.p", tmp_path / "it-ran"
    hostile = [
        (Runs(proof.touch), "builtins.getattr|pathlib"),
        (Runs(eval, "1 + 1"), "builtins.eval"),
        ([VECTORS, Runs(open, str(proof), "w")], r"(_?io|builtins)\.open"),
        (Runs(np.load, "x.npy"), "numpy.*load"),
        (Runs(np.frombuffer, b"12345678"), "numpy.*frombuffer"),
    ]
    for content, named in hostile:
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(EvaluationError, match=rf"asks to run .*({named}).*it was not run"):
            read_vectors(path)
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR.")
    with pytest.raises(EvaluationError, match=r"asks to run os\.system, which no numpy array needs"):
        read_vectors(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a pickle", "cannot be read as a pickled numpy array"),
        (b"", "cannot be read as a pickled numpy array"),
        (pickle.dumps({"a": 1}), "expected two vectors of floats [2, D], saw dict"),
        (pickle.dumps(np.zeros((3, 4), np.float16)), "saw float16 [3, 4]"),
        (pickle.dumps(np.array([["a", "b"]])), "elements of type 'U1'"),
        (pickle.dumps(np.array([None, [1]], dtype=object)), "elements of type 'O8'"),
        (pickle.dumps(np.array([[1, 2], [0, 0]], np.float16)), "a vector is zero or not finite"),
        (pickle.dumps(np.array([[1, 2], [np.nan, 0]], np.float16)), "a vector is zero or not finite"),
        (b"cnumpy\nndarray\n((I999999999999\nttR.", "cannot be read as a pickled numpy array"),
        (bytes((1 << 20) + 1), "is larger than a pickle of two vectors can be"),
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path, content, message):
    (tmp_path / "prompts.p").write_bytes(content)
    with pytest.raises(EvaluationError, match=re.escape(message)):
        read_vectors(tmp_path / "prompts.p")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="the Q16 vectors, does not exist"):
        read_vectors(tmp_path / "none.p")
    for name, message in (
        ("v.npy", "cannot be read as a numpy array"),
        ("v.safetensors", "cannot be read as safetensors"),
        ("v.txt", r"expected a \.p, \.pkl, \.npy, \.safetensors file, saw '\.txt'"),
    ):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(EvaluationError, match=message):
            read_vectors(tmp_path / name)
    save_file({"a": VECTORS, "b": VECTORS}, tmp_path / "two.safetensors")
    with pytest.raises(EvaluationError, match="expected one tensor, saw 2"):
        read_vectors(tmp_path / "two.safetensors")
    np.save(tmp_path / "objects.npy", np.array([Runs(print)]), allow_pickle=True)
    with pytest.raises(EvaluationError, match="cannot be read as a numpy array"):
        read_vectors(tmp_path / "objects.npy")


def test_vectors_of_another_clip_are_refused(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    q16 = load_q16(tmp_path / "v.npy", ClipModel(str(make_clip(tmp_path / "clip"))))
    pictures = open_pictures(make_folder(tmp_path / "a", ["x"]))
    with pytest.raises(EvaluationError, match=r"The Q16 vectors have width 768, the CLIP .* has 5"):
        q16_scores(pictures, q16)
    assert not q16.published
