"""Error function, its complement and inverse, and the normal distribution."""

import math

from gpukeras.backend import devices

__all__ = ["erf", "erfc", "erfinv", "normal_cdf"]

# Coefficients, highest power first; pairs are numerator and denominator.
# fmt: off

# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969).
# On |x| <= 0.46875: erf(x) = x R(x²); up to 4: erfc(x) = exp(-x²) R(x);
# beyond: erfc(x) = exp(-x²) (1/sqrt(pi) - R(1/x²) / x²) / x.
_NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
     2.84423683343917062e3),
)
_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
     1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3,
     1.23033935480374942e3),
)
_FAR = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)

# M. J. Wichura, "Algorithm AS 241", Applied Statistics 37 (1988): the normal quantile.
_QUANTILE_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)
_QUANTILE_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258, 3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590,
     1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940,
     2.05319162663775882187, 1.0),
)
_QUANTILE_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580,
     5.46378491116411436990, 6.65790464350110377720),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)

# erf(x / sqrt(2)) = tanh(x P(x²)), P fitted on |x| <= 6. Largest error in float32 1.4e-7, with no
# exp, no division and no case for the sign; from 5.8 on the result is exactly 1.
_TANH_FORM = (
    1.756281453602071e-09, -1.3226640760422015e-07, 3.9647748053539544e-06, -5.5306325521087274e-05,
    -3.2594729418633506e-05, 0.03633308410644531, 0.7978849411010742,
)
# fmt: on
_TANH_LIMIT = 6.0


def _polynomial(x, coefficients):
    """c₀ xⁿ + c₁ xⁿ⁻¹ + ... + cₙ by Horner's rule, in one array."""
    y = x * coefficients[0]
    for c in coefficients[1:-1]:
        y += c
        y *= x
    y += coefficients[-1]
    return y


def _rational(x, coefficients):
    numerator, denominator = coefficients
    return _polynomial(x, numerator) / _polynomial(x, denominator)


def _in_float32(function, x):
    return function(x.astype("float32")).astype(x.dtype)


def erf(x):
    """The error function 2/sqrt(pi) ∫₀ˣ exp(-t²) dt; its largest error in float32 is 1.5e-7."""
    if x.dtype.itemsize < 4:
        return _in_float32(erf, x)
    xp = devices.array_module(x)
    if x.dtype == "float32":
        return _tanh_form(x * math.sqrt(2.0))
    near = xp.clip(x, -0.46875, 0.46875)
    return xp.where(
        xp.abs(x) <= 0.46875,
        near * _rational(near * near, _NEAR),
        xp.copysign(1.0 - _upper_tail(x), x),
    )


def erfc(x):
    """1 - erf(x), which keeps its relative precision where erf(x) is almost 1."""
    if x.dtype.itemsize < 8:
        return erfc(x.astype("float64")).astype(x.dtype)
    xp = devices.array_module(x)
    tail = _upper_tail(x)
    tail = xp.where(x < 0, 2.0 - tail, tail)
    return xp.where(xp.abs(x) <= 0.46875, 1.0 - erf(xp.clip(x, -0.46875, 0.46875)), tail)


def _upper_tail(x):
    """erfc(abs(x)) in float64, for abs(x) > 0.46875."""
    xp = devices.array_module(x)
    size = xp.clip(xp.abs(x), 0.46875, 27.0)  # beyond 26.6 the result is 0 in float64
    middle = _rational(xp.minimum(size, 4.0), _MIDDLE)
    far = xp.maximum(size, 4.0)
    z = 1.0 / (far * far)
    far = (1.0 / math.sqrt(math.pi) - z * _rational(z, _FAR)) / far
    return xp.exp(-size * size) * xp.where(size <= 4.0, middle, far)


def erfinv(x):
    """The y in (-∞, ∞) with erf(y) = x; ±inf at ±1 and nan beyond. Computed in float64."""
    if x.dtype != "float64":
        return erfinv(x.astype("float64")).astype(x.dtype)
    xp = devices.array_module(x)
    half = 0.5 * x
    centre = xp.clip(half, -0.425, 0.425)
    centre = centre * _rational(0.180625 - centre * centre, _QUANTILE_CENTRE)
    size = xp.abs(x)
    inside = size < 1.0
    tail = xp.clip(0.5 - 0.5 * size, 1e-300, 0.5)  # exact: the probability above abs(y)
    root = xp.sqrt(-xp.log(tail))
    tail = xp.where(
        root <= 5.0,
        _rational(xp.minimum(root, 5.0) - 1.6, _QUANTILE_TAIL),
        _rational(xp.maximum(root, 5.0) - 5.0, _QUANTILE_FAR_TAIL),
    )
    y = xp.where(xp.abs(half) <= 0.425, centre, xp.copysign(tail, x)) / math.sqrt(2.0)
    edge = xp.where(size == 1.0, xp.copysign(xp.full_like(x, math.inf), x), math.nan)
    return xp.where(inside, y, edge)


def _tanh_form(x):
    """erf(x / sqrt(2)) in float32."""
    xp = devices.array_module(x)
    x = xp.clip(x, -_TANH_LIMIT, _TANH_LIMIT)
    y = _polynomial(x * x, _TANH_FORM)
    y *= x
    return xp.tanh(y, out=y if y.ndim else None)


def normal_cdf(x):
    """Φ(x) = (1 + erf(x / sqrt(2))) / 2: how much of a normal distribution lies below x."""
    if x.dtype.itemsize < 4:
        return _in_float32(normal_cdf, x)
    if x.dtype == "float64":
        return 0.5 * erfc(x * -math.sqrt(0.5))
    y = _tanh_form(x)
    y *= 0.5
    y += 0.5
    return y
