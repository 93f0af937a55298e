"""The node pack in a real checkout of ComfyUI, on a CPU, with tiny models: python real_comfyui.py /path/to/ComfyUI

ComfyUI is not on PyPI; test_comfyui.py runs this in a process of its own where PSALIGN_COMFYUI names a checkout whose
requirements are installed. Real: the loader of custom nodes, the executor and its cache, CLIP (text encoders of SD1.5
and SDXL), models, samplers. Stand-ins: torchvision and torchaudio, where they are not installed; weights.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch

TESTS = Path(__file__).parents[1]
PACK = TESTS.parent / "integrations/comfyui"
PROMPT = "a red cat with a sword"


class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules of torchvision and torchaudio that do nothing."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchvision", "torchaudio"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module):
        pass


def start(checkout: str, folder: Path) -> None:
    """Import ComfyUI with models and users in a folder."""
    sys.path[:0] = [str(TESTS), checkout]
    import diffusers  # noqa: F401
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline  # noqa: F401

    sys.meta_path.append(Missing())  # behind those that find what is installed
    sys.argv = ["main.py", "--cpu", "--base-directory", str(folder)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths
    import nodes

    assert Path(folder_paths.models_dir) == folder / "models"
    assert asyncio.run(nodes.load_custom_node(str(PACK), module_parent="custom_nodes")), "the pack does not load"


def part(name: str):
    """A module of the pack, as ComfyUI imported it."""
    return importlib.import_module(f"{str(PACK).replace('.', '_x_')}.{name}")


# --- ComfyUI's text encoders with the weights of a diffusers pipeline -------------------------------------------------


def comfy_clip(pipe):
    """comfy.sd.CLIP of a pipeline in the layout of SD1.5 or SDXL."""
    import comfy.sd
    from comfy import sd1_clip, sdxl_clip

    is_xl = hasattr(pipe, "text_encoder_2")
    folder = tempfile.mkdtemp()
    pipe.tokenizer.save_pretrained(folder)
    length, end = pipe.tokenizer.model_max_length, pipe.tokenizer.eos_token_id
    special = {"start": pipe.tokenizer.bos_token_id, "end": end, "pad": pipe.tokenizer.pad_token_id}

    def model(encoder, **layer):
        config = encoder.config.to_dict() | {"eos_token_id": end}
        made = sd1_clip.SDClipModel(textmodel_json_config=config, max_length=length, special_tokens=special, **layer)
        weights = encoder.state_dict()
        vocabulary = weights[next(name for name in weights if "token_embedding" in name)]
        table = made.transformer.text_model.embeddings.token_embedding
        table.weight = torch.nn.Parameter(torch.empty_like(vocabulary))
        named = {n if n.startswith(("text_model.", "text_proj")) else f"text_model.{n}": w for n, w in weights.items()}
        assert not made.load_sd(named).unexpected_keys
        return made

    def tokenizer(**_):
        def one(key):
            width = pipe.text_encoder.config.hidden_size
            return sd1_clip.SDTokenizer(folder, max_length=length, embedding_size=width, embedding_key=key)

        made = sdxl_clip.SDXLTokenizer() if is_xl else sd1_clip.SD1Tokenizer()
        for name in ("clip_l", "clip_g") if is_xl else ("clip_l",):
            setattr(made, name, one(name))
        return made

    def encoders(**_):
        if not is_xl:
            made = sd1_clip.SD1ClipModel()
            made.clip_l = model(pipe.text_encoder, return_projected_pooled=False)
            return made
        made = sdxl_clip.SDXLClipModel()
        for name, encoder in (("clip_l", pipe.text_encoder), ("clip_g", pipe.text_encoder_2)):
            own = getattr(made, name)  # with ComfyUI's own choice of layer, which a tiny encoder's constructor refuses
            tiny = model(encoder, layer_norm_hidden_state=own.layer_norm_hidden_state)
            tiny.layer, tiny.layer_idx, tiny.return_projected_pooled = tiny.options_default = own.options_default
            setattr(made, name, tiny)
        return made

    # The real tables of 49,408 tokens are made and thrown away: SD1ClipModel() has no smaller ones.
    return comfy.sd.CLIP(SimpleNamespace(params={}, clip=encoders, tokenizer=tokenizer))


def comfy_model(name: str, width: int):
    """A ModelPatcher around a tiny UNet with random weights, by ComfyUI's own classes."""
    import comfy.model_patcher
    import comfy.supported_models

    torch.manual_seed(0)
    shape = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
             "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
             "transformer_depth_middle": 1, "num_heads": 2, "num_head_channels": -1, "use_spatial_transformer": True,
             "context_dim": width, "legacy": False, "use_temporal_attention": False}  # fmt: skip
    if name == "SDXL":
        shape |= {"num_classes": "sequential", "adm_in_channels": 1280 + 6 * 256, "use_linear_in_transformer": True}
    config = getattr(comfy.supported_models, name)(shape)
    config.unet_config = {**shape, "dtype": torch.float32}
    made = config.get_model({}, device="cpu")
    for weight in made.diffusion_model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return comfy.model_patcher.ModelPatcher(made, torch.device("cpu"), torch.device("cpu"))


