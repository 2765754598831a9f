// Which sets this CPU has.
#include "sets.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace q3edge {
namespace {

struct Found {
  const Kernels* sets[5];
  size_t count = 0;

  void add(const Kernels& kernels) { sets[count++] = &kernels; }
};

#if defined(__x86_64__)
// Features that compilers' own function has no name for, or no old compiler's: bits of what cpuid returns.
enum Register { kEax = 0, kEcx = 2, kEdx = 3 };
bool cpuid_has(unsigned leaf, unsigned subleaf, Register where, int bit) {
  unsigned found[4] = {};
  return __get_cpuid_count(leaf, subleaf, &found[0], &found[1], &found[2], &found[3]) && (found[where] >> bit & 1);
}

// The compiler's function asks for the system's support of the registers too.
[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpuid_has(1, 0, kEcx, 29);  // F16C
}

[[maybe_unused]] bool has_avx_vnni() { return has_avx2() && cpuid_has(7, 1, kEax, 4); }

[[maybe_unused]] bool has_avx512_vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

// Also asks the system for the registers of AMX, which it grants to a process for all of its threads, or refuses
// (Linux's documentation, x86: xstate).
[[maybe_unused]] bool has_amx_int8() {
#if defined(__linux__)
  constexpr long kAskForRegisters = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return has_avx512_vnni() && cpuid_has(7, 0, kEdx, 24) && cpuid_has(7, 0, kEdx, 25) &&
         syscall(SYS_arch_prctl, kAskForRegisters, kTileData) == 0;
#else
  return false;
#endif
}
#elif defined(__aarch64__) && defined(__linux__)
// Bits of the kernel's hwcaps, which older headers do not name.
[[maybe_unused]] bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
[[maybe_unused]] bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); }
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
[[maybe_unused]] bool has_dotprod() { return has("hw.optional.arm.FEAT_DotProd"); }
[[maybe_unused]] bool has_i8mm() { return has_dotprod() && has("hw.optional.arm.FEAT_I8MM"); }
#endif

Found find() {
  Found found;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#if defined(Q3EDGE_SET_AMX_INT8)
  if (has_amx_int8()) found.add(kernels_amx_int8());
#endif
#if defined(Q3EDGE_SET_AVX512_VNNI)
  if (has_avx512_vnni()) found.add(kernels_avx512_vnni());
#endif
#if defined(Q3EDGE_SET_AVX_VNNI)
  if (has_avx_vnni()) found.add(kernels_avx_vnni());
#endif
#if defined(Q3EDGE_SET_AVX2)
  if (has_avx2()) found.add(kernels_avx2());
#endif
#if defined(Q3EDGE_SET_NEON_I8MM)
  if (has_i8mm()) found.add(kernels_neon_i8mm());
#endif
#if defined(Q3EDGE_SET_NEON_DOTPROD)
  if (has_dotprod()) found.add(kernels_neon_dotprod());
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
