// Attention of new tokens over a KV cache: what is computed, and what an instruction set offers for it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace q3edge {

struct ParallelFor;

struct AttentionShape {
  size_t batch;      // B: rows
  size_t tokens;     // S: new tokens of a row, at most
  size_t all;        // T: tokens of all rows with their padding
  size_t heads;      // of queries
  size_t kv_heads;   // H: heads of keys and values
  size_t head_dim;   // D
  size_t capacity;   // C: tokens that a row of the cache has room for
  size_t positions;  // P: rows of the rotary tables
  bool int8;         // the cache's type, else float32
};

// Rows whose `counts` are 0 are idle: nothing of them in the cache is read or written. Row b has counts[b] new tokens,
// from token starts[b] on; what lies between rows is padding, whose output is 0. They follow seqlens[b] + 1 - counts[b]
// tokens in the cache, and are written into it: keys after rotation. A row's result depends on that row alone, and not
// on threads.
//
// With an int8 cache, value = code * scale. A row with up to 16 new tokens reads all keys and values as they are
// stored; one with more reads those of the new tokens unrounded.
//
// Tokens of query, key and value lie `*_stride` floats apart, as they may be parts of one tensor. With norms, each head
// of query and key is x * norm / sqrt(mean of squares + epsilon) before it is rotated.
struct AttentionCall {
  AttentionShape shape;
  const float* query;        // [T, query_stride]: heads * D of each token
  const float* key;          // [T, key_stride]: H * D
  const float* value;        // [T, value_stride]: H * D
  size_t query_stride, key_stride, value_stride;
  const float* query_norm;   // [D]; null: heads are not normed
  const float* key_norm;     // [D]; null likewise
  float epsilon;
  void* keys;                // the cache, float32 or int8 [B, H, C, D]
  void* values;              // likewise
  const int32_t* seqlens;    // [B]: tokens of the row with the new ones, less 1
  const int32_t* counts;     // [B]: new tokens of the row
  const int32_t* starts;     // [B]: the first of them; null: row b begins at token b * S
  const float* cos;          // [P, D / 2]
  const float* sin;          // [P, D / 2]
  const float* key_scale;    // [H, D]; null for a float32 cache
  const float* value_scale;  // [H, D]; null for a float32 cache
  float* context;            // out [T, heads * D]
  void* scratch;             // `AttentionKernels::scratch` bytes, at a multiple of 64
};

struct AttentionKernels {
  // Bytes of scratch for a shape and about so many threads, as in `ParallelFor`.
  size_t (*scratch)(const AttentionShape& shape, size_t threads);
  // Compute attention; `attention_problem` has found nothing.
  void (*attend)(const AttentionCall& call, const ParallelFor& parallel);
};

// What is wrong with a call's shape and lengths, in words; null: nothing.
const char* attention_problem(const AttentionCall& call);
// The first new token of a row among those of all.
size_t first_token(const AttentionCall& call, size_t row);

// How many pieces of work at most are done at once: workers are numbered below it.
size_t workers(size_t items, size_t threads);
// Call body(data, worker, item) for each item below `items`, in about this order, on as many workers.
void for_each_item(const ParallelFor& parallel, size_t items, void (*body)(void*, size_t, size_t), void* data);

}  // namespace q3edge