# --- checks -----------------------------------------------------------------------------------------------------------


def check_schemas() -> None:
    import nodes
    from comfy_config import config_parser

    ours = {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("PSAlign")}
    assert set(ours) == {"PSAlignLoadAdapter", "PSAlignUserLimits", "PSAlignApply", "PSAlignGuard"}
    for node in ours.values():
        json.dumps(node.GET_NODE_INFO_V1())
    said = config_parser.extract_node_configuration(str(PACK))
    assert said.project.name == "psalign"
    assert said.project.supported_comfyui_version == ">=0.3.64"
    print("schemas and pyproject: read by ComfyUI")


def check_text(name, pipe, adapter) -> None:
    """ComfyUI's states are diffusers' states, and Apply rewrites them as the Python package does."""
    from psalign.adapter.states import rewrite_states
    from psalign.adapter.text import encode_texts
    from psalign.users.profile import UserProfile
    from psalign.users.views import batch_of

    clip = comfy_clip(pipe)
    apply = part("nodes").PSAApply
    reader = part("conditioning")
    expected = encode_texts(pipe, PROMPT)
    [[states, options]] = given = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    pooled = options["pooled_output"] if expected.pooled_prompt_embeds is not None else None
    gap = (states - expected.prompt_embeds).abs().max()
    assert states.shape == expected.prompt_embeds.shape
    assert gap < 1e-4, gap
    if pooled is not None:
        assert (pooled - expected.pooled_prompt_embeds).abs().max() < 1e-4
    user = UserProfile(user_id="a", banned=("Violence",), limits=("I can't stand swords",))
    [[made, more]] = apply.execute(given, adapter, user, clip, 1.0)[0]
    from psalign.adapter.words import phrase_states

    users = batch_of([user])
    own = rewrite_states(adapter, expected, users, read=lambda phrase: phrase_states(pipe, [phrase])[0])
    assert (made - own.prompt_embeds).abs().max() < 1e-3, (made - own.prompt_embeds).abs().max()
    assert (made - states).abs().max() > 0.05
    phrase = phrase_states(pipe, ["a sword"])[0]
    assert (reader.read_phrase(clip, "a sword") - phrase).abs().max() < 1e-4
    assert (reader.read_phrase(clip, "(a sword:1.4)") - reader.read_phrase(clip, "a sword")).shape == phrase.shape
    if pooled is not None:
        assert (more["pooled_output"] - own.pooled_prompt_embeds).abs().max() < 1e-3
        assert not torch.equal(more["pooled_output"], pooled)
    window = pipe.tokenizer.model_max_length
    for text in (PROMPT + ", a tree" * window, f"({PROMPT}:1.3), a tree"):
        raw = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        done = apply.execute(raw, adapter, user, clip, 1.0)[0]
        assert done[0][0].shape == raw[0][0].shape
        first = [[raw[0][0][:, :window], raw[0][1]]]
        assert torch.equal(done[0][0][:, :window], apply.execute(first, adapter, user, clip, 1.0)[0][0][0])
    print(f"{name}: states as diffusers' to {gap:.1e}, width {states.shape[-1]}; rewritten alike; windows, weights")


