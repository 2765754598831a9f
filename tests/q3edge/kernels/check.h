// What the programs that check kernels have in common: CHECK SET SEED COUNT checks one set; CHECK alone tells the sets
// that the CPU has. Exit code 1 and a line of the case: a result is wrong; 3: the program has no such set.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "sets.h"

using namespace q3edge;

namespace {

// The sets that the program was compiled with, whatever the CPU has.
const Kernels* set_of_name(const char* name) {
  const Kernels* const sets[] = {
#if defined(Q3EDGE_SET_AMX_INT8)
      &kernels_amx_int8(),
#endif
#if defined(Q3EDGE_SET_AVX512_VNNI)
      &kernels_avx512_vnni(),
#endif
#if defined(Q3EDGE_SET_AVX_VNNI)
      &kernels_avx_vnni(),
#endif
#if defined(Q3EDGE_SET_AVX2)
      &kernels_avx2(),
#endif
#if defined(Q3EDGE_SET_NEON_I8MM)
      &kernels_neon_i8mm(),
#endif
#if defined(Q3EDGE_SET_NEON_DOTPROD)
      &kernels_neon_dotprod(),
#endif
      &kernels_portable(),
  };
  for (const Kernels* set : sets)
    if (std::strcmp(set->name, name) == 0) return set;
  return nullptr;
}

using Random = std::mt19937;

size_t between(Random& random, size_t low, size_t high) {
  return std::uniform_int_distribution<size_t>(low, high)(random);
}

// Memory of just so many bytes, a multiple of 64, which sanitizers watch.
struct Aligned {
  explicit Aligned(size_t bytes) : data(static_cast<uint8_t*>(std::aligned_alloc(kAlignment, bytes))) {}
  ~Aligned() { std::free(data); }
  uint8_t* data;
};

// Two threads' blocks one after the other, the last first.
void backwards(void*, size_t count, void (*body)(void*, size_t), void* data) {
  for (size_t i = count; i-- > 0;) body(data, i);
}
void forwards(void*, size_t count, void (*body)(void*, size_t), void* data) {
  for (size_t i = 0; i < count; ++i) body(data, i);
}

int checked(int count, char** arguments, bool (*check)(const Kernels&, Random&)) {
  const KernelList usual = q3edge::kernels();  // this also asks the system for AMX's registers
  if (count == 1) {
    for (size_t i = 0; i < usual.count; ++i) std::puts(usual.sets[i]->name);
    return 0;
  }
  if (count != 4) return 2;
  const Kernels* set = set_of_name(arguments[1]);
  if (set == nullptr) return 3;
  Random random(static_cast<unsigned>(std::atoi(arguments[2])));
  for (int i = std::atoi(arguments[3]); i > 0; --i)
    if (!check(*set, random)) return 1;
  std::printf("%s: right\n", set->name);
  return 0;
}

}  // namespace
