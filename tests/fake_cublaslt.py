"""cuBLASLt in Python, on NumPy memory: it computes what its descriptors say, in the library's own terms.

Matrices lie column by column at an address, with a leading dimension, a batch count and a batch step; products have
transposes, alpha, beta and an epilogue. So whatever our code tells the library is executed to the letter, and a wrong
layout gives wrong numbers. Arguments that the library would refuse, it refuses.
"""

import ctypes

import ml_dtypes
import numpy as np

TYPES = {0: np.dtype("float32"), 1: np.dtype("float64"), 2: np.dtype("float16"), 14: np.dtype(ml_dtypes.bfloat16)}
INVALID_VALUE, NOT_SUPPORTED = 7, 15
SIZES = {
    "MatmulDesc": {3: 4, 4: 4, 7: 4, 8: 8},
    "MatrixLayout": {5: 4, 6: 8},
    "MatmulPreference": {1: 8, 3: 4, 5: 4, 6: 4, 7: 4, 8: 4},
}
COMPUTE = {68: "float32", 70: "float64", 77: "float32"}
BIAS, RELU_BIAS, GELU_BIAS, SUM_OF_A, SUM_OF_B = 4, 6, 36, 256, 512


class Library:
    """Functions with the names and arguments of the library's; see `cublaslt._ARGUMENTS`."""

    def __init__(self):
        self.objects = {}
        self.next = 0x1000
        self.refused = set()  # epilogues and compute types that no algorithm is found for
        self.status = {}  # function name -> status that it returns
        self.launches = []
        self.alignments = []

    def _make(self, made, kind, **fields):
        self.next += 1
        self.objects[self.next] = {"kind": kind, **fields}
        made._obj.value = self.next
        return self.status.get(f"cublasLt{kind}Create", 0)

    def _set(self, kind, described, attribute, value, size):
        found = self.objects[described]
        assert found["kind"] == kind and size == SIZES[kind][attribute] == ctypes.sizeof(value._obj)
        found[attribute] = value._obj.value
        return self.status.get(f"cublasLt{kind}SetAttribute", 0)

    def _destroy(self, kind, described):
        assert self.objects.pop(described)["kind"] == kind
        return 0

    def cublasLtCreate(self, made):
        return self.status.get("cublasLtCreate") or self._make(made, "")

    def cublasLtMatmulDescCreate(self, made, compute, scale):
        if scale != (1 if compute == 70 else 0):
            return INVALID_VALUE
        return self._make(made, "MatmulDesc", compute=compute)

    def cublasLtMatrixLayoutCreate(self, made, dtype, rows, columns, leading):
        if rows < 1 or columns < 1 or leading < rows:
            return INVALID_VALUE
        return self._make(made, "MatrixLayout", dtype=TYPES[dtype], rows=rows, columns=columns, leading=leading)

    def cublasLtMatmulPreferenceCreate(self, made):
        return self._make(made, "MatmulPreference")

    def __getattr__(self, name):
        for kind in SIZES:
            if name == f"cublasLt{kind}SetAttribute":
                return lambda *arguments: self._set(kind, *arguments)
            if name == f"cublasLt{kind}Destroy":
                return lambda *arguments: self._destroy(kind, *arguments)
        raise AttributeError(name)

    def cublasLtMatmulAlgoGetHeuristic(self, handle, description, a, b, c, d, search, wanted, found, count):
        description, search = self.objects[description], self.objects[search]
        assert self.objects[handle]["kind"] == "" and wanted == 1 and c == d
        self.alignments.append({search[attribute] for attribute in (5, 6, 7, 8)})
        assert search.get(3, 7) == (2 if self.objects[d]["dtype"].itemsize == 2 else 7)  # no partial sums in 16 bits
        if description[7] in self.refused:
            return NOT_SUPPORTED
        count._obj.value = 0 if description["compute"] in self.refused else 1
        found._obj.algorithm[0] = 7  # so that the product can be asked for it
        return self.status.get("cublasLtMatmulAlgoGetHeuristic", 0)

    def cublasLtMatmul(
        self, handle, description, alpha, at_a, a, at_b, b, beta, at_c, c, at_d, d, algorithm, workspace, size, stream
    ):
        if "cublasLtMatmul" in self.status:
            return self.status["cublasLtMatmul"]
        description = self.objects[description]
        assert self.objects[handle]["kind"] == "" and algorithm._obj[0] == 7
        assert (c, at_c) == (d, at_d) and workspace and size == 32 << 20
        wide = np.dtype(COMPUTE[description["compute"]])
        number = ctypes.c_double if wide == "float64" else ctypes.c_float
        assert type(alpha._obj) is type(beta._obj) is number
        left = self._matrices(at_a, a, description[3])
        right = self._matrices(at_b, b, description[4])
        out = self._matrices(at_d, d)
        assert left.dtype == right.dtype
        product = alpha._obj.value * np.matmul(left.astype(wide), right.astype(wide))
        if beta._obj.value:
            product += beta._obj.value * out.astype(wide)
        out[...] = self._finish(description, product, left, right, out.dtype)
        self.launches.append({"stream": stream, "count": len(out), "workspace": workspace})
        return 0

    def _matrices(self, address, layout, is_transposed=0):
        """The (count, rows, columns) that a layout finds at an address."""
        layout = self.objects[layout]
        count, step = layout.get(5, 1), layout.get(6, 0)
        rows, columns, leading = layout["rows"], layout["columns"], layout["leading"]
        size = layout["dtype"].itemsize
        n = (count - 1) * step + (columns - 1) * leading + rows
        memory = np.frombuffer((ctypes.c_char * (n * size)).from_address(address), layout["dtype"])
        steps = (step * size, size, leading * size)
        matrices = np.lib.stride_tricks.as_strided(memory, (count, rows, columns), steps)
        return matrices.swapaxes(1, 2) if is_transposed else matrices

    def _finish(self, description, product, a, b, dtype):
        epilogue = description[7]
        if epilogue == 1:
            return product
        rows, columns = product.shape[1:]
        n = columns if epilogue == SUM_OF_B else rows
        vector = np.frombuffer((ctypes.c_char * (n * dtype.itemsize)).from_address(description[8]), dtype)
        if epilogue in (SUM_OF_A, SUM_OF_B):
            assert len(product) == 1
            summed = a[0].astype(product.dtype).sum(1) if epilogue == SUM_OF_A else b[0].astype(product.dtype).sum(0)
            vector[...] = summed
            return product
        product = product + vector[:, None].astype(product.dtype)
        if epilogue == RELU_BIAS:
            return np.maximum(product, 0)
        if epilogue == GELU_BIAS:
            return product * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (product + 0.044715 * product**3)))
        assert epilogue == BIAS
        return product
