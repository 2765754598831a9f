#include "attention.h"

#include <atomic>

#include "kernels.h"

namespace q3edge {

size_t first_token(const AttentionCall& call, size_t row) {
  return call.starts == nullptr ? row * call.shape.tokens : static_cast<size_t>(call.starts[row]);
}

// Whether a row's new tokens lie outside the input, or among those of a row before it.
static bool overlaps(const AttentionCall& call, size_t row) {
  const int64_t start = call.starts[row], end = start + call.counts[row];
  if (start < 0 || end > static_cast<int64_t>(call.shape.all)) return true;
  for (size_t other = 0; other < row; ++other) {
    const int64_t first = call.starts[other], last = first + call.counts[other];
    if (first < last && first < end && start < last) return true;
  }
  return false;
}

const char* attention_problem(const AttentionCall& call) {
  const AttentionShape& shape = call.shape;
  if (shape.head_dim == 0 || shape.head_dim % 2 != 0) return "head_dim is no even number";
  if (shape.kv_heads == 0 || shape.heads == 0 || shape.heads % shape.kv_heads != 0)
    return "num_heads is no multiple of kv_num_heads";
  for (size_t row = 0; row < shape.batch; ++row) {
    if (call.counts[row] < 0 || static_cast<size_t>(call.counts[row]) > shape.tokens)
      return "query_seqlens has a number of new tokens that the input does not have";
    const auto count = static_cast<int64_t>(call.counts[row]);
    const int64_t length = int64_t{call.seqlens[row]} + 1;
    if (count == 0) continue;
    if (call.starts != nullptr && overlaps(call, row)) return "row_starts has rows that overlap or end behind the input";
    if (length < count) return "seqlens_k has a row shorter than its new tokens";
    if (length > static_cast<int64_t>(shape.capacity)) return "seqlens_k has a row longer than the cache";
    if (length > static_cast<int64_t>(shape.positions)) return "seqlens_k has a row longer than the rotary tables";
  }
  return nullptr;
}

size_t workers(size_t items, size_t threads) { return items < threads ? items : threads; }

namespace {

struct Queue {
  std::atomic<size_t> next;
  size_t items;
  void (*body)(void*, size_t, size_t);
  void* data;
};

}  // namespace

void for_each_item(const ParallelFor& parallel, size_t items, void (*body)(void*, size_t, size_t), void* data) {
  const size_t count = workers(items, parallel.threads);
  if (count <= 1) {
    for (size_t item = 0; item < items; ++item) body(data, 0, item);
    return;
  }
  Queue queue{{0}, items, body, data};
  parallel.run(
      parallel.pool, count,
      [](void* state, size_t worker) {
        Queue& shared = *static_cast<Queue*>(state);
        for (size_t item; (item = shared.next.fetch_add(1, std::memory_order_relaxed)) < shared.items;)
          shared.body(shared.data, worker, item);
      },
      &queue);
}

}  // namespace q3edge
