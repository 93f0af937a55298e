"""Files of tensors that something damaged, or that are of another kind: refused by name, and nothing in them is run."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save

from psalign.errors import CheckpointError, EvaluationError
from psalign.tensors import read_array, read_pickled, read_safetensors, require_numbers

TENSOR = {"a": torch.zeros(3)}
PAST_ITS_END = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,99999]}}'


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def pickled(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def npy(array, **how):
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


def npz(array):
    stream = io.BytesIO()
    np.savez(stream, a=array)
    return stream.getvalue()


def with_header(header):
    return b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n"


DAMAGED = {
    "empty": b"",
    "one byte": b"\x80",
    "text": b"hello world\n",
    "a page": b"<!doctype html><html><body>404</body></html>",
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n",
    "binary": bytes(range(256)) * 40,
    "zeros": bytes(5000),
    "a cut head": save(TENSOR)[:12],
    "a head without end": struct.pack("<Q", 2**62) + b"{}",
    "past its end": struct.pack("<Q", len(PAST_ITS_END)) + PAST_ITS_END,
    "a list for a head": struct.pack("<Q", 2) + b"[]",
    "a cut checkpoint": pickled(TENSOR)[:-30],
    "half a checkpoint": pickled(TENSOR)[:300],
    "hostile": pickle.dumps(Evil()),
    "hostile text": b"cos\nmkdir\n(S'evil'\ntR.",
    "a later protocol": b"\x80\x09.",
    "nothing on the stack": b".",
    "nothing remembered": b"\x80\x04h\x05.",
    "marks": b"\x80\x04" + b"(" * 50_000 + b".",
    "brackets": b"[" * 100_000,
    "arrays in a zip": npz(np.zeros(3)),
    "objects": npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "a cut array": npy(np.zeros(64, np.float32))[:-9],
    "a head that does not end": with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,"),
    "a head that is code": with_header(b"__import__('os').mkdir('evil')"),
    "a shape below 0": with_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }"),
    "a later version": b"\x93NUMPY\x09\x00v\x00" + b" " * 118,
}
READERS = {".safetensors": read_safetensors, ".bin": read_pickled, ".npy": read_array}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_name_and_not_run(suffix, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(EvaluationError) as raised:
        READERS[suffix](path, fault=EvaluationError, hint="Fetch it again.")
    first, hint = str(raised.value).split("\n")
    assert hint == "Fetch it again."
    assert f"file{suffix} " in first
    assert first.rpartition(": ")[2].rstrip(".")
    assert "allow_pickle" not in first
    assert "weights_only" not in first
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("suffix", READERS)
def test_what_is_no_file_is_said_so(suffix, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(CheckpointError, match="folder is a folder; expected a file"):
        READERS[suffix](tmp_path / "folder")
    for name in ("none", "link"):
        with pytest.raises(CheckpointError, match=f"{name} does not exist"):
            READERS[suffix](tmp_path / name)


def test_whole_files_are_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save(TENSOR, metadata={"recipe": "r"}))
    (tmp_path / "a.bin").write_bytes(pickled({"group": TENSOR}))
    (tmp_path / "a.npy").write_bytes(npy(np.arange(3, dtype=np.float16)))
    tensors, words = read_safetensors(tmp_path / "a.safetensors")
    assert (list(tensors), words) == (["a"], {"recipe": "r"})
    assert read_pickled(tmp_path / "a.bin")["group"]["a"].tolist() == [0, 0, 0]
    assert read_array(tmp_path / "a.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, complex), np.array(["a"]), np.zeros(3, "M8[D]"), np.zeros(3, [("a", "f4")]), np.zeros(3, "V4")],
)
def test_an_array_of_no_numbers_is_refused(array, tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(array))
    with pytest.raises(CheckpointError, match=r"a\.npy: expected an array of numbers, saw"):
        read_array(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "finite numbers in b"),
        (torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn), "finite numbers in b"),
        (torch.tensor([1, 2]), "plain floating-point numbers in b"),
        (torch.tensor([True]), "plain floating-point numbers in b"),
        (torch.zeros(2, dtype=torch.complex64), "plain floating-point numbers in b"),
        (torch.zeros(2).to_sparse(), "plain floating-point numbers in b"),
        (torch.zeros(2, device="meta"), "plain floating-point numbers in b"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(weight, message, tmp_path):
    with pytest.raises(CheckpointError, match=f"a.bin: expected {message}"):
        require_numbers({"a": torch.zeros(1), "b": weight}, tmp_path / "a.bin")
    require_numbers({"a": torch.zeros(1, dtype=torch.bfloat16)}, tmp_path / "a.bin")
