"""Exponentials, logarithms, roots and the error function."""

from gpukeras.autograd.op import op
from gpukeras.backend import devices
from gpukeras.kernels import special
from gpukeras.ops.elementwise import as_float, promote_float, unbroadcast

__all__ = [
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "expm1",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "rsqrt",
    "sqrt",
]

_LN2 = 0.6931471805599453
_LN10 = 2.302585092994046
_TWO_BY_ROOT_PI = 1.1283791670955126


@op
def sqrt(x, /):
    """Square root.

    dx = dy / (2 · √x).

    Example:
        >>> sqrt(np.array([9.0])).numpy()
        array([3.])
    """
    x = as_float(x)
    y = devices.array_module(x).sqrt(x)
    return y, lambda dy, needs: (dy * 0.5 / y,)


@op
def rsqrt(x, /):
    """1 / √x.

    dx = -dy · y³ / 2.

    Example:
        >>> rsqrt(np.array([4.0])).numpy()
        array([0.5])
    """
    x = as_float(x)
    y = 1 / devices.array_module(x).sqrt(x)
    return y, lambda dy, needs: (dy * -0.5 * y * y * y,)


@op
def exp(x, /):
    """e to the power x.

    dx = dy · y.

    Example:
        >>> exp(np.zeros(1)).numpy()
        array([1.])
    """
    x = as_float(x)
    y = devices.array_module(x).exp(x)
    return y, lambda dy, needs: (dy * y,)


@op
def expm1(x, /):
    """exp(x) - 1, exact for small x too.

    dx = dy · (y + 1).

    Example:
        >>> expm1(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    y = devices.array_module(x).expm1(x)
    return y, lambda dy, needs: (dy * (y + 1),)


@op
def log(x, /):
    """Natural logarithm.

    dx = dy / x.

    Example:
        >>> log(np.ones(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    return devices.array_module(x).log(x), lambda dy, needs: (dy / x,)


@op
def log1p(x, /):
    """log(1 + x), exact for small x too.

    dx = dy / (1 + x).

    Example:
        >>> log1p(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    return devices.array_module(x).log1p(x), lambda dy, needs: (dy / (x + 1),)


@op
def log2(x, /):
    """Logarithm to base 2.

    dx = dy / (x · log 2).

    Example:
        >>> log2(np.array([8.0])).numpy()
        array([3.])
    """
    x = as_float(x)
    return devices.array_module(x).log2(x), lambda dy, needs: (dy / (x * _LN2),)


@op
def log10(x, /):
    """Logarithm to base 10.

    dx = dy / (x · log 10).

    Example:
        >>> log10(np.array([100.0])).numpy()
        array([2.])
    """
    x = as_float(x)
    return devices.array_module(x).log10(x), lambda dy, needs: (dy / (x * _LN10),)


@op
def logaddexp(x1, x2, /):
    """log(exp(x1) + exp(x2)), without overflow.

    dx1 = dy · exp(x1 - y), dx2 = dy · exp(x2 - y), summed over the axes that were broadcast.

    Example:
        >>> logaddexp(np.zeros(1), np.zeros(1)).numpy().round(4)
        array([0.6931])
    """
    a, b = promote_float(x1, x2)
    xp = devices.array_module(a if hasattr(a, "dtype") else b)
    y = xp.logaddexp(a, b)

    def backward(dy, needs):
        return (
            unbroadcast(dy * xp.exp(a - y), x1) if needs.x1 else None,
            unbroadcast(dy * xp.exp(b - y), x2) if needs.x2 else None,
        )

    return y, backward


@op
def erf(x, /):
    """Error function: 2/√π ∫₀ˣ exp(-t²) dt.

    dx = dy · 2/√π · exp(-x²).

    Example:
        >>> erf(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return special.erf(x), lambda dy, needs: (dy * (xp.exp(-x * x) * _TWO_BY_ROOT_PI),)


@op
def erfc(x, /):
    """Complement of the error function, exact for large x too: 1 - erf(x).

    dx = -dy · 2/√π · exp(-x²).

    Example:
        >>> erfc(np.zeros(1)).numpy()
        array([1.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return special.erfc(x), lambda dy, needs: (dy * (xp.exp(-x * x) * -_TWO_BY_ROOT_PI),)


@op
def erfinv(x, /):
    """Inverse of the error function, for x from -1 to 1.

    dx = dy · √π/2 · exp(y²).

    Example:
        >>> erfinv(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    y = special.erfinv(x)
    xp = devices.array_module(x)
    return y, lambda dy, needs: (dy * (xp.exp(y * y) / _TWO_BY_ROOT_PI),)
