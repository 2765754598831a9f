// Operator q3edge.kernels.Attention: attention of new tokens over a KV cache (attention.h).
//
// Inputs: query, key, value, past_key, past_value, seqlens_k, query_seqlens, row_starts, cos, sin; for an int8 cache
// key_scale and value_scale, float32 [1, H, 1, D]; norms of the heads of query and key, float32 [D]. Without row_starts
// query has the rows of the cache, with them any, in whose tokens they are counted. Without key and value, query holds
// all three of a token one after the other. Outputs: context, present_key, present_value; a present that does not lie
// where the past does is a copy of it with the new tokens.
#include <cstring>
#include <initializer_list>

#include "attention.h"
#include "operator.h"

namespace q3edge {
namespace {

enum Input { kQuery, kKey, kValue, kPastKey, kPastValue, kSeqlens, kCounts, kStarts, kCos, kSin, kKeyScale,
             kValueScale, kQueryNorm, kKeyNorm, kInputs };
enum Output { kContext, kPresentKey, kPresentValue, kOutputs };

bool is(const Tensor& tensor, ort::Type type, std::initializer_list<size_t> shape) {
  if (tensor.type != type || tensor.rank != shape.size()) return false;
  size_t axis = 0;
  for (const size_t length : shape)
    if (tensor.shape[axis++] != static_cast<int64_t>(length)) return false;
  return true;
}

size_t length(const Tensor& tensor, size_t axis) { return static_cast<size_t>(tensor.shape[axis]); }

struct AttentionKernel {
  const ort::Api& api;
  const AttentionKernels& kernels;
  size_t heads, kv_heads, threads;
  float epsilon;

  ort::Status* compute(ort::KernelContext* context) const {
    Call call(api, context);
    Tensor in[kInputs];
    if (ort::Status* status = call.inputs(in)) return status;
    AttentionCall work{};
    if (const char* problem = describe(in, work.shape)) return call.error(problem);
    Tensor out[kOutputs];
    const int64_t shape[] = {in[kQuery].shape[0], in[kQuery].shape[1],
                             static_cast<int64_t>(heads * work.shape.head_dim)};
    if (ort::Status* status = call.output(kContext, shape, 3, out[kContext])) return status;
    for (size_t i = kPresentKey; i < kOutputs; ++i)
      if (ort::Status* status = call.output(i, in[kPastKey].shape, in[kPastKey].rank, out[i])) return status;
    fill(in, out, work);
    if (const char* problem = attention_problem(work)) return call.error(problem);
    for (size_t i = 0; i < 2; ++i)
      copy(in[kPastKey + i], out[kPresentKey + i]);
    work.scratch = Scratch::of_this_thread(kernels.scratch(work.shape, threads));
    if (work.scratch == nullptr) return call.error("there is no memory for attention");
    kernels.attend(work, call.parallel(threads));
    return nullptr;
  }

  // What is wrong with the inputs' types and shapes, in words; null: nothing.
  const char* describe(const Tensor (&in)[kInputs], AttentionShape& shape) const {
    const Tensor &query = in[kQuery], &past = in[kPastKey];
    if (query.rank != 3 || past.rank != 4 || in[kCos].rank != 2) return "query, past_key or cos has not the right axes";
    const size_t rows = length(query, 0), tokens = length(query, 1);
    shape = {length(past, 0), tokens, rows * tokens, heads, kv_heads, length(past, 3), length(past, 2),
             length(in[kCos], 0), past.type == ort::kInt8};
    const size_t size = shape.head_dim;
    if (in[kStarts].data == nullptr && rows != shape.batch) return "query has not as many rows as past_key";
    const bool joined = in[kKey].data == nullptr && in[kValue].data == nullptr;
    if (!is(query, ort::kFloat, {rows, tokens, (heads + (joined ? 2 * kv_heads : 0)) * size}))
      return "query is no float32 [B, S, heads * D], with key and value (heads + 2 kv_heads) * D";
    for (const size_t i : {kKey, kValue})
      if (!joined && !is(in[i], ort::kFloat, {rows, tokens, kv_heads * size}))
        return "key or value is no float32 [B, S, kv_heads * D]";
    for (const size_t i : {kQueryNorm, kKeyNorm})
      if (in[i].data != nullptr && !is(in[i], ort::kFloat, {size})) return "a norm of heads is no float32 [D]";
    for (const size_t i : {kPastKey, kPastValue})
      if (!is(in[i], shape.int8 ? ort::kInt8 : ort::kFloat, {shape.batch, kv_heads, shape.capacity, size}))
        return "past_key or past_value is no float32 or int8 [B, kv_heads, C, D]";
    for (const size_t i : {kSeqlens, kCounts, kStarts})
      if ((i != kStarts || in[i].data != nullptr) && !is(in[i], ort::kInt32, {shape.batch}))
        return "seqlens_k, query_seqlens or row_starts is no int32 [B]";
    for (const size_t i : {kCos, kSin})
      if (!is(in[i], ort::kFloat, {shape.positions, size / 2})) return "cos or sin is no float32 [P, D / 2]";
    for (const size_t i : {kKeyScale, kValueScale})
      if (shape.int8 && !is(in[i], ort::kFloat, {1, kv_heads, 1, size}))
        return "key_scale or value_scale is no float32 [1, kv_heads, 1, D]";
    return nullptr;
  }

