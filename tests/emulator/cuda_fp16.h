// NVIDIA's header of this name, as far as kernels use it: conversions.
struct __half {
  unsigned short bits;
};

inline float __half2float(__half h) {
  unsigned sign = (h.bits & 0x8000u) << 16, rest = h.bits & 0x7fffu, exponent = rest >> 10, digits = rest & 0x3ffu;
  if (exponent == 31) return __int_as_float(int(sign | 0x7f800000u | digits << 13));
  if (exponent == 0) {  // a subnormal is a whole number of 2^-24
    float x = float(digits) * 5.9604644775390625e-8f;
    return sign ? -x : x;
  }
  return __int_as_float(int(sign | (exponent + 112) << 23 | digits << 13));
}

inline __half __float2half_rn(float x) {
  unsigned bits = unsigned(__float_as_int(x)), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  auto half = [&](unsigned value) { return __half{(unsigned short)(sign | value)}; };
  if (rest > 0x7f800000u) return half(0x7e00u);   // NaN
  if (rest >= 0x477ff000u) return half(0x7c00u);  // at least 65520: infinity
  if (rest < 0x38800000u) {                       // below 2^-14: a whole number of 2^-24, to even
    if (rest < 0x33000000u) return half(0);
    unsigned exponent = rest >> 23, digits = (rest & 0x7fffffu) | 0x800000u, shift = 126 - exponent;
    unsigned whole = digits >> shift, left = digits & ((1u << shift) - 1), middle = 1u << (shift - 1);
    return half(whole + (left > middle || (left == middle && (whole & 1))));
  }
  rest += 0xfffu + (rest >> 13 & 1);
  return half((rest >> 13) - (112u << 10));
}

struct __half2 {
  __half x, y;
};

inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
