"""Verbs that check a document, and say what it costs: as predicted, or as it really runs; and the cards that it runs on."""

import argparse
import re
from pathlib import Path
from typing import Any

import canvas_rt
from canvas_rt import options
from canvas_rt.commands.common import AT_FAULT, OK, check_output, open_source
from canvas_rt.errors import CanvasError
from canvas_rt.terminal import done, print_json, progress, say


def check(chosen: argparse.Namespace) -> int:
    from canvas_rt.physics import check as check_document

    document = open_source(chosen.source)
    found = check_document(document, batch=chosen.batch, sequence=chosen.sequence)
    diagnostics = [*found.diagnostics, *(over_budget(document, chosen) if chosen.budget and found.ok else [])]
    errors = any(diagnostic.severity == "error" for diagnostic in diagnostics)
    if chosen.json:
        shapes = {path: [shape and list(shape.symbolic) for shape in ports] for path, ports in found.shapes.items()}
        print_json({"ok": not errors, "diagnostics": [d.to_json() for d in diagnostics], "shapes": shapes})
    else:
        for diagnostic in diagnostics:
            say(diagnostic)
        print(f"{len(found.shapes)} values; " + ("errors above" if errors else "all shapes agree"))
    return AT_FAULT if errors else OK


def budget_bytes(text: str) -> int:
    """`vram=80GB` as bytes."""
    name, _, size = text.partition("=")
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(gb|gib)\s*", size.lower())
    if name != "vram" or not found:
        raise CanvasError(f"'{text}' is no budget", path="--budget", hint="As in vram=80GB.")
    return int(float(found[1]) * {"gb": 1e9, "gib": 2**30}[found[2]])


def over_budget(document: Any, chosen: argparse.Namespace) -> list[Any]:
    from canvas_rt.diagnostics import Diagnostic

    budget = budget_bytes(chosen.budget)
    scenario = options.scenario_of(document, chosen)
    report = canvas_rt.measure(document, scenario=scenario, thorough=True, **options.card_of(chosen))
    taken = report.memory.device_total
    if taken <= budget:
        return []
    message = f"{chosen.mode} takes {taken / 1e9:.1f} GB, over the budget of {budget / 1e9:.1f} GB"
    return [Diagnostic("error", "", message, "Make the model, the batch or the sequence smaller.")]


def measure(chosen: argparse.Namespace) -> int:
    from canvas_rt import reporting
    from canvas_rt.physics import measure as measure_document

    document = open_source(chosen.source)
    progress("measuring")
    try:
        scenario = options.scenario_of(document, chosen)
        report = measure_document(document, scenario=scenario, thorough=True, **options.card_of(chosen))
    finally:
        done()
    if chosen.json:
        print_json(report.to_json())
        return OK
    say(reporting.told(report, cards=chosen.cards))
    if chosen.by == "node":
        say("\n".join(reporting.by_node(report)))
    return OK


def solve(chosen: argparse.Namespace) -> int:
    from canvas_rt import reporting
    from canvas_rt.solving import solve as solve_for

    document = open_source(chosen.source)
    progress(f"looking for the best {chosen.what}")
    try:
        found = solve_for(
            document,
            chosen.what,
            scenario=options.scenario_of(document, chosen),
            budget=None if chosen.budget is None else budget_bytes(chosen.budget),
            **options.card_of(chosen),
        )
    finally:
        done()
    if chosen.json:
        print_json(found.to_json())
        return OK
    say(f"{found.what} = {found.value}: {found.limit}")
    say(reporting.told(found.report, cards=chosen.cards))
    return OK


def dryrun(chosen: argparse.Namespace) -> int:
    document = open_source(chosen.source)
    try:
        found = canvas_rt.dry_run(
            document,
            device=chosen.device,
            scenario=options.scenario_of(document, chosen),
            timeout_s=chosen.timeout or 300,
            memory_bytes=chosen.memory,
            progress=progress,
            **options.card_of(chosen),
        )
    finally:
        done()
    print_json(found.to_json()) if chosen.json else say(found)
    return OK if found.ran else AT_FAULT


def calibrate(chosen: argparse.Namespace) -> int:
    from canvas_rt.physics.calibration import calibrate as calibrate_card
    from canvas_rt.physics.hardware import load_hardware

    check_output(chosen.output)
    card = load_hardware(chosen.hardware, file=chosen.cards)
    try:
        found = calibrate_card(card, chosen.device, most_s=chosen.seconds, progress=progress)
    finally:
        done()
    found.save(Path(chosen.output))
    if chosen.json:
        print_json({"output": chosen.output, "device": found.device, "bandwidth_share": found.bandwidth_share})
    else:
        share = max((y for _, points in found.products for _, y in points), default=0.0)
        say(
            f"{found.device} reaches {share:.0%} of {card.name}'s peak in products and {found.bandwidth_share:.0%} of its"
        )
        say(f"bandwidth; a launch takes {found.launch_s * 1e6:.1f} µs → {chosen.output}")
    return OK


def hardware(chosen: argparse.Namespace) -> int:
    from dataclasses import asdict

    from canvas_rt.physics.hardware import hardware_names, load_hardware

    cards = [load_hardware(name, file=chosen.cards) for name in hardware_names(file=chosen.cards)]
    if chosen.json:
        print_json([asdict(card) for card in cards])
        return OK
    for card in cards:
        best = max(card.peak_flops.get(dtype, 0) for dtype in ("bf16", "fp16"))
        print(
            f"{card.id:16} {card.memory_bytes / 2**30:6.1f} GiB {card.bandwidth / 1e12:6.2f} TB/s {best / 1e12:7.0f} TFLOP/s"
            f"  {card.source}"
        )
    return OK
