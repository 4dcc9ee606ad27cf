"""Sines, their inverses and their hyperbolic sisters."""

from gpukeras.autograd.op import op
from gpukeras.backend import devices
from gpukeras.ops.elementwise import as_float, promote_float, unbroadcast

__all__ = [
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "cos",
    "cosh",
    "deg2rad",
    "rad2deg",
    "sin",
    "sinh",
    "tan",
    "tanh",
]

_DEGREE = 0.017453292519943295  # in radians


@op
def sin(x, /):
    """Sine, of radians.

    dx = dy · cos x.

    Example:
        >>> sin(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.sin(x), lambda dy, needs: (dy * xp.cos(x),)


@op
def cos(x, /):
    """Cosine, of radians.

    dx = -dy · sin x.

    Example:
        >>> cos(np.zeros(1)).numpy()
        array([1.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.cos(x), lambda dy, needs: (-dy * xp.sin(x),)


@op
def tan(x, /):
    """Tangent, of radians.

    dx = dy · (1 + y²).

    Example:
        >>> tan(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    y = devices.array_module(x).tan(x)
    return y, lambda dy, needs: (dy * (y * y + 1),)


@op
def arcsin(x, /):
    """Inverse sine, in radians.

    dx = dy / √(1 - x²).

    Example:
        >>> arcsin(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.arcsin(x), lambda dy, needs: (dy / xp.sqrt(1 - x * x),)


@op
def arccos(x, /):
    """Inverse cosine, in radians.

    dx = -dy / √(1 - x²).

    Example:
        >>> arccos(np.ones(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.arccos(x), lambda dy, needs: (-dy / xp.sqrt(1 - x * x),)


@op
def arctan(x, /):
    """Inverse tangent, in radians.

    dx = dy / (1 + x²).

    Example:
        >>> arctan(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.arctan(x), lambda dy, needs: (dy / (x * x + 1),)


@op
def sinh(x, /):
    """Hyperbolic sine.

    dx = dy · cosh x.

    Example:
        >>> sinh(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.sinh(x), lambda dy, needs: (dy * xp.cosh(x),)


@op
def cosh(x, /):
    """Hyperbolic cosine.

    dx = dy · sinh x.

    Example:
        >>> cosh(np.zeros(1)).numpy()
        array([1.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.cosh(x), lambda dy, needs: (dy * xp.sinh(x),)


@op
def tanh(x, /):
    """Hyperbolic tangent.

    dx = dy · (1 - y²).

    Example:
        >>> tanh(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    y = devices.array_module(x).tanh(x)
    return y, lambda dy, needs: (dy * (1 - y * y),)


@op
def arcsinh(x, /):
    """Inverse hyperbolic sine.

    dx = dy / √(x² + 1).

    Example:
        >>> arcsinh(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.arcsinh(x), lambda dy, needs: (dy / xp.sqrt(x * x + 1),)


@op
def arccosh(x, /):
    """Inverse hyperbolic cosine.

    dx = dy / √(x² - 1).

    Example:
        >>> arccosh(np.ones(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.arccosh(x), lambda dy, needs: (dy / xp.sqrt(x * x - 1),)


@op
def arctanh(x, /):
    """Inverse hyperbolic tangent.

    dx = dy / (1 - x²).

    Example:
        >>> arctanh(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    xp = devices.array_module(x)
    return xp.arctanh(x), lambda dy, needs: (dy / (1 - x * x),)


@op
def deg2rad(x, /):
    """Degrees in radians.

    dx = dy · π / 180.

    Example:
        >>> deg2rad(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    return x * _DEGREE, lambda dy, needs: (dy * _DEGREE,)


@op
def rad2deg(x, /):
    """Radians in degrees.

    dx = dy · 180 / π.

    Example:
        >>> rad2deg(np.zeros(1)).numpy()
        array([0.])
    """
    x = as_float(x)
    return x / _DEGREE, lambda dy, needs: (dy / _DEGREE,)


@op
def arctan2(x1, x2, /):
    """The angle of the point (x2, x1), from -π to π.

    dx1 = dy · x2 / (x1² + x2²), dx2 = -dy · x1 / (x1² + x2²), summed over the broadcast axes.

    Example:
        >>> arctan2(np.zeros(1), np.ones(1)).numpy()
        array([0.])
    """
    a, b = promote_float(x1, x2)
    xp = devices.array_module(a if hasattr(a, "dtype") else b)

    def backward(dy, needs):
        share = dy / (a * a + b * b)
        return (
            unbroadcast(share * b, x1) if needs.x1 else None,
            unbroadcast(-share * a, x2) if needs.x2 else None,
        )

    return xp.arctan2(a, b), backward
