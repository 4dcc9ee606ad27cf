"""Counter-based random numbers: the same bits on every device, and the seed of the process.

Every number is a function of ``(key, draw, position)``: the key is a generator's seed, `draw`
counts what it has been asked for, the position is the element's. Nothing depends on the device, on
the order of work or on a hidden state, so a captured step needs only `draw` advanced in device
memory.

The generator is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).
Numbers are made of its bits by operations that IEEE 754 rounds correctly (+ - * / sqrt), never by a
library's log or cos; this is why NumPy and CuPy agree to the last bit.
"""

import functools
import os
import threading

import numpy as np

from gpukeras.backend import dtypes, threads

__all__ = [
    "bernoulli",
    "get_seed",
    "next_seed",
    "normal",
    "permutation",
    "philox",
    "process_seed",
    "randint",
    "random_bits",
    "set_seed",
    "truncated_normal",
    "uniform",
]

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57  # of words 0 and 2, Salmon et al. table 2
_WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key each round: golden ratio, sqrt(3) - 1
_ROUNDS = 10
_WORD = 0xFFFFFFFF
_SECOND_KEY = 0x6B657261  # the key's other word: sets us apart from other users of Philox
_SEED_STREAM = 1  # counter word 3 of the seeds that the process hands out; 0 for all numbers

# Counters a block: two products and the words of a round stay in the L2 cache. Timed from 1024 to
# 16384; a smaller block pays more for NumPy's calls, a larger one for memory.
_BLOCK = 8192
# On several threads, which wait for each other at each of NumPy's calls, the blocks are larger: 65536 counters took
# 4.4 ms in one thread in blocks of 8192, on two 5.3 in such blocks, 2.8 in blocks of 16384 and 2.1 in these.
_THREAD_BLOCK = 32768
_THREADED = 2 * _THREAD_BLOCK
# Requests of at most so many counters are made for so many draws at once, on the CPU.
_SMALL = 512
_GROUP = 16


