// Products of int8 by vpdpbusd, which adds those of 4 bytes without sign and 4 with sign to 32 bits.
template <unsigned BITS>
struct Step : Bytes<BITS>, RowByRow<Step<BITS>, Set> {
  using Sums = Set::Ints;
  using Codes = __m256i;
  static constexpr size_t kCodes = kMostCodes;
  static constexpr int kShift = 0;

  static inline Sums begin_one(Set::Ints ints) { return ints; }
  static inline Set::Ints end_one(Set::Ints, Sums sums) { return sums; }
  static inline Sums dot(Sums sums, Codes codes, __m256i quad) {
    // As in simd_avx512.h. Without AVX-VNNI's encoding it is that of AVX512, by which tests run on CPUs that have it.
#if defined(__AVXVNNI__)
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(codes), "x"(quad));
#else
    __asm__("vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(codes), "x"(quad));
#endif
    return sums;
  }
};
