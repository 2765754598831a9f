// Primitives on vectors of 16 float32: AVX512 (F, BW, DQ, VL). Included inside a namespace of its own.

struct Vec {
  using Floats = __m512;
  static constexpr size_t kLanes = 16;
  static constexpr size_t kWide = 2;     // vectors side by side in a register tile
  static constexpr int kTileRows = 8;    // rows of a register tile
  static constexpr size_t kDots = 16;    // scalar products computed at once, a multiple of kLanes
  static constexpr size_t kSums = 16;    // vectors of weighted values computed at once
  static constexpr size_t kFewOfInt8 = 32, kFewOfFloat = 32;  // queries that are not worth a panel

  static inline __mmask16 first(size_t count) { return static_cast<__mmask16>((1u << count) - 1); }

  // Ask for a cache line, which need not be there.
  static inline void prefetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0); }

  static inline Floats all(float value) { return _mm512_set1_ps(value); }
  static inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static inline Floats load(const float* from, size_t count) { return _mm512_maskz_loadu_ps(first(count), from); }
  static inline Floats load(const int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  static inline Floats load(const int8_t* from, size_t count) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(count), from)));
  }
  static inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
  static inline void store(float* to, Floats x, size_t count) { _mm512_mask_storeu_ps(to, first(count), x); }
  // Rounds x, between -128 and 127, halves to even.
  static inline void store(int8_t* to, Floats x, size_t count) {
    _mm512_mask_cvtsepi32_storeu_epi8(to, first(count), _mm512_cvtps_epi32(x));
  }

  static inline Floats add(Floats x, Floats y) { return _mm512_add_ps(x, y); }
  static inline Floats sub(Floats x, Floats y) { return _mm512_sub_ps(x, y); }
  static inline Floats mul(Floats x, Floats y) { return _mm512_mul_ps(x, y); }
  static inline Floats div(Floats x, Floats y) { return _mm512_div_ps(x, y); }
  static inline Floats mul_add(Floats x, Floats y, Floats z) { return _mm512_fmadd_ps(x, y, z); }
  // The larger one; y where either is NaN.
  static inline Floats max(Floats x, Floats y) { return _mm512_max_ps(x, y); }
  static inline Floats min(Floats x, Floats y) { return _mm512_min_ps(x, y); }
  // yes where x < y, else no (also where either is NaN).
  static inline Floats where_less(Floats x, Floats y, Floats yes, Floats no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), no, yes);
  }
  static inline Floats whole(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // x * 2^n, for whole n from -125 to 0 and x near 1.
  static inline Floats times_power(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }

  // Lane i: the sum of x[i]'s lanes, for 16 vectors.
  static inline Floats sums(const Floats* x) {
    Floats quads[4];
    for (int i = 0; i < 4; ++i) {
      const Floats *a = x + 4 * i;
      const Floats low = add(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
      const Floats high = add(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
      quads[i] = add(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
    }
    const Floats left = add(_mm512_shuffle_f32x4(quads[0], quads[1], 0x44),
                            _mm512_shuffle_f32x4(quads[0], quads[1], 0xee));
    const Floats right = add(_mm512_shuffle_f32x4(quads[2], quads[3], 0x44),
                             _mm512_shuffle_f32x4(quads[2], quads[3], 0xee));
    return add(_mm512_shuffle_f32x4(left, right, 0x88), _mm512_shuffle_f32x4(left, right, 0xdd));
  }

  // to[j * to_stride + i] = from[i * stride + j], for i and j below 16.
  static inline void transpose(const float* from, size_t stride, float* to, size_t to_stride) {
    Floats a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = load(from + i * stride);
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xee);
      a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {  // a[4 k + i] has, in its quarter q, column 4 q + i of the rows 4 k to 4 k + 3
      const Floats low = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88);
      const Floats high = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
      const Floats low_odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
      const Floats high_odd = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
      store(to + i * to_stride, _mm512_shuffle_f32x4(low, high, 0x88));
      store(to + (8 + i) * to_stride, _mm512_shuffle_f32x4(low, high, 0xdd));
      store(to + (4 + i) * to_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
      store(to + (12 + i) * to_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
    }
  }
};
