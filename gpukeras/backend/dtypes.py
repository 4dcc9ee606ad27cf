"""Names of dtypes, Keras's promotion rules, the default float type, and dtype policies."""

import numpy as np

from gpukeras import registry
from gpukeras.configurable import Configurable

__all__ = [
    "DTypePolicy",
    "as_dtype",
    "default_policy",
    "epsilon",
    "floatx",
    "is_float",
    "is_integer",
    "is_numeric",
    "name_of",
    "policy_of",
    "result_type",
    "set_default_policy",
    "set_epsilon",
    "set_floatx",
]

_FLOATS = ("bfloat16", "float16", "float32", "float64")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_ALL = ("bool", *_INTEGERS, *_FLOATS, "complex64", "complex128", "string")

_floatx = "float32"
_epsilon = 1e-7
_policy = None
_cache = {}


def as_dtype(dtype):
    """The NumPy dtype of a name, a type or a dtype; ``"bfloat16"`` comes from ml_dtypes."""
    if isinstance(dtype, np.dtype):
        return dtype
    try:
        return _cache[dtype]
    except (KeyError, TypeError):
        pass
    name = name_of(dtype)
    if name == "bfloat16":
        import ml_dtypes

        made = np.dtype(ml_dtypes.bfloat16)
    elif name == "string":
        made = np.dtype(object)
    else:
        made = np.dtype(name)
    _cache[name] = made
    return made


def name_of(dtype):
    """The name of a dtype given as a name, a type or a dtype.

    Raises:
        ValueError: for what is no dtype, with the known ones.
    """
    if dtype is None:
        return _floatx
    if isinstance(dtype, str):
        name = dtype
    elif _is_weak(dtype):
        return {bool: "bool", int: "int32", float: _floatx}[dtype]
    else:
        name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    if name not in _ALL:
        raise ValueError(f"{dtype!r} is not a dtype. {registry.suggest(name, _ALL)}")
    return name


def _is_weak(dtype):
    # By identity: NumPy's dtypes float64, int64 and bool are equal to the Python types.
    return dtype is float or dtype is int or dtype is bool


def is_float(dtype):
    """Whether the dtype is a real floating-point type."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def is_numeric(dtype):
    """Whether the dtype is one of numbers: truth values, integers, floats (those of ml_dtypes too), complex numbers."""
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.type is not np.void)


def is_integer(dtype):
    """Whether the dtype is a signed or unsigned integer type."""
    return dtype.kind in "iu"


def floatx():
    """Name of the default float type."""
    return _floatx


def set_floatx(name):
    """Set the default float type: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``."""
    global _floatx
    if name not in _FLOATS:
        raise ValueError(f"floatx must be one of {_FLOATS}, but got {name!r}.")
    _floatx = name


def epsilon():
    """The small number that keeps logarithms and divisions finite."""
    return _epsilon


def set_epsilon(value):
    """Set what `epsilon` returns; 1e-7 at start."""
    global _epsilon
    _epsilon = float(value)


def result_type(*dtypes):
    """The dtype an operation on several operands gives, as in Keras.

    Operands are dtypes, names, or the Python types bool, int and float, which are weak: they take
    part only with their kind. A float always wins over an integer, whatever their widths.

        >>> result_type("int64", "float16").name
        'float16'
        >>> result_type("int32", float).name
        'float32'
    """
    weak = [d for d in dtypes if _is_weak(d)]
    strong = [as_dtype(d) for d in dtypes if not _is_weak(d)]
    floats = [d for d in strong if is_float(d)]
    if floats:
        return _join(floats)
    if any(d.kind == "c" for d in strong):
        return np.result_type(*strong)
    if float in weak:
        return as_dtype(_floatx)
    integers = [d for d in strong if is_integer(d)]
    if integers:
        joined = np.result_type(*integers)
        return as_dtype(_floatx) if joined.kind == "f" else joined  # int64 with uint64
    if int in weak:
        return as_dtype("int32")
    return as_dtype("bool")


def _join(floats):
    names = {d.name for d in floats}
    if len(names) == 1:
        return floats[0]
    if names == {"float16", "bfloat16"}:
        return as_dtype("float32")
    return max(floats, key=lambda d: (d.itemsize, d.name))


@registry.register("policy")
class DTypePolicy(Configurable):
    """Which dtype a layer computes in and which its variables have.

    ``"float32"`` and the other float names mean both; ``"mixed_float16"`` and ``"mixed_bfloat16"``
    compute in the short type and keep variables in float32.

    Args:
        name: The policy's name; None for the default policy's.

    Example:
        >>> DTypePolicy("mixed_bfloat16").compute_dtype
        'bfloat16'
    """

    def __init__(self, name=None):
        name = name or default_policy().name
        if not isinstance(name, str):
            raise TypeError(f"DTypePolicy takes a name such as 'float32', but got {name!r}.")
        if name.startswith("mixed_"):
            self.compute_dtype, self.variable_dtype = name.removeprefix("mixed_"), "float32"
            if self.compute_dtype not in ("float16", "bfloat16"):
                raise ValueError(f"Unknown policy {name!r}. Mixed ones: mixed_float16, mixed_bfloat16.")
        else:
            self.compute_dtype = self.variable_dtype = name_of(name)
        self.name = name

    @property
    def quantization_mode(self):
        """None: these policies quantize nothing."""
        return None

    def __eq__(self, other):
        return isinstance(other, DTypePolicy) and other.name == self.name

    def __hash__(self):
        return hash(self.name)

    def __repr__(self):
        return f'<DTypePolicy "{self.name}">'


def default_policy():
    """The policy of layers that are given none; floatx's unless one was set."""
    return _policy or DTypePolicy(_floatx)


def set_default_policy(policy):
    """Set the policy of layers made from now on, by name or object; None means floatx's again."""
    global _policy
    _policy = None if policy is None else policy_of(policy)


def policy_of(identifier):
    """A policy from None (the default), a name, a dtype, a config dictionary or a policy."""
    if identifier is None:
        return default_policy()
    if isinstance(identifier, DTypePolicy):
        return identifier
    if isinstance(identifier, dict):
        return registry.resolve("policy", identifier)
    if isinstance(identifier, str):
        return DTypePolicy(identifier)
    return DTypePolicy(name_of(identifier))
