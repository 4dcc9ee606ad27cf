"""Elements are read and written by 16 bytes in every kernel whose text says so.

What a kernel should do is read from its text: the arrays that it hands to the helpers of common.cuh and windows.cuh,
and what the functions that it calls do. What it does is read from the PTX.
"""

import re

import pytest

from gpukeras.backend import cuda
from tests.kernels.test_cuda_build import DTYPES, SOURCES, compile_source, needs_nvrtc  # noqa: F401

_ARGUMENT = r"\(((?:[^()]|\([^()]*\))*)\)"  # which may have parentheses itself
_CALL = re.compile(r"(?<![.\w])(\w+)(?:<[^<>;(){}]*>)?\(")
_READS = (
    re.compile(r"\b(?:reads|updates|of_columns)" + _ARGUMENT),
    re.compile(r"\.load\((\w+), \w+\)"),  # a row into registers
    re.compile(r"reinterpret_cast<const uint4\*>" + _ARGUMENT),
    re.compile(r"(\w+<uint4>)\("),  # copies
)
_WRITES = (
    re.compile(r"\b(?:writes|updates)" + _ARGUMENT),
    re.compile(r"\.store\((\w+), \w+\)"),
    re.compile(r"reinterpret_cast<uint4\*>" + _ARGUMENT),
    re.compile(r"(\w+<uint4>)\("),
)


def functions_of(text):
    """The bodies of a text's functions that stand outside of classes, by name; those of one name together."""
    found = {}
    for match in re.finditer(r"^(?:KERNEL |DEVICE [^\n(]*?)\b(\w+)\(", text, flags=re.MULTILINE):
        line = text[match.end() :].partition("\n")[0]
        body = line if line.endswith("}") else text[match.end() :].partition("\n}\n")[0]
        found[match[1]] = found.get(match[1], "") + body
    return found


def reached(name, functions, known):
    """The names of a function and all that it calls."""
    known.add(name)
    for called in _CALL.findall(functions[name]):
        if called in functions and called not in known:
            reached(called, functions, known)
    return known


def expected(name, functions):
    """How many arrays a kernel reads and writes by 16 bytes, at least."""
    bodies = [functions[other] for other in reached(name, functions, set())]
    return tuple(
        max(len({found for pattern in patterns for found in pattern.findall(body)}) for body in bodies)
        for patterns in (_READS, _WRITES)
    )


def found_in(ptx, name):
    """How many instructions of a kernel read and write 16 bytes of an array."""
    body = ptx[ptx.index(f".entry {name}(") :].partition(".entry ")[2].partition(".entry ")[0]
    return tuple(
        len(re.findall(rf"\b{instruction}(?:\.global)?(?:\.nc)?\.(?:v4\.\w32|v2\.\w64)\b", body))
        for instruction in ("ld", "st")
    )


def faults(text, ptx):
    """The kernels with fewer accesses of 16 bytes than their text has."""
    functions = functions_of(text)
    for name in cuda.parameters_of(text):
        wanted, found = expected(name, functions), found_in(ptx, name)
        if any(a < b for a, b in zip(found, wanted, strict=True)):
            yield f"{name} has {found} reads and writes of 16 bytes, but should have {wanted}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOURCES)
def test_elements_are_read_and_written_by_16_bytes(name, dtype):
    text = cuda.Source(name).text
    ptx, _ = compile_source(text, dtype, "sm_90")
    assert not [*faults(text, ptx)]


@pytest.mark.parametrize(
    ("source", "name", "reads_and_writes"),
    [
        ("optimizer", "sgd", (2, 1)),
        ("optimizer", "adam", (5, 4)),
        ("activation", "gelu", (1, 2)),
        ("loss", "sparse_crossentropy_backward", (0, 1)),
        ("loss", "binary_crossentropy", (2, 2)),
        ("linear", "finish", (2, 1)),
        ("linear", "sum_of_rows", (1, 0)),
        ("softmax", "softmax", (3, 2)),
        ("normalization", "layer_norm_backward_with_sums", (2, 1)),
        ("pooling", "max_pool", (1, 1)),
        ("batches", "gather_rows", (1, 1)),
        ("dropout", "dropout", (1, 1)),
        ("dropout", "masked", (1, 1)),
        ("sums", "matches_of_blocks", (1, 0)),
    ],
)
def test_what_a_kernel_should_do_is_read_from_its_text(source, name, reads_and_writes):
    assert expected(name, functions_of(cuda.Source(source).text)) == reads_and_writes


@pytest.mark.parametrize(
    ("whole", "singly"),
    [
        (
            "p.bits = reinterpret_cast<const uint4*>(array)[pack];",
            "for (int k = 0; k < LANES; ++k) p.at[k] = array[pack * LANES + k];",
        ),
        (
            "reinterpret_cast<uint4*>(array)[pack] = p.bits;",
            "for (int k = 0; k < LANES; ++k) array[pack * LANES + k] = p.at[k];",
        ),
    ],
)
def test_accesses_one_by_one_are_found(whole, singly):
    text = cuda.Source("updates").text
    assert text.count(whole) == 1
    ptx, _ = compile_source(text.replace(whole, singly), "float32", "sm_90")
    assert any(fault.startswith("moving_average has") for fault in faults(text, ptx))
