// Attention for tests, by one instruction set (q3edge/kernels/library.py).
#include <thread>
#include <vector>

#include "kernels.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace q3edge;

AttentionShape shape_of(const int64_t* numbers) {
  const auto at = [numbers](int i) { return static_cast<size_t>(numbers[i]); };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), numbers[8] != 0};
}

void on_threads(void*, size_t count, void (*body)(void*, size_t), void* data) {
  std::vector<std::thread> threads;
  for (size_t i = 1; i < count; ++i) threads.emplace_back(body, data, i);
  body(data, 0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

// Numbers of a shape: those of AttentionShape, in order.
EXPORT size_t q3edge_attention_scratch(size_t set, const int64_t* shape, size_t threads) {
  return kernels().sets[set]->attention.scratch(shape_of(shape), threads);
}

// arrays: pointers of AttentionCall, in order, the scratch last. Returns what is wrong with the call, or null.
EXPORT const char* q3edge_attend(size_t set, const int64_t* shape, void* const* arrays, size_t threads) {
  const auto floats = [arrays](int i) { return static_cast<float*>(arrays[i]); };
  const auto ints = [arrays](int i) { return static_cast<const int32_t*>(arrays[i]); };
  AttentionCall call{};
  call.shape = shape_of(shape);
  call.query = floats(0);
  call.key = floats(1);
  call.value = floats(2);
  call.query_stride = call.shape.heads * call.shape.head_dim;
  call.key_stride = call.value_stride = call.shape.kv_heads * call.shape.head_dim;
  call.keys = arrays[3];
  call.values = arrays[4];
  call.seqlens = ints(5);
  call.counts = ints(6);
  call.starts = ints(7);
  call.cos = floats(8);
  call.sin = floats(9);
  call.key_scale = floats(10);
  call.value_scale = floats(11);
  call.context = floats(12);
  call.scratch = arrays[13];
  if (const char* problem = attention_problem(call)) return problem;
  kernels().sets[set]->attention.attend(call, {on_threads, nullptr, threads});
  return nullptr;
}
