"""Kernels use atomics on integers only: sums of floating-point numbers by atomics differ from launch to launch.

tests/kernels/test_cuda_build.py looks for them in what is compiled as well.
"""

import re

import pytest

from tests.house.conftest import PACKAGE

INTEGERS = {"char", "index", "int", "int16", "int8", "long", "short", "uint32", "unsigned"}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ATOMIC = re.compile(r"\b\w*atomic\w*|\bfetch_\w+|\b(?:atom|red)\.\w[\w.:]*", re.IGNORECASE)  # the last ones: in PTX
_CALL = re.compile(r"atomic(?:Add|And|CAS|Dec|Exch|Inc|Max|Min|Or|Sub|Xor)(?:_block|_system)?")
_CAST = re.compile(r"(?:reinterpret|static)_cast<([^<>]*?)\*\s*>\((.*)\)|\(([\w ]+?)\s*\*\)(.*)")
_BITS = re.compile(r"_as_|\.bits\b|_cast\b|memcpy")  # ways to have a floating-point number's bits in an integer


def sources():
    for path in sorted((PACKAGE / "kernels").glob("*.cu*")):
        yield path.name, path.read_text(encoding="utf-8")


def faults(name, text):
    """The atomics of a file that are not known to change an integer by an integer."""
    text = _COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)
    for found in _ATOMIC.finditer(text):
        place = f"{name}:{text.count(chr(10), 0, found.start()) + 1}: {found[0]}"
        arguments = arguments_of(text[found.end() :]) if _CALL.fullmatch(found[0]) else None
        if not arguments:
            yield f"{place} is none of the atomic functions that this test knows"
        elif not is_integer(arguments[0], text[: found.start()]):
            yield f"{place} on '{arguments[0]}', which is not known to hold integers"
        elif any(_BITS.search(argument) for argument in arguments[1:]):
            yield f"{place} of what may be the bits of a floating-point number"


def arguments_of(text):
    """The arguments of a call, of which the text begins with the parentheses; none where it does not."""
    arguments, depth = [""], 0
    for letter in text.lstrip():
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if depth == 0:
            return [argument.strip() for argument in arguments] if letter == ")" else None
        if letter == "," and depth == 1:
            arguments.append("")
        elif (letter, depth, arguments) != ("(", 1, [""]):
            arguments[-1] += letter
    return None


def is_integer(pointer, before):
    """Whether a pointer was last declared as one to an integer, and what it was cast from, if it was, as well."""
    cast = _CAST.fullmatch(pointer)
    if cast:
        return is_integer_type(cast[1] or cast[3]) and is_integer(cast[2] or cast[4], before)
    name = re.match(r"[&(\s]*(\w+)", pointer)
    declarations = re.finditer(rf"\b(\w+)(?:\s*\*\s*|\s+){name[1]}\b\s*([\[=,;)])(?=([^;]*))", before) if name else ()
    *_, last = None, *declarations
    if last is None or not is_integer_type(last[1]):
        return False
    return not (last[2] == "=" and _CAST.match(last[3].strip())) or is_integer(last[3].strip(), before[: last.start()])


def is_integer_type(name):
    return name.split()[-1] in INTEGERS


def test_atomics_are_on_integers():
    found = [fault for source in sources() for fault in faults(*source)]
    assert not found, "\n" + "\n".join(found)


# The check itself, on sources made up here.


@pytest.mark.parametrize(
    "source",
    [
        "KERNEL add(const real* x, real* y) { atomicAdd(y, x[0]); }",
        "KERNEL add(const real* x, float* y) { atomicAdd(&y[1], 1); }",
        "KERNEL add(wide* y) { atomicAdd_block(y + 1, 1.0f); }",
        "KERNEL add(int* n) { __shared__ wide sum[1];\n atomicAdd(&sum[0], wide(1)); }",
        "KERNEL add(int* y, wide z) { double* y = z; atomicAdd(y, z); }",
        "template <class T> DEVICE void add(T* y, T x) { atomicAdd(y, x); }",
        "KERNEL add(int* n, float* y) { atomicExch(y, atomicAdd(n, 1)); }",
        "KERNEL largest(float* y, float x) { atomicMax(reinterpret_cast<int*>(y), 1); }",
        "KERNEL largest(float* y, float x) { atomicMax((int*)y, 1); }",
        "KERNEL add(float* y) { int* p = reinterpret_cast<int*>(y); atomicCAS(p, 0, 1); }",
        "KERNEL add(int* p, float x) { int old = *p; atomicCAS(p, old, __float_as_int(x + __int_as_float(old))); }",
        "KERNEL add(int* p, Pack x) { atomicExch(p, x.bits); }",
        'KERNEL add(float* y) { asm("red.global.add.f32 [%0], %1;" :: "l"(y), "f"(1.0f)); }',
        "KERNEL add(float* y) { cuda::atomic_ref<float>(*y).fetch_add(1.0f); }",
        "KERNEL add(float* y) { __nv_atomic_fetch_add(y, 1.0f, 0, 0); }",
        "#define ADD atomicAdd\n",
    ],
)
def test_an_atomic_on_other_numbers_is_found(source):
    assert [*faults("made_up.cu", source)]


@pytest.mark.parametrize(
    "source",
    [
        "KERNEL count(uint32* done) { if (atomicAdd(done, 1u) + 1 < gridDim.x) return; }",
        "KERNEL count(index* table) { uint32* d = reinterpret_cast<uint32*>(table + 2);\n atomicAdd(d, 1u); }",
        "KERNEL count(float* y) { __shared__ int counts[8]; atomicAdd(&counts[threadIdx.x], 1); y[0] = counts[0]; }",
        "KERNEL claim(unsigned long long* lock) { atomicCAS(lock, 0, 1); }",
        "// atomicAdd(y, x) differs from launch to launch\nKERNEL add(float* y, float reduced) { y[0] += reduced; }",
    ],
)
def test_an_atomic_on_integers_is_not(source):
    assert not [*faults("made_up.cu", source)]


def test_the_line_is_named():
    assert [*faults("made_up.cu", "// first\n/* second\nthird */ KERNEL add(real* y) {\n  atomicAdd(y, 1);\n}")] == [
        "made_up.cu:4: atomicAdd on 'y', which is not known to hold integers"
    ]


def test_the_counter_of_blocks_must_be_an_integer():
    text = dict(sources())["batches.cu"]
    assert "atomicAdd(done, 1u)" in text and [*faults("batches.cu", text.replace("uint32* done", "float* done"))]
