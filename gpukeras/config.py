"""The library's few settings, as in ``keras.config``.

Six of them are global state: the device, the float type, the dtype policy, the seed, and whether a GPU may round the
factors of float32 products and go through cuDNN, for which there is no place nearer to where it is decided than the
whole program.
"""

from gpukeras.backend.cublaslt import enable_tf32, is_tf32_enabled
from gpukeras.backend.cudnn import enable_cudnn, is_cudnn_enabled
from gpukeras.backend.devices import default_device as backend
from gpukeras.backend.devices import set_default_device as set_backend
from gpukeras.backend.devices import use_device as use_backend
from gpukeras.backend.dtypes import (
    default_policy as dtype_policy,
)
from gpukeras.backend.dtypes import (
    epsilon,
    floatx,
    set_epsilon,
    set_floatx,
)
from gpukeras.backend.dtypes import (
    set_default_policy as set_dtype_policy,
)
from gpukeras.backend.layout import image_data_format, set_image_data_format

__all__ = [
    "backend",
    "dtype_policy",
    "enable_cudnn",
    "enable_tf32",
    "epsilon",
    "floatx",
    "image_data_format",
    "is_cudnn_enabled",
    "is_tf32_enabled",
    "set_backend",
    "set_dtype_policy",
    "set_epsilon",
    "set_floatx",
    "set_image_data_format",
    "use_backend",
]
