"""PSAlign for ComfyUI: nodes that make a prompt keep to a user's own safety limits."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
