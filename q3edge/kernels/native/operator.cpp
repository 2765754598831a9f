#include "operator.h"

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

}  // namespace q3edge
