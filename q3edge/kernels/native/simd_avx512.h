// Integer primitives on 16 lanes: AVX512 with VNNI (Intel's Intrinsics Guide). Included inside a namespace of its own.

struct Set {
  static constexpr const char* kName = "avx512-vnni";
  static constexpr size_t kLanes = 16;      // of int32
  static constexpr size_t kPanelRows = 8;
  // Vectors of a tile that are computed at once with so many rows of a panel.
  static constexpr size_t vectors(size_t) { return 1; }
  // Sums that a group's products go into at once.
  static constexpr size_t parts(size_t rows) { return rows == 1 ? 4 : rows <= 4 ? 2 : 1; }

  using Ints = __m512i;
  using Floats = __m512;
  // Products of zero points with minus the sum of a group's activations, both within 16 bits.
  static inline Ints zero_point_products(Ints zero_points, int32_t negative_sum) {
    return _mm512_madd_epi16(zero_points, _mm512_set1_epi32(negative_sum & 0xffff));
  }
  static inline Ints zero_points(const uint8_t* bytes, int) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  static inline Ints sum(Ints x, Ints y) { return _mm512_add_epi32(x, y); }
  static inline Ints all(int32_t value) { return _mm512_set1_epi32(value); }
  static inline Floats float16(const uint8_t* bytes) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  }
  static inline Floats float32(const uint8_t* bytes) { return _mm512_loadu_ps(bytes); }
  static inline Floats zero() { return _mm512_setzero_ps(); }
  // sums + ints * scale * factor
  static inline Floats scaled(Floats sums, Ints ints, Floats scale, float factor) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints), _mm512_mul_ps(scale, _mm512_set1_ps(factor)), sums);
  }
  static inline void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }
  static inline void store(float* to, Floats values, size_t count) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), values);
  }

  // Largest magnitude of `count` values, a multiple of 8; NaN if there is one: as whole numbers NaNs are the largest.
  static inline float largest(const float* x, size_t count) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i found = _mm512_setzero_si512();
    for (size_t i = 0; i < count; i += 16) {
      const __m512i bits = _mm512_maskz_loadu_epi32(count - i < 16 ? 0xff : 0xffff, x + i);
      found = _mm512_max_epu32(_mm512_and_si512(bits, magnitude), found);
    }
    return float_of(_mm512_reduce_max_epu32(found));
  }
  // Round `count` values times `factor` to int8; returns the sum of the codes.
  static inline int32_t rounded(const float* x, size_t count, float factor, int8_t* codes) {
    __m512i sums = _mm512_setzero_si512();
    for (size_t i = 0; i < count; i += 16) {
      const __mmask16 mask = count - i < 16 ? 0xff : 0xffff;
      const __m512i ints =
          _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(factor)));
      _mm512_mask_cvtsepi32_storeu_epi8(codes + i, mask, ints);
      sums = _mm512_add_epi32(sums, ints);
    }
    return _mm512_reduce_add_epi32(sums);
  }
};

// Sums of the products within a step of K: of kCodes codes, for those that can hold no more.
template <unsigned BITS>
struct Step : RowByRow<Step<BITS>, Set> {
  using Sums = Set::Ints;
  using Codes = Set::Ints;
  static constexpr size_t kCodes = kMostCodes;
  static constexpr int kShift = 0;  // subtracted from 8-bit codes before they are multiplied

  static inline Sums begin_one(Set::Ints ints) { return ints; }
  static inline Set::Ints end_one(Set::Ints, Sums sums) { return sums; }
  // The codes of a quad, and of the one behind it.
  static inline Codes first(const uint8_t* codes) {
    const Set::Ints found = _mm512_loadu_si512(codes);
    return BITS == 8 ? found : _mm512_and_si512(found, _mm512_set1_epi8(15));
  }
  static inline Codes second(const uint8_t* codes) {
    if (BITS == 8) return _mm512_loadu_si512(codes + 4 * kTileRows);
    return _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(codes), 4), _mm512_set1_epi8(15));
  }
  // The 4 activations of a row.
  static inline const int8_t* quad(const int8_t* x) { return x; }
  // Add the products of each lane's 4 codes with the 4 activations at `x`.
  static inline Sums dot(Sums sums, Codes codes, const int8_t* x) {
    // gcc 12 copies accumulators between registers around the intrinsic.
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(codes), "m"(*reinterpret_cast<const Aliased32*>(x)));
    return sums;
  }
};
