// Primitives on 8 lanes for AVX2 with FMA and F16C (Intel's Intrinsics Guide), without the products of int8 themselves:
// step_maddubs.h has those of AVX2, step_avx_vnni.h those of AVX-VNNI. Included inside a namespace of its own.

struct Set {
  static constexpr const char* kName = kSetName;
  static constexpr size_t kLanes = 8;  // of int32
  static constexpr size_t kPanelRows = kSetPanelRows;
  // Vectors of a tile that are computed at once with so many rows of a panel: there are 16 registers.
  static constexpr size_t vectors(size_t) { return 2; }
  // Sums that a group's products go into at once.
  static constexpr size_t parts(size_t rows) { return rows <= 2 && rows < kSetParts ? kSetParts / rows : 1; }

  using Ints = __m256i;
  using Floats = __m256;
  // Products of zero points with minus the sum of a group's activations, both within 16 bits.
  static inline Ints zero_point_products(Ints zero_points, int32_t negative_sum) {
    return _mm256_madd_epi16(zero_points, _mm256_set1_epi32(negative_sum & 0xffff));
  }
  static inline Ints zero_points(const uint8_t* bytes, int shift) {
    const Ints found = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
    return shift == 0 ? found : _mm256_sub_epi32(found, _mm256_set1_epi32(shift));
  }
  static inline Ints sum(Ints x, Ints y) { return _mm256_add_epi32(x, y); }
  static inline Ints all(int32_t value) { return _mm256_set1_epi32(value); }
  static inline Floats float16(const uint8_t* bytes) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  static inline Floats float32(const uint8_t* bytes) { return _mm256_castsi256_ps(bits(bytes)); }
  static inline Floats zero() { return _mm256_setzero_ps(); }
  // sums + ints * scale * factor
  static inline Floats scaled(Floats sums, Ints ints, Floats scale, float factor) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(ints), _mm256_mul_ps(scale, _mm256_set1_ps(factor)), sums);
  }
  static inline void store(float* to, Floats values) { _mm256_storeu_ps(to, values); }
  static inline void store(float* to, Floats values, size_t count) {
    const Ints numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), numbers), values);
  }
  static inline Ints bits(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

  // Largest magnitude of `count` values, a multiple of 8; NaN if there is one: as whole numbers NaNs are the largest.
  static inline float largest(const float* x, size_t count) {
    __m256i found = _mm256_setzero_si256();
    for (size_t i = 0; i < count; i += 8)
      found = _mm256_max_epu32(_mm256_and_si256(bits(x + i), _mm256_set1_epi32(0x7fffffff)), found);
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xb1));
    return float_of(static_cast<uint32_t>(_mm_cvtsi128_si32(four)));
  }
  // Round `count` values times `factor` to int8; returns the sum of the codes.
  static inline int32_t rounded(const float* x, size_t count, float factor, int8_t* codes) {
    __m128i sums = _mm_setzero_si128();
    for (size_t i = 0; i < count; i += 8) {
      const __m256i ints = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor)));
      const __m128i eight = _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i), _mm_packs_epi16(eight, eight));
      sums = _mm_add_epi32(sums, _mm_madd_epi16(eight, _mm_set1_epi16(1)));
    }
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1));
    return _mm_cvtsi128_si32(sums);
  }
};

// The codes of a quad, and of the one behind it, as bytes without sign; the 4 activations of a row in every lane.
template <unsigned BITS>
struct Bytes {
  static inline __m256i first(const uint8_t* codes) {
    return BITS == 8 ? Set::bits(codes) : _mm256_and_si256(Set::bits(codes), _mm256_set1_epi8(15));
  }
  static inline __m256i second(const uint8_t* codes) {
    if (BITS == 8) return Set::bits(codes + 4 * kTileRows);
    return _mm256_and_si256(_mm256_srli_epi16(Set::bits(codes), 4), _mm256_set1_epi8(15));
  }
  static inline __m256i quad(const int8_t* x) { return _mm256_set1_epi32(*reinterpret_cast<const Aliased32*>(x)); }
};
