// Operator q3edge.kernels.MatMulNBits: x W.T with a packed matrix that lies in a mapped file.
//
// Input: x, float32 [..., K]; output: float32 [..., N]. Attributes say where the matrix lies and what it is.
#include "mapping.h"
#include "operator.h"

namespace q3edge {
namespace {

struct ProductKernel {
  const ort::Api& api;
  const Kernels& kernels;
  std::shared_ptr<const Mapping> mapping;  // keeps the matrix's memory
  Matrix matrix;
  size_t threads;

  ort::Status* compute(ort::KernelContext* context) const {
    Call call(api, context);
    Tensor x;
    if (ort::Status* status = call.input(0, x)) return status;
    const auto width = static_cast<int64_t>(matrix.shape.width);
    if (x.type != ort::kFloat || x.rank == 0 || x.last() != width) return call.error("x is no float32 [..., K]");
    size_t rows = 1;
    int64_t shape[kMaxRank];
    for (size_t axis = 0; axis < x.rank; ++axis) shape[axis] = x.shape[axis];
    for (size_t axis = 0; axis + 1 < x.rank; ++axis) rows *= static_cast<size_t>(x.shape[axis]);
    shape[x.rank - 1] = static_cast<int64_t>(matrix.shape.rows);
    Tensor y;
    if (ort::Status* status = call.output(0, shape, x.rank, y)) return status;
    void* scratch = Scratch::of_this_thread(product_scratch(matrix.shape, rows));
    if (scratch == nullptr) return call.error("there is no memory for rounded activations");
    multiply_all(kernels, matrix, x.as<float>(), rows, y.as<float>(), scratch, call.parallel(threads));
    return nullptr;
  }
};

ort::Status* create(const ort::Operator*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  static constexpr const char* kNames[] = {"mapping", "offset",    "N",
                                           "K",       "block_size", "bits",
                                           "symmetric", "float32_scales", "instruction_set", "threads"};
  int64_t values[10];
  if (ort::Status* status = attributes(*api, info, kNames, values)) return status;
  for (const int64_t value : values)
    if (value < 0) return api->error(ort::kInvalidArgument, "an attribute is negative");
  const MatrixShape shape{static_cast<size_t>(values[2]), static_cast<size_t>(values[3]),
                          static_cast<size_t>(values[4]), static_cast<unsigned>(values[5]),
                          values[6] != 0, values[7] != 0};
  std::shared_ptr<const Mapping> mapping = kept_mapping(values[0]);
  const auto offset = static_cast<size_t>(values[1]);
  if (!shape.valid() || mapping == nullptr || offset % kAlignment != 0 || offset > mapping->size() ||
      shape.bytes() > mapping->size() - offset)
    return api->error(ort::kInvalidArgument, "no such matrix is mapped");
  if (static_cast<size_t>(values[8]) >= kernels().count)
    return api->error(ort::kInvalidArgument, "this CPU or library does not have the instruction set");
  const Matrix matrix{shape, mapping->data() + offset};
  *kernel = new (std::nothrow) ProductKernel{*api, *kernels().sets[values[8]], std::move(mapping), matrix,
                                             static_cast<size_t>(values[9])};
  return *kernel != nullptr ? nullptr : api->error(ort::kFail, "there is no memory");
}

const ort::Operator kOperator = {
    ort::kVersion,
    nullptr,
    [](const ort::Operator*) { return "MatMulNBits"; },
    [](const ort::Operator*) { return "CPUExecutionProvider"; },
    [](const ort::Operator*, size_t) { return ort::kFloat; },
    [](const ort::Operator*) { return size_t{1}; },
    [](const ort::Operator*, size_t) { return ort::kFloat; },
    [](const ort::Operator*) { return size_t{1}; },
    nullptr,
    [](void* kernel) { delete static_cast<ProductKernel*>(kernel); },
    [](const ort::Operator*, size_t) { return ort::kRequired; },
    [](const ort::Operator*, size_t) { return ort::kRequired; },
    [](const ort::Operator*, size_t) { return 0; },
    [](const ort::Operator*) { return 0; },
    [](const ort::Operator*) { return 0; },
    [](const ort::Operator*) { return 0; },
    [](const ort::Operator*) { return 0; },
    create,
    [](void* kernel, ort::KernelContext* context) { return static_cast<ProductKernel*>(kernel)->compute(context); },
    nullptr,
    [](const ort::Operator*) { return 1; },
    [](const ort::Operator*) { return 1; },
};

}  // namespace

const ort::Operator* product_operator() { return &kOperator; }

}  // namespace q3edge
