// Philox4x32-10, the generator of backend/random.py (Salmon et al. 2011): the same words for the same key and counter.

constexpr uint32 SECOND_KEY = 0x6B657261;

// high0, low0 = M0 c0;  high1, low1 = M1 c2
// c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0;  k0 += W0, k1 += W1
DEVICE uint4 philox(uint4 c, uint32 k0, uint32 k1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    uint32 high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
    uint32 high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
    c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Words 4i to 4i + 3 of `random_bits(key, draw, ...)`.
DEVICE uint4 random_words(uint32 i, uint32 key, uint32 draw) {
  return philox(make_uint4(i, 0, draw, 0), key, SECOND_KEY);
}
