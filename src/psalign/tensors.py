"""Tensors in files that others wrote: read without running anything, or refused with the name of the file.

Place on the path of data: under every room that reads weights. A damaged or foreign file makes safetensors, torch and
pickle raise nearly anything; here it becomes an error of ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, PSAlignError, is_out_of_memory, library_errors, reason_of, some_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Fault = Callable[..., PSAlignError]
SHOWN = 3
NPY_BEGIN = b"\x93NUMPY"


def read_safetensors(
    path: Path, *, fault: Fault = CheckpointError, hint: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of a safetensors file by name, and the words of its header. Raises `fault` where it cannot be read."""
    from safetensors import safe_open

    _require_file(path, fault, hint)
    with library_errors(fault, f"{path} cannot be read as safetensors", hint=hint), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  no dict


def read_pickled(path: Path, *, fault: Fault = CheckpointError, hint: str | None = None) -> Any:
    """What torch.save wrote: tensors in dictionaries and lists. A pickle that names anything else is not run.

    Raises `fault` where it cannot be read.
    """
    import torch

    _require_file(path, fault, hint)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch's own text advises to load it unsafely
        if is_out_of_memory(err):
            raise
        why = reason_of(err) if isinstance(err, OSError) else "it is damaged or cut short, or holds more than tensors"
        raise fault(f"{path} cannot be read as a checkpoint of torch: {why}.", hint=hint) from err


def read_array(path: Path, *, fault: Fault = CheckpointError, hint: str | None = None) -> NDArray[Any]:
    """A .npy file of numbers, of any shape. Raises `fault` for any other file: a zip of arrays, an array of objects,
    text or dates."""
    import numpy as np

    _require_file(path, fault, hint)
    with library_errors(fault, f"{path} cannot be read as a numpy array", hint=hint):
        content = path.read_bytes()
    if not content.startswith(NPY_BEGIN):
        raise fault(f"{path} cannot be read as a numpy array: it is no .npy file.", hint=hint)
    try:
        array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as err:  # numpy evaluates the header as Python, and its own text advises to load it unsafely
        if is_out_of_memory(err):
            raise
        why = "it is cut short, its header is damaged, or it holds objects"
        raise fault(f"{path} cannot be read as a numpy array: {why}.", hint=hint) from err
    if array.dtype.kind not in "fiu":
        raise fault(f"{path}: expected an array of numbers, saw {array.dtype}.", hint=hint)
    return array


def require_numbers(
    weights: Mapping[str, torch.Tensor], path: Path, *, fault: Fault = CheckpointError, hint: str | None = None
) -> None:
    """Raises `fault` for tensors that are no plain floating-point numbers: of whole numbers or truth values, sparse,
    without content, or not finite."""
    for fits, expected in ((_is_plain, "plain floating-point numbers"), (_is_finite, "finite numbers")):
        wrong = [name for name, weight in weights.items() if not fits(weight)]
        if wrong:
            raise fault(f"{path}: expected {expected} in {some_of(wrong, SHOWN)}.", hint=hint)


def has_words(tokenizer: Any) -> bool:
    """Whether a tokenizer knows more than its special tokens: of a folder without a vocabulary transformers makes one
    that does not, and every text then reads the same."""
    return len(tokenizer) > len(set(tokenizer.all_special_ids))


def _require_file(path: Path, fault: Fault, hint: str | None) -> None:
    if not path.is_file():
        seen = "is a folder; expected a file" if path.is_dir() else "does not exist"
        raise fault(f"{path} {seen}.", hint=hint)


def _is_plain(weight: torch.Tensor) -> bool:
    import torch

    usual = weight.layout == torch.strided and not weight.is_quantized and not weight.is_meta
    return usual and weight.is_floating_point()


def _is_finite(weight: torch.Tensor) -> bool:
    import torch

    numbers = weight.float() if weight.element_size() == 1 else weight  # 8-bit floats cannot be asked
    return bool(torch.isfinite(numbers).all())
