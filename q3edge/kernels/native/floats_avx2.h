// Primitives on vectors of 8 float32: AVX2 and FMA. Included inside a namespace of its own.

struct Vec {
  using Floats = __m256;
  static constexpr size_t kLanes = 8;
  static constexpr size_t kWide = 2;    // vectors side by side in a register tile
  static constexpr int kTileRows = 6;   // rows of a register tile
  static constexpr size_t kDots = 8;    // scalar products computed at once, a multiple of kLanes
  static constexpr size_t kSums = 8;    // vectors of weighted values computed at once
  static constexpr size_t kFewOfInt8 = 32, kFewOfFloat = 8;  // queries that are not worth a panel

  static inline __m256i first(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  // Ask for a cache line, which need not be there.
  static inline void prefetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0); }

  static inline Floats all(float value) { return _mm256_set1_ps(value); }
  static inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static inline Floats load(const float* from, size_t count) { return _mm256_maskload_ps(from, first(count)); }
  static inline Floats load(const int8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  static inline Floats load(const int8_t* from, size_t count) {
    int8_t bytes[kLanes] = {};
    for (size_t i = 0; i < count; ++i) bytes[i] = from[i];
    return load(bytes);
  }
  static inline void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
  static inline void store(float* to, Floats x, size_t count) { _mm256_maskstore_ps(to, first(count), x); }
  // Rounds x, between -128 and 127, halves to even.
  static inline void store(int8_t* to, Floats x, size_t count) {
    const __m256i ints = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
    int8_t bytes[kLanes];
    _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_packs_epi16(words, words));
    if (count == kLanes)
      memcpy(to, bytes, kLanes);
    else
      for (size_t i = 0; i < count; ++i) to[i] = bytes[i];
  }

  static inline Floats add(Floats x, Floats y) { return _mm256_add_ps(x, y); }
  static inline Floats sub(Floats x, Floats y) { return _mm256_sub_ps(x, y); }
  static inline Floats mul(Floats x, Floats y) { return _mm256_mul_ps(x, y); }
  static inline Floats div(Floats x, Floats y) { return _mm256_div_ps(x, y); }
  static inline Floats mul_add(Floats x, Floats y, Floats z) { return _mm256_fmadd_ps(x, y, z); }
  // The larger one; y where either is NaN.
  static inline Floats max(Floats x, Floats y) { return _mm256_max_ps(x, y); }
  static inline Floats min(Floats x, Floats y) { return _mm256_min_ps(x, y); }
  // yes where x < y, else no (also where either is NaN).
  static inline Floats where_less(Floats x, Floats y, Floats yes, Floats no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
  }
  static inline Floats whole(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // x * 2^n, for whole n from -125 to 0 and x near 1.
  static inline Floats times_power(Floats x, Floats n) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  }

  // Lane i: the sum of x[i]'s lanes, for 8 vectors.
  static inline Floats sums(const Floats* x) {
    const Floats low = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    const Floats high = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
    return add(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
  }

  // to[j * to_stride + i] = from[i * stride + j], for i and j below 8.
  static inline void transpose(const float* from, size_t stride, float* to, size_t to_stride) {
    Floats a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = load(from + i * stride);
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
      a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      store(to + i * to_stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
      store(to + (4 + i) * to_stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
    }
  }
};