def philox(counter, key):
    """Four random words of four counter words and two key words, all Python ints.

    The readable form of what `random_bits` does for many counters at once:

        high0, low0 = M0 · c0;  high1, low1 = M1 · c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0;  k0 += W0, k1 += W1
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _WORD,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def random_bits(key, draw, count, xp, second_key=_SECOND_KEY, stream=0):
    """`count` words of 32 random bits.

    Word ``4i + j`` is word j of the counter ``(i, 0, draw, stream)`` under the key ``(key,
    second_key)``: the first words of a longer request are those of a shorter one.

    Args:
        key, draw: Python ints below 2^32, or uint32 arrays of one element, which are not read on
            the host.
        count: How many.
        xp: The array module that makes them.
        second_key, stream: The other words of key and counter, Python ints.

    Shapes:
        ->  (count,) uint32
    """
    counters = -(-count // 4)
    if counters > 2**32:
        raise ValueError(f"One draw gives at most 2^34 random words, but {count} were asked for. Draw in parts.")
    if xp is np and isinstance(draw, np.ndarray) and 0 < counters <= _SMALL:
        draw, key = draw.item(), key.item() if isinstance(key, np.ndarray) else key
        group = _group_of_draws(key, draw // _GROUP, counters, second_key, stream)
        return group[draw % _GROUP, :count].copy()
    words = xp.empty((counters, 4), np.uint32)
    keys = _round_keys(key, second_key, xp)
    # On a GPU one launch should cover everything; the CPU's caches want blocks.
    is_threaded = xp is np and counters >= _THREADED
    size = (_THREAD_BLOCK if is_threaded else min(_BLOCK, counters)) if xp is np else counters
    starts = range(0, counters, max(size, 1))

    def fill(start, block):
        stop = min(start + size, counters)
        block.fill(words[start:stop], xp.arange(start, stop, dtype=np.uint32), draw, stream, keys)

    if is_threaded:
        threads.run(lambda start: fill(start, _Block(size, xp)), starts)
    else:
        block = _Block(max(size, 1), xp)
        for start in starts:
            fill(start, block)
    return words.reshape(-1)[:count]


@functools.lru_cache(maxsize=64)
def _group_of_draws(key, group, counters, second_key, stream):
    """The words (_GROUP, 4 · counters) of as many draws in a row.

    For small requests NumPy's calls cost more than the numbers: those of the next training steps
    are made along with this one's.
    """
    draws = np.arange(group * _GROUP, (group + 1) * _GROUP, dtype=np.uint32)
    words = np.empty((_GROUP * counters, 4), np.uint32)
    index = np.tile(np.arange(counters, dtype=np.uint32), _GROUP)
    keys = _round_keys(key, second_key, np)
    _Block(len(words), np).fill(words, index, draws.repeat(counters), stream, keys)
    return words.reshape(_GROUP, 4 * counters)


class _Block:
    """The rounds for up to `size` counters at once, and their buffers.

    Both lines of a round are done together: row 0 holds words 0 and 1, row 1 words 2 and 3. A
    product's high and low halves are uint32 views of it (little-endian, as on every supported
    device), and crossing the lines is a reversed view.
    """

    def __init__(self, size, xp):
        self.xp = xp
        self.even = xp.empty((2, size), np.uint32)
        self.products = [xp.empty((2, size), np.uint64) for _ in range(2)]
        self.high = [p.view(np.uint32)[::-1, 1::2] for p in self.products]
        self.odd = [p.view(np.uint32)[::-1, ::2] for p in self.products]

    def fill(self, words, index, draw, stream, keys):
        """Put the words (counters, 4) of counters with these indices (counters,) into `words`."""
        xp, even, count = self.xp, self.even, len(words)
        multipliers = _constants(xp)[0]
        even[0, :count] = index
        even[1, :count] = draw
        self.odd[1][0] = 0
        self.odd[1][1] = stream
        for i in range(_ROUNDS):
            this = i & 1
            xp.multiply(even, multipliers, out=self.products[this], dtype=np.uint64)
            xp.bitwise_xor(self.high[this], self.odd[1 - this], out=even)
            xp.bitwise_xor(even, keys[i], out=even)
        for i in (0, 1):  # row by row: a transposed copy takes five times as long
            words[:, 2 * i] = even[i, :count]
            words[:, 2 * i + 1] = self.odd[1][i, :count]


def _round_keys(key, second_key, xp):
    """The keys of each round (rounds, 2, 1)."""
    keys = _constants(xp)[1].copy()
    keys[:, 0] += key
    keys[:, 1] += second_key
    return keys


@functools.cache
def _constants(xp):
    """The multipliers (2, 1), and for every round what is added to the key (rounds, 2, 1)."""
    multipliers = np.array(_MULTIPLIERS, np.uint32)[:, None]
    schedule = np.array([[i * w & _WORD for w in _WEYL] for i in range(_ROUNDS)], np.uint32)[:, :, None]
    return xp.asarray(multipliers), xp.asarray(schedule)


def uniform(key, draw, count, xp, dtype="float32"):
    """Uniform in [0, 1): multiples of half the dtype's epsilon, so that 1 is never reached.

    float16 and bfloat16 come as float32 arrays of such values: casting them changes nothing.
    """
    digits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtypes.name_of(dtype)]
    if digits > 32:
        bits = random_bits(key, draw, 2 * count, xp)
        high, low = bits[::2], bits[1::2]
        return high.astype(np.float64) * 2.0**-32 + (low >> 11).astype(np.float64) * 2.0**-53
    bits = random_bits(key, draw, count, xp)
    bits >>= 32 - digits
    u = bits.astype(np.float32)
    u *= 2.0**-digits
    return u


def bernoulli(key, draw, count, probability, xp):
    """True with the given probability, a Python float.

    Half a word makes an element, which meets the probability to 2^-17; a whole one where it is
    below 1/64 or above 63/64, which meets it to 2^-33.
    """
    if 1 / 64 <= probability <= 63 / 64:
        bits = random_bits(key, draw, -(-count // 2), xp).view(np.uint16)[:count]
        return bits >= round((1.0 - probability) * 2**16)
    threshold = round((1.0 - probability) * 2**32)
    if threshold == 2**32:
        return xp.zeros(count, bool)
    return random_bits(key, draw, count, xp) >= threshold


def normal(key, draw, count, xp, dtype="float32"):
    """Standard normal, by the inverse of its distribution function.

    One word makes an element, two in float64. Returns float64 for float64, else float32. The tails
    reach ±6.3 (±8.1 in float64).
    """
    return _by_quantile(key, draw, count, xp, dtype, 0.0, 1.0)


_PHI_OF_MINUS_2 = 0.02275013194817921  # the normal distribution function at -2


def truncated_normal(key, draw, count, xp, dtype="float32"):
    """Standard normal under the condition |z| <= 2, without rejection. Returns as `normal`."""
    return _by_quantile(key, draw, count, xp, dtype, _PHI_OF_MINUS_2, 1.0 - 2.0 * _PHI_OF_MINUS_2)


def _by_quantile(key, draw, count, xp, dtype, start, width):
    wide = dtypes.name_of(dtype) == "float64"
    bits = random_bits(key, draw, 2 * count if wide else count, xp)
    z = xp.empty(count, np.float64 if wide else np.float32)
    size = _BLOCK if xp is np else max(count, 1)
    for i in range(0, count, size):
        # The middle of the grid's cells, exact in float64 and never 0 or 1.
        if wide:
            part = bits[2 * i : 2 * (i + size)]
            p = part[::2].astype(np.float64) * 2.0**-32
            p += ((part[1::2] >> 12).astype(np.float64) + 0.5) * 2.0**-52
        else:
            p = bits[i : i + size].astype(np.float64)
            p += 0.5
            p *= 2.0**-32
        if start:
            p *= width
            p += start
        q = _normal_quantile(p, xp)
        # The quantile's own error of 1e-8 must not lead out of the range.
        z[i : i + size] = xp.clip(q, -2.0, 2.0) if start else q
    return z


# z²/y as a rational function of y = -log(4p(1 - p)), for 2^-53 <= p <= 1 - 2^-53: largest relative
# error 2.1e-8 (1e-8 in z, below float32's rounding). Fitted to the quantiles at 4001 points by
# weighted least squares.
_NUMERATOR = (
    1.1373035353018819e-05,
    0.00054788367489363551,
    0.0080354969398482725,
    0.071176062533573526,
    0.36501248446820671,
    1.5707963577304051,
)
_DENOMINATOR = (
    5.700701159243072e-06,
    0.00028782282820748797,
    0.004410427298823121,
    0.04091350072598851,
    0.20877581687491933,
    1.0,
)


def _normal_quantile(p, xp):
    """z with P(standard normal < z) = p, for float64 p in (0, 1).

        y = -log(4p(1 - p)),  z = ±sqrt(y · N(y) / D(y))

    y and z² vanish together at p = 1/2 and both grow like -2 log p in the tails, so that one smooth
    quotient serves the whole range: no branch, no rejection, a single logarithm.
    """
    v = 4.0 * p
    v *= 1.0 - p
    y = _minus_log(v, xp)
    z = _polynomial(_NUMERATOR, y)
    z *= y
    z /= _polynomial(_DENOMINATOR, y)
    return xp.copysign(xp.sqrt(z), p - 0.5)


_BITS_OF_SQRT_HALF = 0x3FE6A09E667F3BCD
_LOG_2 = 0.6931471805599453
_ATANH = (
    2 / 13,
    2 / 11,
    2 / 9,
    2 / 7,
    2 / 5,
    2 / 3,
    2.0,
)  # of 2 atanh(s) in s², beyond the factor s


def _minus_log(v, xp):
    """-log v for normal (not subnormal) float64 v in (0, 1], to 1e-11 relative.

    v = m · 2^k with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s), s = (m - 1) / (m + 1).
    """
    bits = v.view(np.int64)
    k = (bits - _BITS_OF_SQRT_HALF) >> 52
    m = (bits - (k << 52)).view(np.float64)
    s = m - 1.0
    s /= m + 1.0
    y = _polynomial(_ATANH, s * s)
    y *= s
    y += k.astype(np.float64) * _LOG_2
    return -y


def _polynomial(coefficients, x):
    """Horner's rule, highest coefficient first; each step rounds twice on every device."""
    y = coefficients[0] * x
    y += coefficients[1]
    for c in coefficients[2:]:
        y *= x
        y += c
    return y