  void fill(const Tensor (&in)[kInputs], const Tensor (&out)[kOutputs], AttentionCall& work) const {
    const size_t queries = heads * work.shape.head_dim, keys = kv_heads * work.shape.head_dim;
    const bool joined = in[kKey].data == nullptr;
    work.query = in[kQuery].as<float>();
    work.key = joined ? work.query + queries : in[kKey].as<float>();
    work.value = joined ? work.query + queries + keys : in[kValue].as<float>();
    work.query_stride = joined ? queries + 2 * keys : queries;
    work.key_stride = work.value_stride = joined ? queries + 2 * keys : keys;
    work.query_norm = in[kQueryNorm].as<float>();
    work.key_norm = in[kKeyNorm].as<float>();
    work.epsilon = epsilon;
    work.keys = out[kPresentKey].data;
    work.values = out[kPresentValue].data;
    work.seqlens = in[kSeqlens].as<int32_t>();
    work.counts = in[kCounts].as<int32_t>();
    work.starts = in[kStarts].as<int32_t>();
    work.cos = in[kCos].as<float>();
    work.sin = in[kSin].as<float>();
    work.key_scale = in[kKeyScale].as<float>();
    work.value_scale = in[kValueScale].as<float>();
    work.context = out[kContext].as<float>();
  }

  static void copy(const Tensor& past, const Tensor& present) {
    if (past.data == present.data) return;
    size_t bytes = past.type == ort::kInt8 ? 1 : sizeof(float);
    for (size_t axis = 0; axis < past.rank; ++axis) bytes *= length(past, axis);
    if (bytes > 0) std::memcpy(present.data, past.data, bytes);
  }
};

ort::Status* create(const ort::Operator*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  const Kernels* kernels = nullptr;
  size_t heads = 0, kv_heads = 0, threads = 0;
  if (ort::Status* status = kernels_of(*api, info, kernels, threads)) return status;
  if (ort::Status* status = attribute(*api, info, "num_heads", heads)) return status;
  if (ort::Status* status = attribute(*api, info, "kv_num_heads", kv_heads)) return status;
  *kernel = new (std::nothrow)
      AttentionKernel{*api, kernels->attention, heads, kv_heads, threads, epsilon_of(*api, info)};
  return *kernel != nullptr ? nullptr : api->error(ort::kFail, "there is no memory");
}

// One for each type of the cache: onnxruntime chooses between operators of one name by their types.
template <ort::Type CACHE>
struct Described {
  using Kernel = AttentionKernel;
  static constexpr const char* kName = "Attention";
  static constexpr size_t kInputs = q3edge::kInputs, kOutputs = q3edge::kOutputs;
  static ort::Type input(size_t index) {
    if (index == kPastKey || index == kPastValue) return CACHE;
    return index == kSeqlens || index == kCounts || index == kStarts ? ort::kInt32 : ort::kFloat;
  }
  static ort::Type output(size_t index) { return index == kContext ? ort::kFloat : CACHE; }
  static bool is_optional(size_t index) { return index == kKey || index == kValue || index == kStarts || index >= kKeyScale; }
  static constexpr auto create = q3edge::create;
};

}  // namespace

const ort::Operator* float_attention_operator() { return described_operator<Described<ort::kFloat>>(); }
const ort::Operator* int8_attention_operator() { return described_operator<Described<ort::kInt8>>(); }

}  // namespace q3edge
