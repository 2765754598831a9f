// Products of int8 by vpmaddubsw, which adds two products of a byte without sign and one with sign and saturates at 16
// bits: here they never reach that. Activations are -127 to 127 (products.inl).
template <unsigned BITS>
struct Step;

// Codes of 4 bits: 8 sums of two products within 2 * 15 * 127 are within 16 bits, so 32 codes of K are.
template <>
struct Step<4> : Bytes<4>, RowByRow<Step<4>, Set> {
  using Sums = __m256i;  // int16 [16]
  using Codes = __m256i;
  static constexpr size_t kCodes = 32;
  static constexpr int kShift = 0;

  static inline Sums begin_one(Set::Ints) { return _mm256_setzero_si256(); }
  static inline Set::Ints end_one(Set::Ints ints, Sums sums) {
    return _mm256_add_epi32(ints, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
  }
  static inline Sums dot(Sums sums, Codes codes, __m256i quad) {
    __m256i pairs;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sums), "=&x"(pairs) : "x"(codes), "x"(quad));
    return sums;
  }
};

// Codes of 8 bits, less 128: magnitudes up to 128 times activations with the weight's sign, within 2 * 128 * 127.
template <>
struct Step<8> : RowByRow<Step<8>, Set> {
  using Sums = Set::Ints;
  struct Codes {
    __m256i weights, magnitudes;
  };
  static constexpr size_t kCodes = kMostCodes;
  static constexpr int kShift = 128;

  static inline Sums begin_one(Set::Ints ints) { return ints; }
  static inline Set::Ints end_one(Set::Ints, Sums sums) { return sums; }
  static inline Codes first(const uint8_t* codes) { return of(Bytes<8>::first(codes)); }
  static inline Codes second(const uint8_t* codes) { return of(Bytes<8>::second(codes)); }
  static inline __m256i quad(const int8_t* x) { return Bytes<8>::quad(x); }
  static inline Sums dot(Sums sums, const Codes& codes, __m256i quad) {
    __m256i pairs;
    __asm__(
        "vpsignb %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
        : "+x"(sums), "=&x"(pairs)
        : "x"(codes.weights), "x"(codes.magnitudes), "x"(quad), "x"(_mm256_set1_epi16(1)));
    return sums;
  }

 private:
  static inline Codes of(__m256i bytes) {
    const __m256i weights = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    return {weights, _mm256_abs_epi8(weights)};
  }
};
