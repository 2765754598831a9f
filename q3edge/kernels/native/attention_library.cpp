// Attention for tests, by one instruction set (q3edge/kernels/library.py).
#include <thread>
#include <vector>

#include "kernels.h"

#if defined(_WIN32)
#define Q3EDGE_EXPORT extern "C" __declspec(dllexport)
#else
#define Q3EDGE_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

using namespace q3edge;

AttentionShape shape_of(const int64_t* numbers) {
  const auto at = [numbers](int i) { return static_cast<size_t>(numbers[i]); };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), numbers[7] != 0};
}

void on_threads(void*, size_t count, void (*body)(void*, size_t), void* data) {
  std::vector<std::thread> threads;
  for (size_t i = 1; i < count; ++i) threads.emplace_back(body, data, i);
  body(data, 0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

// Numbers of a shape: those of AttentionShape, in order.
Q3EDGE_EXPORT size_t q3edge_attention_scratch(size_t set, const int64_t* shape, size_t threads) {
  return kernels().sets[set]->attention.scratch(shape_of(shape), threads);
}

// arrays: pointers of AttentionCall, in order, the scratch last. Returns what is wrong with the call, or null.
Q3EDGE_EXPORT const char* q3edge_attend(size_t set, const int64_t* shape, void* const* arrays, size_t threads) {
  const auto floats = [arrays](int i) { return static_cast<float*>(arrays[i]); };
  const auto ints = [arrays](int i) { return static_cast<const int32_t*>(arrays[i]); };
  const AttentionCall call{shape_of(shape), floats(0), floats(1), floats(2), arrays[3],  arrays[4],  ints(5),
                           ints(6),         floats(7), floats(8), floats(9), floats(10), floats(11), arrays[12]};
  if (const char* problem = attention_problem(call)) return problem;
  kernels().sets[set]->attention.attend(call, {on_threads, nullptr, threads});
  return nullptr;
}
