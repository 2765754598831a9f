#include "operator.h"

#include <cstdio>

namespace q3edge {
namespace {

ort::Status* described(const ort::Api& api, const ort::Value* value, Tensor& out) {
  ort::ShapeInfo* info = nullptr;
  if (ort::Status* status = api.shape_info(value, &info)) return status;
  ort::Status* status = api.element_type(info, &out.type);
  if (status == nullptr) status = api.rank(info, &out.rank);
  if (status == nullptr && out.rank > kMaxRank) status = api.error(ort::kInvalidArgument, "a tensor of too many axes");
  if (status == nullptr) status = api.dimensions(info, out.shape, out.rank);
  api.release(info);
  return status != nullptr ? status : api.data(value, &out.data);
}

}  // namespace

ort::Status* Call::input(size_t index, Tensor& out) const {
  const ort::Value* value = nullptr;
  if (ort::Status* status = api_.input(context_, index, &value)) return status;
  return value == nullptr ? nullptr : described(api_, value, out);
}

ort::Status* Call::output(size_t index, const int64_t* shape, size_t rank, Tensor& out) const {
  ort::Value* value = nullptr;
  if (ort::Status* status = api_.output(context_, index, shape, rank, &value)) return status;
  return value == nullptr ? nullptr : described(api_, value, out);
}

ort::Status* attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name, size_t& out) {
  int64_t value = 0;
  if (ort::Status* status = api.attribute(info, name, &value)) return status;
  if (value < 0) return api.error(ort::kInvalidArgument, "an attribute is negative");
  out = static_cast<size_t>(value);
  return nullptr;
}

ort::Status* kernels_of(const ort::Api& api, const ort::KernelInfo* info, const Kernels*& out, size_t& threads) {
  size_t number = 0;
  if (ort::Status* status = attribute(api, info, "instruction_set", number)) return status;
  if (number >= kernels().count)
    return api.error(ort::kInvalidArgument, "this CPU or library does not have the instruction set");
  out = kernels().sets[number];
  if (ort::Status* status = attribute(api, info, "threads", threads)) return status;
  return threads > 0 ? nullptr : api.error(ort::kInvalidArgument, "a node is computed on no thread");
}

ort::Status* matrix_of(const ort::Api& api, const ort::KernelInfo* info, const char* prefix, size_t count,
                       const Mapping* mapping, Matrix& out) {
  static constexpr const char* kNames[] = {"offset", "N", "K", "block_size", "bits", "symmetric", "float32_scales"};
  size_t values[7], *value = values;
  for (const char* of : kNames) {
    char name[64];
    std::snprintf(name, sizeof name, "%s%s", prefix, of);
    if (ort::Status* status = attribute(api, info, name, *value++)) return status;
  }
  const MatrixShape shape{values[1], values[2], values[3], static_cast<unsigned>(values[4]),
                          values[5] != 0, values[6] != 0};
  const size_t offset = values[0];
  if (!shape.valid() || count == 0 || mapping == nullptr || offset % kAlignment != 0 || offset > mapping->size() ||
      shape.bytes() > (mapping->size() - offset) / count)
    return api.error(ort::kInvalidArgument, "no such matrix is mapped");
  out = {shape, mapping->data() + offset};
  return nullptr;
}

}  // namespace q3edge
