// Which sets this CPU has.
#include "sets.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace q3edge {
namespace {

struct Found {
  const Kernels* sets[4];
  size_t count = 0;

  void add(const Kernels& kernels) { sets[count++] = &kernels; }
};

Found find() {
  Found found;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#if defined(Q3EDGE_SET_AVX512_VNNI)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    found.add(kernels_avx512_vnni());
#endif
  found.add(kernels_portable());
  return found;
}

}  // namespace

KernelList kernels() {
  static const Found found = find();
  return {found.sets, found.count};
}

}  // namespace q3edge
