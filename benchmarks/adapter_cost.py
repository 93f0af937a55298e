"""What an adapter adds to one UNet call: base and adapters interleaved in one run, as ratios of medians.

    python benchmarks/adapter_cost.py [--rounds 15] [--batch 16]

A round draws a short denoising loop of every variant in turn, on the same inputs, so that a busy machine slows all of
them alike. What depends on user and prompt alone is computed in the first call of a loop and kept for the others: both
are timed, the whole loop divided by its calls. Writes benchmarks/results/adapter_cost.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from psalign.adapter.adapter import PSAAdapter, cross_attention_widths
from psalign.adapter.attach import attach
from psalign.diffusion.base_models import load_pipeline
from psalign.records import write_json

CALLS = 15  # UNet calls per loop: the quickstart's number of steps
VARIANTS = {"prompt, N=8": ("prompt", 8), "published, N=1": ("published", 1), "published, N=8": ("published", 8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16, help="pictures; the UNet sees twice as many rows (guidance)")
    arguments = parser.parse_args()
    loops = {"base": loop(None, arguments.batch)}
    loops |= {name: loop(variant, arguments.batch) for name, variant in VARIANTS.items()}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(arguments.rounds + 1):
        for name, run in loops.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - started) / CALLS)
    base = times["base"]
    figures = {}
    for name, seconds in times.items():
        ratios = sorted(a / b for a, b in zip(seconds, base, strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        figures[name] = {"ratio": round(statistics.median(ratios), 4), "p10": round(low, 4), "p90": round(high, 4)}
        print(f"{name:16} {figures[name]['ratio']:.3f} x base  [{low:.3f}, {high:.3f}]")
    record = {"model": "mini", "rounds": arguments.rounds, "batch": arguments.batch, "calls": CALLS}
    record |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "ratios": figures}
    write_json(Path(__file__).parent / "results" / "adapter_cost.json", record)


def loop(variant: tuple[str, int] | None, batch: int) -> Callable[[], None]:
    """A denoising loop's UNet calls with guidance, for the base or for an adapter with random weights."""
    unet = load_pipeline("mini").unet
    generator = torch.Generator().manual_seed(0)
    half = torch.randn((batch, unet.config.in_channels, 8, 8), generator=generator)
    states = torch.randn((2 * batch, 40, unet.config.cross_attention_dim), generator=generator)
    psa = None
    if variant is not None:
        kind, n_tokens = variant
        widths = cross_attention_widths(unet) if kind == "published" else ()
        adapter = PSAAdapter(kind=kind, recipe="benchmark", n_tokens=n_tokens, widths=widths)
        for weight in adapter.parameters():
            torch.nn.init.normal_(weight, std=0.02, generator=generator)
        psa = attach(unet, adapter)

    @torch.no_grad()
    def run() -> None:
        users = psa.condition(torch.ones(batch, 64), recipe="benchmark", guided=True) if psa is not None else {}
        for step in range(CALLS):
            unet(torch.cat([half, half]), torch.tensor(999 - step), encoder_hidden_states=states, **users)

    return run


if __name__ == "__main__":
    main()