def randint(key, draw, count, minval, maxval, xp):
    """Integers in [minval, maxval), Python ints, as int64; 64 bits go into each.

    A value's probability is off by less than (maxval - minval) / 2^64 of itself. Bounds beyond
    int64 give the two's complement, which a cast to uint64 puts right.
    """
    bits = random_bits(key, draw, 2 * count, xp)
    first, second = bits[::2].astype(np.uint64), bits[1::2].astype(np.uint64)
    width = maxval - minval
    if width <= 2**32:
        # The upper half of the product of 64 random bits with the width.
        offset = (first * np.uint64(width) + ((second * np.uint64(width)) >> 32)) >> 32
    else:
        offset = (first << 32) | second
        if width < 2**64:
            offset %= np.uint64(width)
    return (offset + np.uint64(minval % 2**64)).view(np.int64)


def permutation(key, draw, count, xp):
    """The numbers 0 ... count - 1 in random order, int64.

    They are sorted by 32 random bits each, those of equal bits by themselves: of a million numbers, about a hundred
    pairs keep their order.
    """
    bits = random_bits(key, draw, count, xp)
    if xp is np:
        # By the lower halves, then by the upper ones: NumPy sorts 16 bits in one pass. 16384 numbers took 0.14 ms so,
        # 0.44 as in the other form.
        halves = bits.view(np.uint16)
        order = halves[::2].argsort(kind="stable")
        return order.take(halves[1::2].take(order).argsort(kind="stable"))
    keys = bits.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= xp.arange(count, dtype=np.uint64)
    keys.sort()
    keys &= np.uint64(_WORD)
    return keys.view(np.int64)


