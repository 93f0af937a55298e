"""Makes a table of docs/RESULTS.md: the quickstart over several training seeds.

    python benchmarks/mini_results.py [--seeds 0 1 2] [--preset mini-quickstart] [--set dataset.seed=24] [--out DIR]

Every seed is a whole run of `psalign quickstart` with that preset, which goes on where it was interrupted; all share
the dataset and differ in the adapter's initial weights and in the order, noise and timesteps of training. A cell is the
mean over seeds with the 95 % interval of Student's t over seeds; n is the number of judged cases per seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seeds import cell, of_results, over_seeds

from psalign.config import load_preset
from psalign.files import write_json
from psalign.fingerprints import versions
from psalign.quickstart import run

METRICS = ("pass", "suppressed", "kept", "subject_kept", "safe_subject", "safe_distance")
OURS = "psa-prompt"
SUITES = {"wordings": "held-out wordings", "two_motifs": "two motifs at once", "motifs": "held-out motifs"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="mini-quickstart")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="change one setting")
    parser.add_argument("--out", type=Path, default=Path("outputs/mini-results"))
    arguments = parser.parse_args()
    preset = load_preset(arguments.preset, changes=arguments.set)
    runs = [run(arguments.out / f"seed-{seed}", preset, seed=seed) for seed in arguments.seeds]
    scenes = [of_results(rows, "mini_scenes") for rows in runs]
    levels = [of_results(rows, "mini_levels") for rows in runs]

    def ours(dataset: str) -> dict[str, Any]:
        return over_runs([of_results(rows, dataset)[OURS] for rows in runs], METRICS[:4])

    table = {
        "methods": {method: over_runs([run[method] for run in scenes], METRICS) for method in scenes[0]},
        "suites": {suite: ours(f"mini_{suite}") for suite in SUITES},
        "seen_users": ours("mini_seen"),
        "levels": {level: over_seeds([run[level]["any_motif"] for run in levels]) for level in levels[0]},
    }
    write_json(arguments.out / "results.json", {"preset": preset, "seeds": arguments.seeds, **table, **versions()})
    print(markdown(table))


def over_runs(runs: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Each named figure over seeds."""
    return {name: over_seeds([figures[name] for figures in runs]) for name in names}


def markdown(table: dict[str, Any]) -> str:
    """The tables of docs/RESULTS.md."""
    lines = ["| method | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for method, figures in table["methods"].items():
        lines.append(f"| {method} | " + " | ".join(cell(figures[name]) for name in METRICS) + " |")
    lines += ["", f"| `{OURS}` on | " + " | ".join(METRICS[:4]) + " |", "|---|" + "---|" * 4]
    for suite, name in SUITES.items():
        lines.append(f"| {name} | " + " | ".join(cell(table["suites"][suite][m]) for m in METRICS[:4]) + " |")
    lines.append("| seen users | " + " | ".join(cell(table["seen_users"][m]) for m in METRICS[:4]) + " |")
    lines += ["", "| level | " + " | ".join(table["levels"]) + " |", "|---|" + "---|" * len(table["levels"])]
    lines.append("| any motif | " + " | ".join(cell(rate) for rate in table["levels"].values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
