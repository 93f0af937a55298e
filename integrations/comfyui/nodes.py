"""The nodes: Load PSA adapter, User limits, Apply, Guard. Each reads its widgets and makes one call."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io

from psalign.categories import current
from psalign.errors import UsageError
from psalign.fingerprints import file_fingerprint
from psalign.ids import LEVELS
from psalign.users.views import described_person

ADAPTERS, USERS = "psalign", "psalign_users"  # kinds of folders, also in extra_model_paths.yaml
NO_FILE = "(none)"
NO_LEVEL = -1
BAN = "ban_"  # before the slug of a category, in the id of its switch
PSAAdapterType, PSAUserType = io.Custom("PSA_ADAPTER"), io.Custom("PSA_USER")

folder_paths.add_model_folder_path(ADAPTERS, os.path.join(folder_paths.models_dir, "psalign"))
folder_paths.add_model_folder_path(USERS, os.path.join(folder_paths.get_user_directory(), "psalign"))


def choices(kind: str) -> dict[str, Path]:
    """Adapters (folders) or users files (.csv, .jsonl) of a kind of folder, by name."""
    there = [
        path
        for folder in folder_paths.get_folder_paths(kind)
        if Path(folder).is_dir()
        for path in Path(folder).iterdir()
    ]
    is_one = Path.is_dir if kind == ADAPTERS else lambda path: path.suffix in (".csv", ".jsonl")
    return {path.name: path for path in sorted(there, reverse=True) if is_one(path)}


def chosen(kind: str, name: str) -> Path:
    """The folder or file of a name. Raises UsageError where there is none (any more)."""
    found = choices(kind)
    if name not in found:
        raise UsageError(
            f"{name!r} is not there (any more); there is: {', '.join(sorted(found)) or 'nothing'}.",
            hint=f"Folders that are searched: {', '.join(folder_paths.get_folder_paths(kind))}.",
        )
    return found[name]


class LoadPSAAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAlignLoadAdapter",
            display_name="Load PSA adapter",
            category="psalign",
            description="Reads an adapter of kind 'prompt' from a folder in models/psalign.",
            inputs=[
                io.Combo.Input("adapter", options=sorted(choices(ADAPTERS))),
                io.Boolean.Input(
                    "in_words", default=False, tooltip="Categories are kept by their phrases, in any taxonomy."
                ),
            ],
            outputs=[PSAAdapterType.Output(display_name="adapter")],
        )

    @classmethod
    def fingerprint_inputs(cls, adapter: str, in_words: bool) -> Any:
        from psalign.adapter.checkpoint import adapter_fingerprint

        return adapter_fingerprint(chosen(ADAPTERS, adapter)), in_words

    @classmethod
    def execute(cls, adapter: str, in_words: bool) -> io.NodeOutput:
        from psalign.adapter.checkpoint import load_adapter

        return io.NodeOutput(load_adapter(chosen(ADAPTERS, adapter), in_words=in_words))


class PSAUserLimits(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAlignUserLimits",
            display_name="User limits",
            category="psalign",
            description="What one user does not want to see. What any part bans is banned; not all may be empty.",
            inputs=[
                io.Combo.Input("users_file", options=[NO_FILE, *sorted(choices(USERS))], default=NO_FILE),
                io.String.Input("user_id", default="", tooltip="Of the users file."),
                io.Int.Input(
                    "level", default=NO_LEVEL, min=NO_LEVEL, max=LEVELS[-1], tooltip="0 bans nothing, 5 all; -1: none."
                ),
                *(
                    io.Boolean.Input(f"{BAN}{one.slug}", display_name=one.name, default=False)
                    for one in current().categories
                ),
                io.String.Input(
                    "limits", default="", multiline=True, tooltip="In words, as: no spiders; nothing with needles"
                ),
            ],
            outputs=[PSAUserType.Output(display_name="user")],
        )

    @classmethod
    def fingerprint_inputs(cls, users_file: str, **widgets: Any) -> Any:
        """A changed file, and a day on which limits end, make the node run again."""
        content = None if users_file == NO_FILE else file_fingerprint(chosen(USERS, users_file))
        return content, date.today().isoformat()

    @classmethod
    def execute(cls, users_file: str, user_id: str, level: int, limits: str, **switches: bool) -> io.NodeOutput:
        person = described_person(
            users=None if users_file == NO_FILE else chosen(USERS, users_file),
            user_id=user_id,
            level=None if level == NO_LEVEL else level,
            banned=[one.name for one in current().categories if switches[f"{BAN}{one.slug}"]],
            limits=limits,
        )
        return io.NodeOutput(person)


class PSAApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAlignApply",
            display_name="Apply user limits",
            category="psalign",
            description="Rewrites the positive conditioning for a user. The negative one stays as it is.",
            inputs=[
                io.Conditioning.Input("conditioning"),
                PSAAdapterType.Input("adapter"),
                PSAUserType.Input("user"),
                io.Clip.Input("clip", tooltip="The CLIP that encoded the conditioning."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="0: base, 1: as trained."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Any, adapter: Any, user: Any, clip: Any, strength: float) -> io.NodeOutput:
        from .conditioning import rewritten_for

        return io.NodeOutput(rewritten_for(user, conditioning, adapter=adapter, clip=clip, strength=strength))


class PSAGuard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PSAlignGuard",
            display_name="Guard",
            category="psalign",
            description="A model that refuses every text but these: positive (made by Apply) and negative.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any) -> io.NodeOutput:
        from .watch import guarded

        return io.NodeOutput(guarded(model, positive, negative))


class PSAlignExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadPSAAdapter, PSAUserLimits, PSAApply, PSAGuard]


async def comfy_entrypoint() -> PSAlignExtension:
    return PSAlignExtension()
