"""The README.md of an adapter's folder. Beside checkpoint.py."""

from __future__ import annotations


def model_card(kind: str, base: str, recipe: str, *, llm_dim: int, weights: int) -> str:
    """README.md of an adapter's folder, as the Hugging Face hub shows it. weights: number of parameters."""
    return f"""---
library_name: diffusers
tags: [psalign, personalized-safety, text-to-image]
---

# PSA adapter, kind `{kind}`, for {base}

Makes a Stable Diffusion pipeline keep to each user's own limits: what this user bans goes, what they allow stays.
{weights:,} parameters, {2 * weights / 1e6:.1f} MB in fp16.

```python
import psalign

psa = psalign.load_psa_adapter(pipe, "<this repository or folder>")
pictures = pipe(**psa.encode(pipe, prompts, users)).images
```

User vectors must be of recipe `{recipe}` and width {llm_dim}; others are refused.

Limits: it lowers the rate of banned content and does not promise its absence.
Vectors and banned categories are personal data.
"""
