"""A picture of what a SAGE dataset holds. Beside sage/validate.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ..categories import category_names
from ..errors import ExtraMissing
from ..files import write_bytes


def draw_counts(counts: dict[str, dict[str, Any]], path: Path, *, replace: bool = True) -> None:
    """Write a PNG: rows of every category, one panel a split. counts: of count_rows, by split.

    Raises ExtraMissing without the extra `plots`, which brings matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ExtraMissing("matplotlib", "plots") from None
    figure = Figure(figsize=(3.2 * len(counts) + 1, 3.2), layout="constrained")
    axes = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for ax, (split, figures) in zip(axes, counts.items(), strict=True):
        values = [figures["categories"].get(category, 0) for category in category_names()]
        bars = ax.barh(category_names()[::-1], values[::-1], color="#b3424a")
        ax.bar_label(bars, padding=2, fontsize=8)
        ax.margins(x=0.18)
        ax.set_title(
            f"{split}: {figures['rows']:,} rows\n{figures['users']} users, {figures['concepts']} concepts", fontsize=9
        )
        ax.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    write_bytes(path, stream.getvalue(), replace=replace)