def check_guard(name, pipe, adapter) -> None:
    """Real samplers draw with a guarded model, and refuse text that Apply did not make."""
    import nodes

    from psalign.errors import GuardError
    from psalign.users.profile import UserProfile

    clip, model = comfy_clip(pipe), comfy_model(name, pipe.unet.config.cross_attention_dim)
    pack = part("nodes")
    user = UserProfile(user_id="a", banned=("Violence",))

    def encoded(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    raw, negative = encoded(PROMPT), encoded("blurry" + ", a tree" * pipe.tokenizer.model_max_length)
    positive = pack.PSAApply.execute(raw, adapter, user, clip, 1.0)[0]
    guarded = pack.PSAGuard.execute(model, positive, negative)[0]
    latent = {"samples": torch.zeros(2, 4, 8, 8)}

    def draw(model, positive, negative, cfg=5.0, sampler="euler"):
        return nodes.common_ksampler(model, 1, 2, cfg, sampler, "normal", positive, negative, latent)[0]["samples"]

    for cfg, sampler in ((5.0, "euler"), (1.0, "euler"), (5.0, "dpmpp_2m"), (5.0, "uni_pc")):
        drawn = draw(guarded, positive, negative, cfg, sampler)
        assert torch.equal(drawn, draw(model, positive, negative, cfg, sampler))
        assert not torch.equal(drawn, draw(model, raw, negative, cfg, sampler))
        try:
            draw(guarded, raw, negative, cfg, sampler)
        except GuardError:
            continue
        raise AssertionError("raw text was drawn")
    zeros = nodes.ConditioningZeroOut().zero_out(positive)[0]
    for wrong in ((positive, raw), (negative, positive), (zeros, negative)):
        try:
            draw(guarded, *wrong)
        except GuardError:
            continue
        raise AssertionError("unknown text was drawn")
    area = nodes.ConditioningSetArea().append(positive, 32, 32, 0, 0, 1.0)[0]
    draw(guarded, area, negative)
    print(f"{name}: guarded samplers draw the same latents, and refuse other text")


def check_executor(pipe, users_file: Path) -> None:
    """A graph through ComfyUI's own validation, executor and cache; a changed users file runs again."""
    import execution
    import nodes
    from comfy_api.latest import io

    clip, model = comfy_clip(pipe), comfy_model("SD15", pipe.unet.config.cross_attention_dim)
    seen = []

    class Source(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="TestSource", inputs=[], outputs=[io.Model.Output(), io.Clip.Output()])

        @classmethod
        def execute(cls):
            return io.NodeOutput(model, clip)

    class Sink(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="TestSink", inputs=[io.Latent.Input("latent")], is_output_node=True)

        @classmethod
        def execute(cls, latent):
            seen.append(latent["samples"])

    for node in (Source, Sink):
        nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node
    workflow = json.loads((PACK / "example_workflows/one_user.json").read_text(encoding="utf-8"))
    graph = api_form(workflow)
    graph["2"]["inputs"]["adapter"] = "mini"
    graph["9"]["inputs"]["steps"] = 1
    graph["8"]["inputs"] |= {"width": 64, "height": 64}
    graph["3"]["inputs"] |= {"users_file": "users.csv", "user_id": "anna", "limits": "no swords"}
    graph["1"] = {"class_type": "TestSource", "inputs": {}}
    del graph["11"]
    graph["10"] = {"class_type": "TestSink", "inputs": {"latent": ["9", 0]}}
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_, **__: None)
    executor = execution.PromptExecutor(server, cache_type=execution.CacheType.CLASSIC)

    def run():
        valid = asyncio.run(execution.validate_prompt("x", graph, None))
        assert valid[0], valid
        executor.execute(json.loads(json.dumps(graph)), "x", {}, ["10"])
        cached = dict(executor.status_messages)["execution_cached"]["nodes"]
        return executor.success, cached, executor.status_messages[-1][1].get("exception_message", "")

    assert run()[0]
    assert set(run()[1]) == set(graph), "nothing changed, and something ran"
    users_file.write_text(users_file.read_text(encoding="utf-8").replace("anna,9", "anna,70"), encoding="utf-8")
    success, cached, _ = run()
    assert success
    assert not {"3", "6", "7", "9"} & set(cached), "a changed profile was not read"
    graph["7"]["inputs"]["positive"] = ["4", 0]
    success, _, message = run()
    assert not success
    assert "not made by Apply" in message
    graph["7"]["inputs"]["positive"] = ["6", 0]
    graph["3"]["inputs"]["user_id"] = "nobody"
    success, _, message = run()
    assert not success
    assert "no user nobody" in message
    print(f"executor: the example runs ({len(seen)} drawings), caches, reads a changed profile, and fails closed")


def api_form(workflow) -> dict:
    """What ComfyUI's page sends for a workflow."""
    import nodes

    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        shapes = nodes.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()
        inputs = {one["name"]: links[one["link"]] for one in node["inputs"]}
        values = iter(node["widgets_values"])
        for name, shape in {**shapes.get("required", {}), **shapes.get("optional", {})}.items():
            if name not in inputs:
                inputs[name] = next(values)
                if len(shape) > 1 and shape[1].get("control_after_generate"):
                    next(values)
        assert next(values, None) is None, node["type"]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def main(checkout: str) -> None:
    folder = Path(tempfile.mkdtemp())
    for name in ("models/psalign", "user/psalign", "custom_nodes"):
        (folder / name).mkdir(parents=True)
    users_file = folder / "user/psalign/users.csv"
    users_file.write_text("User_ID,Age\nanna,9\n", encoding="utf-8")
    start(checkout, folder)
    import tiny_pipelines
    from psalign.adapter.checkpoint import save_adapter

    torch.set_grad_enabled(False)
    pipes = {
        "SD15": tiny_pipelines.sd15_pipeline(blocks=4),
        "SDXL": tiny_pipelines.sdxl_pipeline(layers=(1, 1, 2), depth=2),
    }
    adapters = {name: tiny_pipelines.random_adapter(pipe, "prompt") for name, pipe in pipes.items()}
    save_adapter(adapters["SD15"], folder / "models/psalign/mini")
    check_schemas()
    for name, pipe in pipes.items():
        check_text(name, pipe, adapters[name])
        check_guard(name, pipe, adapters[name])
    check_executor(pipes["SD15"], users_file)


if __name__ == "__main__":
    main(sys.argv[1])
