// Operator q3edge.kernels.QMoE: experts of a layer whose packed matrices lie in a mapped file.
//
// Inputs: x, float32 [..., H]; the router's logits, float32 [M, E], for each row of x. Output: float32 as x. Attributes
// say where the matrices of the first expert lie, behind which those of the others are, and what they are (experts.h).
#include "experts.h"
#include "operator.h"

namespace q3edge {
namespace {

struct ExpertKernel {
  const ort::Api& api;
  const Kernels& kernels;
  std::shared_ptr<const Mapping> mapping;  // keeps the matrices' memory
  Experts experts;
  size_t threads;

  ort::Status* compute(ort::KernelContext* context) const {
    Call call(api, context);
    Tensor in[2];
    if (ort::Status* status = call.inputs(in)) return status;
    const Tensor &x = in[0], &logits = in[1];
    if (x.type != ort::kFloat || x.rank == 0 || x.last() != static_cast<int64_t>(experts.down.shape.rows))
      return call.error("x is no float32 [..., H]");
    size_t rows = 1;
    for (size_t axis = 0; axis + 1 < x.rank; ++axis) rows *= static_cast<size_t>(x.shape[axis]);
    if (logits.type != ort::kFloat || logits.rank != 2 || logits.shape[0] != static_cast<int64_t>(rows) ||
        logits.last() != static_cast<int64_t>(experts.count))
      return call.error("the router's logits are no float32 [M, E]");
    Tensor y;
    if (ort::Status* status = call.output(0, x.shape, x.rank, y)) return status;
    void* scratch = Scratch::of_this_thread(expert_scratch(experts, rows));
    if (scratch == nullptr) return call.error("there is no memory for the experts' activations");
    compute_experts(kernels, experts, x.as<float>(), logits.as<float>(), rows, y.as<float>(), scratch,
                    call.parallel(threads));
    return nullptr;
  }
};

ort::Status* create(const ort::Operator*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  const Kernels* kernels = nullptr;
  size_t threads = 0;
  Experts experts = {};
  std::shared_ptr<const Mapping> mapping = the_mapping();
  if (ort::Status* status = kernels_of(*api, info, kernels, threads)) return status;
  if (ort::Status* status = attribute(*api, info, "experts", experts.count)) return status;
  if (ort::Status* status = attribute(*api, info, "k", experts.chosen)) return status;
  if (ort::Status* status = matrix_of(*api, info, "gate_up_", experts.count, mapping.get(), experts.gate_up))
    return status;
  if (ort::Status* status = matrix_of(*api, info, "down_", experts.count, mapping.get(), experts.down)) return status;
  if (!experts.valid()) return api->error(ort::kInvalidArgument, "the experts' matrices do not fit");
  *kernel = new (std::nothrow) ExpertKernel{*api, *kernels, std::move(mapping), experts, threads};
  return *kernel != nullptr ? nullptr : api->error(ort::kFail, "there is no memory");
}

struct Described {
  using Kernel = ExpertKernel;
  static constexpr const char* kName = "QMoE";
  static constexpr size_t kInputs = 2, kOutputs = 1;
  static ort::Type input(size_t) { return ort::kFloat; }
  static ort::Type output(size_t) { return ort::kFloat; }
  static bool is_optional(size_t) { return false; }
  static constexpr auto create = q3edge::create;
};

}  // namespace

const ort::Operator* expert_operator() { return described_operator<Described>(); }

}  // namespace q3edge
