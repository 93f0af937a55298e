"""The README.md of an adapter's folder. Beside checkpoint.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapter import PSAAdapter


def model_card(adapter: PSAAdapter) -> str:
    """README.md of an adapter's folder, as the Hugging Face hub shows it."""
    config = adapter.config
    size_mb = sum(2 * weight.numel() for weight in adapter.parameters()) / 1e6
    return f"""---
library_name: diffusers
tags: [psalign, personalized-safety, text-to-image]
---

# PSA adapter, kind `{config.kind}`, for {config.base}

Makes a Stable Diffusion pipeline keep to each user's own limits: what this user bans goes, what they allow stays.
{sum(weight.numel() for weight in adapter.parameters()):,} parameters, {size_mb:.1f} MB in fp16.

```python
import psalign

psa = psalign.load_psa_adapter(pipe, "<this repository or folder>")
pictures = pipe(prompts, **psa.condition(users)).images
```

User vectors must be of recipe `{config.recipe}` and width {config.llm_dim}; others are refused.

Limits: it lowers the rate of banned content and does not promise its absence.
Vectors and banned categories are personal data.
"""
