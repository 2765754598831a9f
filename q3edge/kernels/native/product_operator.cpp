// Operator q3edge.kernels.MatMulNBits: x W.T with a packed matrix that lies in a mapped file.
//
// Inputs: x, float32 [..., K], or [..., 2 K] where x is gate and up; up; the norm's weight, float32 [K]; a summand,
// float32 [..., N]. All but x may be left out. Output: float32 [..., N]. Attributes say where the matrix lies, what it is,
// and whether the product is of silu(x) * up.
#include "operator.h"

namespace q3edge {
namespace {

enum InputPlace { kX, kUp, kNorm, kSummand, kInputs };

struct ProductKernel {
  const ort::Api& api;
  const Kernels& kernels;
  std::shared_ptr<const Mapping> mapping;  // keeps the matrix's memory
  Matrix matrix;
  size_t threads;
  bool gated;
  float epsilon;

  ort::Status* compute(ort::KernelContext* context) const {
    Call call(api, context);
    Tensor in[kInputs];
    if (ort::Status* status = call.inputs(in)) return status;
    const Tensor& x = in[kX];
    const auto width = static_cast<int64_t>(matrix.shape.width), outputs = static_cast<int64_t>(matrix.shape.rows);
    const bool joined = gated && in[kUp].data == nullptr;
    if (!is_like(x, x, joined ? 2 * width : width)) return call.error("x is no float32 [..., K]");
    if (gated && !joined && !is_like(in[kUp], x, width)) return call.error("up is not of x's shape");
    if (in[kNorm].data != nullptr && (in[kNorm].rank != 1 || in[kNorm].last() != width || in[kNorm].type != ort::kFloat))
      return call.error("the norm's weight is no float32 [K]");
    if (in[kSummand].data != nullptr && !is_like(in[kSummand], x, outputs))
      return call.error("the sum's other part is no float32 [..., N]");
    size_t rows = 1;
    int64_t shape[kMaxRank];
    for (size_t axis = 0; axis < x.rank; ++axis) shape[axis] = x.shape[axis];
    for (size_t axis = 0; axis + 1 < x.rank; ++axis) rows *= static_cast<size_t>(x.shape[axis]);
    shape[x.rank - 1] = outputs;
    Tensor y;
    if (ort::Status* status = call.output(0, shape, x.rank, y)) return status;
    void* scratch = Scratch::of_this_thread(product_scratch(matrix.shape, rows));
    if (scratch == nullptr) return call.error("there is no memory for rounded activations");
    const Input input{x.as<float>(), gated, in[kUp].as<float>(), in[kNorm].as<float>(), epsilon};
    multiply_all(kernels, matrix, input, rows, in[kSummand].as<float>(), y.as<float>(), scratch, call.parallel(threads));
    return nullptr;
  }

  // Whether a tensor has the type float32, the axes of `other` but for the last, and that of this length.
  static bool is_like(const Tensor& tensor, const Tensor& other, int64_t last) {
    if (tensor.type != ort::kFloat || tensor.rank == 0 || tensor.rank != other.rank || tensor.last() != last) return false;
    for (size_t axis = 0; axis + 1 < tensor.rank; ++axis)
      if (tensor.shape[axis] != other.shape[axis]) return false;
    return true;
  }
};

ort::Status* create(const ort::Operator*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  const Kernels* kernels = nullptr;
  size_t threads = 0;
  Matrix matrix = {};
  std::shared_ptr<const Mapping> mapping = the_mapping();
  if (ort::Status* status = kernels_of(*api, info, kernels, threads)) return status;
  if (ort::Status* status = matrix_of(*api, info, "", 1, mapping.get(), matrix)) return status;
  *kernel = new (std::nothrow) ProductKernel{*api, *kernels, std::move(mapping), matrix, threads,
                                             attribute_or(*api, info, "gated", int64_t{0}) != 0, epsilon_of(*api, info)};
  return *kernel != nullptr ? nullptr : api->error(ort::kFail, "there is no memory");
}

struct Described {
  using Kernel = ProductKernel;
  static constexpr const char* kName = "MatMulNBits";
  static constexpr size_t kInputs = q3edge::kInputs, kOutputs = 1;
  static ort::Type input(size_t) { return ort::kFloat; }
  static ort::Type output(size_t) { return ort::kFloat; }
  static bool is_optional(size_t index) { return index != kX; }
  static constexpr auto create = q3edge::create;
};

}  // namespace

const ort::Operator* product_operator() { return described_operator<Described>(); }

}  // namespace q3edge