class _Process:
    """Where seeds come from that nobody named: the process's seed and how many were handed out."""

    def __init__(self):
        self.lock = threading.Lock()
        self.named: int | None = None  # what set_seed was given
        self.reset(int.from_bytes(os.urandom(4), "little"))

    def reset(self, seed):
        self.seed = seed
        self.count = 0
        self.epoch = object()  # a new one at every set_seed


_process = _Process()


def set_seed(seed):
    """Start the process's seeds anew: what is made afterwards gets the same ones in every process.

    Raises:
        ValueError: where the seed is no integer from 0 to 2^32 - 1.
    """
    if not isinstance(seed, int):
        raise ValueError(
            f"set_random_seed expected an integer seed, but got {seed!r} ({type(seed).__name__}). Pass an int."
        )
    if not 0 <= seed <= _WORD:
        raise ValueError(f"set_random_seed expected a seed from 0 to 2^32 - 1, but got {seed}.")
    with _process.lock:
        _process.named = int(seed)
        _process.reset(int(seed))


def get_seed():
    """The seed given to `set_seed`, or None."""
    return _process.named


def next_seed():
    """A seed for something that was given none: 1 to 2^32 - 1, another one at each call."""
    with _process.lock:
        _process.count += 1
        count = _process.count
    return _seed_of(count)


def process_seed():
    """The seed of the global generator, and a token that changes with every `set_seed`."""
    with _process.lock:
        return _seed_of(0), _process.epoch


def _seed_of(index):
    words = philox((index & _WORD, index >> 32, 0, _SEED_STREAM), (_process.seed, _SECOND_KEY))
    return max(words[0], 1)
