"""How much memory a training step needs on a GPU, counted without one: every tensor's bytes from its making to its end.

    python benchmarks/memory.py

The UNet has its full size and no weights (fake tensors of torch have shapes alone), so this runs anywhere, in minutes.
Counted are frozen weights, activations, gradients and the optimiser's state of the presets' adapters at the presets'
picture sizes, all in bf16 but the adapter, which is float32. Not counted: what an allocator rounds up and keeps, the
CUDA context (together 0.5 to 1 GB) and workspaces of single kernels. VAE and text encoders are not on the device: their
outputs are cached. Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import torch
from inference import make_unet
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.users import RowUsers
from psalign.config import load_preset
from psalign.diffusion.base_models import BASES
from psalign.files import write_json
from psalign.fingerprints import versions

# base, pairs in a pass, whether layers are checkpointed, and the limit in GB that the card has.
CASES = (("sd15", 1, True, 12), ("sd15", 1, False, 12), ("sd15", 4, False, 24), ("sdxl", 1, True, 12))
LOSSES = {"preset (anchor caption)": 1, "DPO": 2}  # pictures of a pair that the policy looks at
TOKENS = 77


def main() -> None:
    cases = []
    for base, pairs, checkpointing, limit_gb in CASES:
        for loss, pictures in LOSSES.items():
            counted = count(base, pairs * pictures, checkpointing=checkpointing)
            case = {"base": base, "size_px": BASES[base].size_px, "pairs": pairs, "checkpointing": checkpointing}
            cases.append({**case, "loss": loss, **counted, "limit_gb": limit_gb})
            print(json.dumps(cases[-1]))
    write_json(Path(__file__).parent / "results" / "memory.json", {"cases": cases, **versions()})


def count(base: str, rows: int, *, checkpointing: bool) -> dict[str, float]:
    """Peak and frozen GB of one step on so many pictures: reference, policy, backward, AdamW."""
    with FakeTensorMode(), LiveBytes() as live:
        torch.set_default_dtype(torch.bfloat16)
        unet = make_unet(base)
        torch.set_default_dtype(torch.float32)
        frozen = live.now
        if checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        adapter = _adapter(base, unet)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4)
        for _ in range(2):  # the second step has the optimiser's state
            _step(base, unet, adapter, optimizer, rows)
    return {"peak_gb": round(live.peak / 1e9, 2), "frozen_gb": round(frozen / 1e9, 2)}


def _step(base: str, unet: Any, adapter: PromptAdapter, optimizer: torch.optim.Optimizer, rows: int) -> None:
    side, dtype = BASES[base].size_px // 8, torch.bfloat16
    noisy, times = torch.randn((rows, 4, side, side), dtype=dtype), torch.full((rows,), 500)
    states, pooled = torch.randn((rows, TOKENS, BASES[base].context_dim)), None
    added: dict[str, Any] = {}
    if BASES[base].pooled_dim:
        pooled, sizes = torch.randn((rows, BASES[base].pooled_dim)), torch.randn((rows, 6), dtype=dtype)
        added = {"added_cond_kwargs": {"text_embeds": pooled.to(dtype), "time_ids": sizes}}
    with torch.no_grad():
        reference = unet(noisy, times, states.to(dtype), **added).sample
    users = RowUsers(torch.randn((rows, adapter.llm_dim)), torch.ones(rows))
    rewritten, steered = adapter.rewritten(states, pooled, users)
    if steered is not None:
        added["added_cond_kwargs"]["text_embeds"] = steered.to(dtype)
    predicted = unet(noisy, times, rewritten.to(dtype), **added).sample
    (predicted.float() - reference.float()).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _adapter(base: str, unet: Any) -> PromptAdapter:
    shape = load_preset(f"psa-{base}")["prompt"]["adapter"]
    return PromptAdapter(
        base=base, recipe="benchmark", llm_dim=3584, context_dim=unet.config.cross_attention_dim,
        pooled_dim=BASES[base].pooled_dim, **shape,
    )  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that were made within it and live. now, peak: in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


if __name__ == "__main__":
    main()
