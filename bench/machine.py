"""What the figures were measured on: processor, cores, versions, load, memory."""

import datetime
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

__all__ = [
    "FORCING",
    "ROOT",
    "Others",
    "cores",
    "cpu_name",
    "description",
    "load_average",
    "page_faults",
    "peak_memory",
    "quartiles",
    "resident_memory",
    "versions",
]

ROOT = Path(__file__).parents[1]
PACKAGES = ("numpy", "keras", "jax", "torch", "tensorflow", "cupy")
SETTINGS = (
    "GPUKERAS_BACKEND",
    "GPUKERAS_NUM_THREADS",
    "GPUKERAS_TUNE",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
)
FORCING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # make OpenBLAS take another processor's kernels, or blocks


def cpu_name():
    """The processor's name as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def cores():
    """Number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count()


def load_average():
    """Mean number of running processes over one minute, None where the system does not count it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


class Others:
    """Counts, from its making on, the share of all cores' time that goes to other processes than this one.

    Children belong to this one, once they have ended.
    """

    def __init__(self):
        self.started, self.busy, self.own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def share(self):
        """The share up to now, from 0 to 1; None where the system does not tell."""
        now = _busy_seconds()
        if self.busy is None or now is None:
            return None
        seconds = (now - self.busy) - (_own_seconds() - self.own)
        return round(max(0.0, seconds / (time.perf_counter() - self.started) / (os.cpu_count() or 1)), 4)

    def warning(self):
        """A sentence where the share is above a twentieth, else None."""
        share = self.share()
        return f"Other processes took {share:.0%} of the cores' time meanwhile." if share and share > 0.05 else None


def _busy_seconds():
    """Seconds that all cores together have worked since the system started, None where it does not tell."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, words[1:9])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def _own_seconds():
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def versions():
    """Version of Python and of those libraries that this process has imported."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        if name in sys.modules:
            found[name] = getattr(sys.modules[name], "__version__", "") or importlib.metadata.version(name)
    if "gpukeras" in sys.modules:
        found["gpukeras"] = sys.modules["gpukeras"].__version__
        found |= _blas()
    return found


def _blas():
    """NumPy's BLAS: its name, version, and the processor whose kernels it uses."""
    import threadpoolctl  # which gpukeras needs too

    for library in threadpoolctl.ThreadpoolController().select(user_api="blas").info():
        return {library["internal_api"]: f"{library['version']} ({library.get('architecture', 'unknown')} kernels)"}
    return {}


def description():
    """Date, processor, cores, load, versions, and what the environment sets, as every report begins."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": load_average(),
        "versions": versions(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }


def resident_memory():
    """Bytes of this process that are in memory now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def peak_memory():
    """Most bytes of this process that were ever in memory; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0  # Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def page_faults():
    """Pages that this process was given without reading a file, up to now; 0 where the system does not count them."""
    try:
        import resource
    except ImportError:
        return 0  # Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def quartiles(values):
    """Lower quartile, median and upper quartile, by linear interpolation between the sorted values."""
    ordered = sorted(values)

    def at(fraction):
        place = fraction * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0.25), at(0.5), at(0.75)
