// Operator q3edge.kernels.QMoE: experts of a layer whose packed matrices lie in a mapped file.
//
// Inputs: x, float32 [..., H]; the router's logits, float32 [M, E], for each row of x. Output: float32 as x. Attributes
// say where the matrices of the first expert lie, behind which those of the others are, and what they are (experts.h).
#include "experts.h"
#include "mapping.h"
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

constexpr size_t kNames = 7;  // of a matrix's attributes

// Read a matrix of all experts, by attributes whose names begin with its own.
ort::Status* matrix_of(const ort::Api& api, const ort::KernelInfo* info, const char* const (&names)[kNames],
                       size_t count, const Mapping* mapping, Matrix& out) {
  int64_t values[kNames];
  if (ort::Status* status = attributes(api, info, names, values)) return status;
  for (const int64_t value : values)
    if (value < 0) return api.error(ort::kInvalidArgument, "an attribute is negative");
  const MatrixShape shape{static_cast<size_t>(values[1]), static_cast<size_t>(values[2]),
                          static_cast<size_t>(values[3]), static_cast<unsigned>(values[4]),
                          values[5] != 0, values[6] != 0};
  const auto offset = static_cast<size_t>(values[0]);
  if (!shape.valid() || mapping == nullptr || offset % kAlignment != 0 || offset > mapping->size() ||
      shape.bytes() > (mapping->size() - offset) / count)
    return api.error(ort::kInvalidArgument, "no such experts are mapped");
  out = {shape, mapping->data() + offset};
  return nullptr;
}

ort::Status* create(const ort::Operator*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
  static constexpr const char* kOfAll[] = {"experts", "k", "instruction_set", "threads"};
  static constexpr const char* kGateUp[kNames] = {
      "gate_up_offset", "gate_up_N",         "gate_up_K",
      "gate_up_block_size", "gate_up_bits", "gate_up_symmetric", "gate_up_float32_scales"};
  static constexpr const char* kDown[kNames] = {
      "down_offset", "down_N", "down_K",
      "down_block_size", "down_bits", "down_symmetric", "down_float32_scales"};
  int64_t values[4];
  if (ort::Status* status = attributes(*api, info, kOfAll, values)) return status;
  if (values[0] <= 0 || values[1] <= 0 || values[3] <= 0)
    return api->error(ort::kInvalidArgument, "a number of experts or threads is negative or zero");
  if (values[2] < 0 || static_cast<size_t>(values[2]) >= kernels().count)
    return api->error(ort::kInvalidArgument, "this CPU or library does not have the instruction set");
  ExpertKernel found{*api, *kernels().sets[values[2]], the_mapping(), {}, static_cast<size_t>(values[3])};
  Experts& experts = found.experts;
  experts.count = static_cast<size_t>(values[0]);
  experts.chosen = static_cast<size_t>(values[1]);
  if (ort::Status* status = matrix_of(*api, info, kGateUp, experts.count, found.mapping.get(), experts.gate_up))
    return status;
  if (ort::Status* status = matrix_of(*api, info, kDown, experts.count, found.mapping.get(), experts.down)) return status;
  if (!experts.valid()) return api->error(ort::kInvalidArgument, "the experts' matrices do not fit");
  *kernel = new (std::nothrow) ExpertKernel(std::move(found));
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
