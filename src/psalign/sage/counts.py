"""What a SAGE dataset holds, as numbers and as a bar chart.

Place on the path of data: beside sage/validate.py.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..categories import category_names
from ..errors import ExtraMissing
from ..files import Record, write_bytes
from .rows import SageRow


def count_rows(rows: Sequence[SageRow]) -> Record:
    """Numbers of rows, users, concepts and pairs; rows by category, by concept and by severity."""
    counts: Record = {
        "rows": len(rows),
        "users": len({row.user_id for row in rows}),
        "concepts": len({(row.category, row.concept) for row in rows}),
        "pairs": len({row.pair for row in rows}),
        "unsafe chosen": sum(row.chose_unsafe for row in rows),
        "categories": dict(sorted(Counter(row.category for row in rows).items())),
        "by concept": dict(sorted(Counter(f"{row.category}: {row.concept}" for row in rows).items())),
    }
    rated = Counter(str(row.severity) for row in rows if row.severity is not None)
    return {**counts, "severity": dict(sorted(rated.items()))} if rated else counts


def draw_counts(counts: dict[str, Record], path: Path, *, replace: bool = True) -> None:
    """Write a PNG: the rows of every category, a panel a split. counts: results of count_rows, by split.

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
