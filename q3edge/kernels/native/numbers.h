// Plain conversions, included inside the namespace of an instruction set: nothing here is shared between them.

#define INLINE inline __attribute__((always_inline))
#define FLATTEN __attribute__((flatten))  // all that the function calls is compiled into it

typedef int32_t Aliased32 __attribute__((may_alias, aligned(1)));

static inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Call f(0), f(1) ... f(N - 1), each with a number that the compiler knows: what it indexes stays in registers.
template <size_t I>
struct Index {
  constexpr operator size_t() const { return I; }
};

template <size_t N, typename F>
static INLINE void each(const F& f) {
  if constexpr (N > 0) {
    each<N - 1>(f);
    f(Index<N - 1>{});
  }
}
