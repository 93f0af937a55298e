"""How results are printed: rates as a table."""

from __future__ import annotations

from typing import Any


def summary(metrics: dict[str, Any]) -> str:
    """The headline rates as a table."""
    names = ("pass", "suppressed", "kept", "subject_kept", "harmless_subject")
    lines = ["method            " + "  ".join(f"{name:>20}" for name in names)]
    for method, rates in metrics["methods"].items():
        lines.append(f"{method:16}  " + "  ".join(f"{rate(rates[name]):>20}" for name in names))
    if metrics["levels"]:
        shown = "  ".join(f"{level}: {percent(rate['value']).strip()}" for level, rate in metrics["levels"].items())
        lines += ["", f"Pictures with any motif, by level  {shown}"]
    return "\n".join(lines)


def rate(rate: dict[str, Any]) -> str:
    if rate["value"] is None:
        return "-"
    return f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"


def percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}%"
