"""A small stand-in for ComfyUI, which is not on PyPI: what the node pack uses of its API, and nothing else.

It has the names and signatures of ComfyUI 0.3.64: comfy_api.latest, folder_paths, comfy.patcher_extension, and of its
objects CLIP and ModelPatcher. tests/integrations/real_comfyui.py runs the same pack in a real checkout of ComfyUI.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

PACK = Path(__file__).parents[1] / "integrations/comfyui"


class Slot:
    """An input or output of a node: its type and what was said of it."""

    def __init__(self, io_type: str, args: tuple[Any, ...], settings: dict[str, Any]) -> None:
        self.io_type, self.id, self.settings = io_type, args[0] if args else None, settings


def slots(io_type: str) -> SimpleNamespace:
    def made(*args: Any, **settings: Any) -> Slot:
        return Slot(io_type, args, settings)

    return SimpleNamespace(Input=made, Output=made)


class NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class Schema:
    def __init__(self, node_id: str, inputs: list[Slot], outputs: list[Slot], **settings: Any) -> None:
        self.node_id, self.inputs, self.outputs, self.settings = node_id, inputs, outputs, settings


def load_pack(folder: Path) -> ModuleType:
    """The node pack, imported as ComfyUI does it, where `folder` holds models/psalign and user/psalign."""
    paths: dict[str, list[str]] = {}
    named = {"Combo": "COMBO", "Boolean": "BOOLEAN", "String": "STRING", "Int": "INT", "Float": "FLOAT"}
    named |= {"Conditioning": "CONDITIONING", "Clip": "CLIP", "Model": "MODEL"}
    io = SimpleNamespace(
        ComfyNode=object, Schema=Schema, NodeOutput=NodeOutput, Custom=slots, **{n: slots(t) for n, t in named.items()}
    )
    modules = {
        "folder_paths": {
            "models_dir": str(folder / "models"),
            "get_user_directory": lambda: str(folder / "user"),
            "add_model_folder_path": lambda kind, path: paths.setdefault(kind, []).append(path),
            "get_folder_paths": lambda kind: paths[kind],
        },
        "comfy_api": {},
        "comfy_api.latest": {"ComfyExtension": object, "io": io},
        "comfy": {},
        "comfy.patcher_extension": {"WrappersMP": SimpleNamespace(APPLY_MODEL="apply_model")},
    }
    for name, content in modules.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(content)
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[name] = pack
    spec.loader.exec_module(pack)
    return pack


class Clip:
    """comfy.sd.CLIP of a diffusers pipeline's tokenizer and first text encoder: windows, weights in brackets."""

    def __init__(self, pipe: Any) -> None:
        self.tokenizer, self.encoder = pipe.tokenizer, pipe.text_encoder
        self.length = self.tokenizer.model_max_length

    def tokenize(self, text: str, return_word_ids: bool = False, disable_weights: bool = False) -> dict[str, Any]:
        weight = 1.0
        if not disable_weights and text.startswith("(") and text.endswith(")") and ":" in text:
            text, _, number = text[1:-1].rpartition(":")
            weight = float(number)
        start, *words, end = self.tokenizer(text).input_ids
        room, windows = self.length - 2, []
        for begin in range(0, max(1, len(words)), room):
            part = [(word, weight, begin + i + 1) for i, word in enumerate(words[begin : begin + room])]
            window = [(start, 1.0, 0), *part, (end, 1.0, 0)]
            windows.append(window + [(self.tokenizer.pad_token_id, 1.0, 0)] * (self.length - len(window)))
        return {"l": windows if return_word_ids else [[token[:2] for token in window] for window in windows]}

    @torch.no_grad()
    def encode_from_tokens(self, tokens: dict[str, Any], return_pooled: bool = False) -> Any:
        states = [self.encoder(torch.tensor([[token[0] for token in window]]))[0] for window in tokens["l"]]
        empty = self.encoder(torch.tensor([[token[0] for token in self.tokenize("")["l"][0]]]))[0]
        for one, window in zip(states, tokens["l"], strict=True):
            for place, (_, weight) in enumerate(window):
                if weight != 1.0:
                    one[0, place] = (one[0, place] - empty[0, place]) * weight + empty[0, place]
        pooled = states[0][:, -1]
        return (torch.cat(states, dim=1), pooled) if return_pooled else torch.cat(states, dim=1)

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any]) -> list[list[Any]]:
        states, pooled = self.encode_from_tokens(tokens, return_pooled=True)
        return [[states, {"pooled_output": pooled}]]


class Model:
    """comfy.model_patcher.ModelPatcher around apply_model, with what a sampler does around it."""

    def __init__(self) -> None:
        self.wrappers: list[Any] = []

    def clone(self) -> Model:
        other = Model()
        other.wrappers = list(self.wrappers)
        return other

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        assert kind == "apply_model"
        self.wrappers.append(wrapper)

    def call(self, states: torch.Tensor, kinds: list[int], **more: Any) -> torch.Tensor:
        """One call of the denoiser. kinds: for each block of rows, 0 for positive, 1 for negative."""
        latents = torch.zeros(len(states), 4, 8, 8)

        def run(index: int, *args: Any, **kwargs: Any) -> torch.Tensor:
            if index == len(self.wrappers):
                return args[0]
            return self.wrappers[index](lambda *a, **k: run(index + 1, *a, **k), *args, **kwargs)

        return run(0, latents, torch.ones(len(states)), None, states, None, {"cond_or_uncond": kinds}, **more)
