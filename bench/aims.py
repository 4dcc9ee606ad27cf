"""What the library aims at on two cores, each beside what the reports in bench/results/ say."""

from bench.compare import PEERS, ratio
from bench.workloads import WORKLOADS

__all__ = ["medians", "missed", "rows"]

_BEST_PEER = dict.fromkeys(WORKLOADS, 1.0) | {"linear": 3.0, "tabular": 1.5}
_BY_HAND = {"convnet": 1 / 1.3, "residual": 1 / 1.3, "lstm": 1 / 1.3, "mlp": 1.0, "gru": 1.0, "transformer": 1.0}


def rows(reports):
    """``(what, aim, measured, whether it is reached)`` for every aim that the reports speak of."""
    found = []
    figures = reports["compare"]["figures"] if "compare" in reports else {}
    for aims, engines, title in (
        (_BEST_PEER, PEERS, "{}: training step, best Keras backend over gpukeras"),
        (_BY_HAND, ("raw-torch",), "{}: training step, PyTorch by hand over gpukeras"),
    ):
        for name, aim in aims.items():
            value = ratio(medians(figures, "step", name), engines)
            if value is not None:
                found.append((title.format(name), f"at least {aim:.2f}", f"{value:.2f}", value >= aim))
    for measure, title, most in (
        ("one", "tabular: `predict` of one row", 50),
        ("call", "tabular: `model(x)` of one row", 40),
    ):
        value = medians(figures, measure, "tabular").get("gpukeras")
        if value is not None:
            found.append((title, f"at most {most} us", f"{1e6 * value:.0f} us", 1e6 * value <= most))
    for name in figures.get("memory", {}):
        peaks = medians(figures, "memory", name)
        if "jax" in peaks and "gpukeras" in peaks:
            mine, limit = peaks["gpukeras"] / 1e6, peaks["jax"] / 1e6
            title = f"{name}: peak memory of training"
            found.append((title, f"at most {limit:.0f} MB, as Keras on JAX", f"{mine:.0f} MB", mine <= limit))
    for measure, title, most, factor, unit in (
        ("cold", "import, build, fit for five epochs in a fresh process", 0.6, 1, "s"),
        ("size", "installed", 100, 1e-6, "MB"),
    ):
        value = medians(figures, measure, "").get("gpukeras")
        if value is not None:
            found.append((title, f"at most {most} {unit}", f"{factor * value:.3g} {unit}", factor * value <= most))
    if "import_time" in reports:
        value = reports["import_time"]["import_above_numpy"]["median_ms"]
        found.append(("`import gpukeras` above NumPy's", "at most 100 ms", f"{value:.0f} ms", value <= 100))
    if "memory" in reports:
        report = reports["memory"]
        faults = max(report["faults_per_step"].values())
        found.append(("page faults of a training step, at most", "at most 100", f"{faults:.1f}", faults <= 100))
        for name in ("predict", "fit"):
            growth = report[name]["growth"] / 1e6
            title = f"growth over {report[name]['calls']:,} calls of `{name}`"
            found.append((title, "at most 1 MB", f"{growth:.2f} MB", growth <= 1))
    if "sweep" in reports:
        for name, sweep in reports["sweep"]["sweeps"].items():
            value = sweep["exponent"]
            found.append((f"growth of cost with {name}, exponent", "at most 1.1", f"{value:.2f}", value <= 1.1))
    return found


def missed(reports):
    """The models whose training step misses an aim."""
    found = []
    for name in WORKLOADS:
        steps = medians(reports["compare"]["figures"], "step", name)
        for least, engines in ((_BEST_PEER, PEERS), (_BY_HAND, ("raw-torch",))):
            value = ratio(steps, engines)
            if name not in found and name in least and value is not None and value < least[name]:
                found.append(name)
    return found


def medians(figures, measure, name):
    """The medians of a measure by engine, in seconds or bytes."""
    return {engine: cell["median"] for engine, cell in figures.get(measure, {}).get(name, {}).items()}
