// What the library offers by name: its operators, for onnxruntime, and the rest for Python (q3edge/kernels/library.py).
#include <cstring>
#include <initializer_list>

#include "experts.h"
#include "mapping.h"
#include "operator.h"
#include "pack.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace q3edge;

MatrixShape shape_of(const int64_t* numbers) {
  return {static_cast<size_t>(numbers[0]), static_cast<size_t>(numbers[1]), static_cast<size_t>(numbers[2]),
          static_cast<unsigned>(numbers[3]), numbers[4] != 0, numbers[5] != 0};
}

Experts experts_of(const int64_t* numbers, const uint8_t* gate_ups, const uint8_t* downs) {
  return {{shape_of(numbers + 2), gate_ups}, {shape_of(numbers + 8), downs}, static_cast<size_t>(numbers[0]),
          static_cast<size_t>(numbers[1])};
}

ParallelFor one_thread() {
  return {[](void*, size_t count, void (*body)(void*, size_t), void* data) {
            for (size_t i = 0; i < count; ++i) body(data, i);
          },
          nullptr, 1};
}

}  // namespace

// By which onnxruntime finds the operators of a library.
EXPORT ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const ort::Api* api = base->get_api(ort::kVersion);
  static ort::CustomOpDomain* domain = nullptr;  // for all sessions
  if (domain == nullptr) {
    if (ort::Status* status = api->create_domain(kDomain, &domain)) return status;
    for (const ort::Operator* op : {product_operator(), expert_operator(), float_attention_operator(), int8_attention_operator()})
      if (ort::Status* status = api->add_operator(domain, op)) return status;
  }
  return api->add_domain(options, domain);
}

// Version of operators and functions, which library.py has to have, too.
EXPORT size_t q3edge_version() { return 4; }

EXPORT size_t q3edge_set_count() { return kernels().count; }
EXPORT const char* q3edge_set_name(size_t set) { return kernels().sets[set]->name; }

// Numbers of a shape: N, K, G, bits, symmetric, float32 scales. Bytes of the packed matrix; 0: there is no such form.
EXPORT size_t q3edge_packed_bytes(const int64_t* shape) {
  for (int i = 0; i < 6; ++i)
    if (shape[i] < 0) return 0;
  return shape_of(shape).valid() ? shape_of(shape).bytes() : 0;
}
EXPORT int q3edge_are_float16(const float* values, size_t count) { return are_float16(values, count); }
EXPORT void q3edge_pack(const int64_t* shape, const uint8_t* codes, const float* scales,
                               const uint8_t* zero_points, uint8_t* out) {
  pack(shape_of(shape), {codes, scales, zero_points}, 0, shape_of(shape).tiles(), out);
}

EXPORT uint64_t q3edge_checksum(const uint8_t* bytes, size_t size) { return checksum(bytes, size); }
// Load a part of the mapping: its checksum; 0 if it has no such part, or it cannot be read.
EXPORT uint64_t q3edge_load_matrix(size_t offset, size_t size) {
  const std::shared_ptr<const Mapping> mapping = the_mapping();
  return mapping == nullptr || !mapping->load(offset, size) ? 0 : checksum(mapping->data() + offset, size);
}
EXPORT int q3edge_open_mapping(const char* path, size_t copied) { return open_mapping(path, copied); }
EXPORT void q3edge_close_mapping() { close_mapping(); }

// For tests: scratch that a product of so many rows needs, and the product by one set.
EXPORT size_t q3edge_product_scratch(const int64_t* shape, size_t rows) {
  return product_scratch(shape_of(shape), rows);
}
EXPORT void q3edge_multiply(size_t set, const int64_t* shape, const uint8_t* packed, const float* x, size_t rows,
                                   float* y, void* scratch) {
  multiply_all(*kernels().sets[set], {shape_of(shape), packed}, {x, false, nullptr, nullptr, 0.0f}, rows, nullptr, y,
               scratch, one_thread());
}

// Experts from numbers: how many, how many a row chooses, then the shapes of one's gate and up, and of its down matrix.
// For tests: scratch that they need for so many rows (0: there are no such), and their results by one set.
EXPORT size_t q3edge_expert_scratch(const int64_t* numbers, size_t rows) {
  const Experts experts = experts_of(numbers, nullptr, nullptr);
  return experts.valid() ? expert_scratch(experts, rows) : 0;
}
EXPORT void q3edge_compute_experts(size_t set, const int64_t* numbers, const uint8_t* gate_ups, const uint8_t* downs,
                                   const float* x, const float* logits, size_t rows, float* y, void* scratch) {
  compute_experts(*kernels().sets[set], experts_of(numbers, gate_ups, downs), x, logits, rows, y, scratch, one_thread());
}
