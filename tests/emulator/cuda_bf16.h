// NVIDIA's header of this name, as far as kernels use it: conversions.
struct __nv_bfloat16 {
  unsigned short bits;
};

inline float __bfloat162float(__nv_bfloat16 b) { return __int_as_float(int(unsigned(b.bits) << 16)); }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  unsigned bits = unsigned(__float_as_int(x));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // NaN
  return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
