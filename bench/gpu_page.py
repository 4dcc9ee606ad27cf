"""What `bench.gpu` measured, as a section of docs/speed.md."""

from bench.markdown import paragraph, table

__all__ = ["section"]

_ENGINES = (
    "gpukeras eager",
    "gpukeras captured",
    "gpukeras own kernels",
    "torch eager",
    "torch compiled",
    "torch max-autotune",
    "jax jit",
)
_OURS = "gpukeras captured"
_BESIDE_PEERS = (
    ("mlp", "float32", 1),
    ("convnet", "float32", 1),
    ("lstm", "float32", 1),
    ("gpt2", "mixed_bfloat16", 0.8),
)
_MODELS = {
    "mlp": "MLP 784-512-512-10, Adam",
    "convnet": "convnet, 28x28 digits",
    "lstm": "Embedding and LSTM, 100 steps",
    "resnet18": "ResNet-18, 32x32",
    "gpt2": "GPT-2 small, 1024 tokens",
}


def section(report):
    """The section's text."""
    gpu, versions = report["gpu"], report["versions"]
    checks = sum("failed" not in row for row in report["parts"]["check"])
    listed = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "cupy", "torch", "jax"))
    text = [
        "## On a GPU\n",
        paragraph(
            f"Measured by `python -m bench.gpu` on {report['date']}: {gpu['name']}, {gpu['processors']} processors, "
            f"driver {gpu['driver']}, CUDA {gpu['cuda']}; {listed}. {checks} lines of its check list hold: kernels "
            "against their references, products against float64, captured steps against eager ones bit for bit (a "
            "thousand of the MLP's), memory over 200 steps, uploaded against streamed data."
        ),
        _failures(report["parts"]["check"]),
        _runs(report),
        _since(report),
        "### What is aimed at on a GPU, and reached\n",
        table(["", "aim", "measured", "reached"], _aims(report["parts"]["steps"], report["parts"]["kernels"])),
        "### Training steps\n",
        paragraph("PyTorch's and JAX's steps are loops written by hand, without metrics and callbacks."),
        _of_other_runs(report["parts"]["steps"]),
        "Milliseconds a step, medians.\n",
        _steps(report["parts"]["steps"]),
        "### Kernels that memory limits\n",
        paragraph(
            "Bytes that a kernel must move over its time, as a share of the bandwidth of a copy on the device "
            f"({report['parts']['kernels'][0]['gb_per_s']:.0f} GB/s), on 64 million numbers."
        ),
        table(["kernel", "float32", "bfloat16"], _kernels(report["parts"]["kernels"])),
    ]
    return "\n".join(text)


def _failures(rows):
    failed = [f"`{row['check']}` ({row['failed']})" for row in rows if "failed" in row]
    return paragraph(f"These failed: {'; '.join(failed)}.") if failed else ""


def _runs(report):
    """What a report that joins several runs says of them."""
    return paragraph(" ".join(report["runs"])) if "runs" in report else ""


def _since(report):
    """What a report that was not made again says of code that has changed."""
    changed = report.get("changed_since", [])
    return paragraph(f"Changed since then, and not measured again: {'; '.join(changed)}.") if changed else ""


def _aims(steps, kernels):
    """What the GPU engine aims at, beside what was measured; a peer counts where it was measured in the same run."""
    times = {key[:2]: cells for key, cells in _times([row for row in steps if "date" not in row]).items()}
    lines = []

    def line(what, aim, measured, is_reached):
        lines.append([what, aim, measured, "yes" if is_reached else "**no**"])

    own = times.get(("mlp", "float32"), {}).get(_OURS)
    if own is not None:
        line(f"{_MODELS['mlp']}, batch 128: a captured step", "at most 60 us", f"{1e3 * own:.0f} us", own <= 0.06)
    for name, dtype, least in _BESIDE_PEERS:
        cells = times.get((name, dtype), {})
        peers = {engine: ms for engine, ms in cells.items() if not engine.startswith("gpukeras")}
        what, aim = f"{_MODELS[name]}, {dtype}: best peer's time over ours", f"at least {least}"
        if not peers:
            line(what, aim, "no peer in this run", False)
        elif _OURS in cells:
            best = min(peers, key=lambda engine: peers[engine])
            ratio = peers[best] / cells[_OURS]
            line(what, aim, f"{ratio:.2f} ({best})", ratio >= least)
    for dtype in ("float32", "bfloat16"):
        rows = [row for row in kernels if row.get("dtype") == dtype and "aim" in row]
        reached = sum(row["share"] >= row["aim"] for row in rows)
        if rows:
            aim = "85% (adam) or 80% of a copy's bandwidth"
            line(f"kernels that memory limits, {dtype}", aim, f"{reached} of {len(rows)}", reached == len(rows))
    return lines


def _times(rows):
    """Milliseconds by engine, by model, type and batch."""
    found = {}
    for row in rows:
        if "ms" in row:
            found.setdefault((row["model"], row["type"], row["batch"]), {})[row["engine"]] = row["ms"]
    return found


def _of_other_runs(rows):
    """What is said of figures that were taken on another day than the report."""
    days = {}
    for row in rows:
        if "date" in row and "ms" in row:
            days.setdefault(row["date"], set()).add(row["engine"])
    return paragraph(
        " ".join(
            f"Of {day}, on a GPU of the same kind with the same versions: {', '.join(sorted(engines))}. "
            "A ratio to them is not one of figures that were measured side by side."
            for day, engines in sorted(days.items())
        )
    )


def _steps(rows):
    found = _times(rows)
    engines = [engine for engine in _ENGINES if any(engine in cells for cells in found.values())]
    lines = [
        [_MODELS[model], dtype, str(batch), *[f"{cells[e]:.3g}" if e in cells else "" for e in engines]]
        for (model, dtype, batch), cells in found.items()
    ]
    return table(["model", "type", "batch", *engines], lines)


def _kernels(rows):
    found = {}
    for row in rows:
        if "share" in row:
            found.setdefault(row["kernel"], {})[row["dtype"]] = f"{row['share']:.0%}"
    return [[f"`{name}`", cells.get("float32", ""), cells.get("bfloat16", "")] for name, cells in found.items()]
