// What our operators for onnxruntime have in common: tensors with their shapes, errors, scratch memory, threads.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "kernels.h"
#include "mapping.h"
#include "ort_api.h"

namespace q3edge {

constexpr const char* kDomain = "q3edge.kernels";
constexpr size_t kMaxRank = 4;

// Tensor of an operator's input or output; `rank` 0 also for one that is left out, whose data is null.
struct Tensor {
  void* data = nullptr;
  ort::Type type = ort::kUndefined;
  size_t rank = 0;
  int64_t shape[kMaxRank] = {};

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t last() const { return rank == 0 ? 0 : shape[rank - 1]; }
};

// Memory that grows and is used again by the same thread in the next operator, at a multiple of 64; freed with it.
class Scratch {
 public:
  // At least `bytes` bytes; null: there is no memory.
  static void* of_this_thread(size_t bytes) {
    thread_local Scratch scratch;
    if (bytes > scratch.size_) {
      scratch.memory_.reset();
      scratch.memory_.reset(std::malloc(bytes + kAlignment));
      scratch.size_ = scratch.memory_ ? bytes : 0;
    }
    const auto address = reinterpret_cast<uintptr_t>(scratch.memory_.get());
    return address == 0 ? nullptr : reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

// One call of an operator's kernel.
class Call {
 public:
  Call(const ort::Api& api, ort::KernelContext* context) : api_(api), context_(context) {}

  // Read the places and shapes of as many inputs as there are; the status is null if all is well.
  template <size_t COUNT>
  ort::Status* inputs(Tensor (&out)[COUNT]) const {
    size_t count = 0;
    if (ort::Status* status = api_.input_count(context_, &count)) return status;
    for (size_t i = 0; i < count && i < COUNT; ++i)
      if (ort::Status* status = input(i, out[i])) return status;
    return nullptr;
  }
  // Make an output of this shape.
  ort::Status* output(size_t index, const int64_t* shape, size_t rank, Tensor& out) const;
  ort::Status* error(const char* message) const { return api_.error(ort::kInvalidArgument, message); }
  // onnxruntime's own threads; `threads` is a guess, by which work is cut.
  ParallelFor parallel(size_t threads) {
    return {[](void* pool, size_t count, void (*body)(void*, size_t), void* data) {
              static_cast<Call*>(pool)->run(count, body, data);
            },
            this, threads};
  }

 private:
  ort::Status* input(size_t index, Tensor& out) const;
  void run(size_t count, void (*body)(void*, size_t), void* data) {
    if (count > 1) {
      ort::Status* status = api_.parallel_for(context_, body, count, count, data);
      if (status == nullptr) return;
      api_.release(status);
    }
    for (size_t i = 0; i < count; ++i) body(data, i);
  }

  const ort::Api& api_;
  ort::KernelContext* context_;
};

// Read a whole number of a node that is not negative; a status other than null names none, as onnxruntime does.
ort::Status* attribute(const ort::Api& api, const ort::KernelInfo* info, const char* name, size_t& out);
// Read the set that a node is computed by, and on how many threads: at least 1.
ort::Status* kernels_of(const ort::Api& api, const ort::KernelInfo* info, const Kernels*& out, size_t& threads);
// Read the first of `count` matrices alike that lie one behind the other in a mapping (null: there is none), from the
// attributes of a node whose names begin with `prefix`.
ort::Status* matrix_of(const ort::Api& api, const ort::KernelInfo* info, const char* prefix, size_t count,
                       const Mapping* mapping, Matrix& out);

// A node's attribute, or `otherwise` where it is left out.
template <typename T>
T attribute_or(const ort::Api& api, const ort::KernelInfo* info, const char* name, T otherwise) {
  T found = otherwise;
  ort::Status* status = api.attribute(info, name, &found);
  if (status == nullptr) return found;
  api.release(status);
  return otherwise;
}

// Epsilon of a node's norm, with the default of ONNX's RMSNormalization.
inline float epsilon_of(const ort::Api& api, const ort::KernelInfo* info) {
  return attribute_or(api, info, "epsilon", 1e-5f);
}

// Table by which onnxruntime knows an operator. `Described` has: kName, kInputs and kOutputs (how many), input(i) and
// output(i) (types), is_optional(i) of inputs, and create(op, api, info, kernel); its Kernel has compute(context).
template <typename Described>
const ort::Operator* described_operator() {
  static const ort::Operator found = {
      ort::kVersion,
      nullptr,
      [](const ort::Operator*) { return Described::kName; },
      [](const ort::Operator*) { return "CPUExecutionProvider"; },
      [](const ort::Operator*, size_t index) { return Described::input(index); },
      [](const ort::Operator*) -> size_t { return Described::kInputs; },
      [](const ort::Operator*, size_t index) { return Described::output(index); },
      [](const ort::Operator*) -> size_t { return Described::kOutputs; },
      nullptr,
      [](void* kernel) { delete static_cast<typename Described::Kernel*>(kernel); },
      [](const ort::Operator*, size_t index) {
        return Described::is_optional(index) ? ort::kOptional : ort::kRequired;
      },
      [](const ort::Operator*, size_t) { return ort::kRequired; },
      [](const ort::Operator*, size_t) { return 0; },  // memory of the CPU
      [](const ort::Operator*) { return 0; },          // no input or output stands for several
      [](const ort::Operator*) { return 0; },
      [](const ort::Operator*) { return 0; },
      [](const ort::Operator*) { return 0; },
      Described::create,
      [](void* kernel, ort::KernelContext* context) {
        return static_cast<typename Described::Kernel*>(kernel)->compute(context);
      },
      nullptr,
      [](const ort::Operator*) { return 1; },
      [](const ort::Operator*) { return 1; },
  };
  return &found;
}

const ort::Operator* product_operator();
const ort::Operator* expert_operator();
const ort::Operator* float_attention_operator();
const ort::Operator* int8_attention_operator();

}  // namespace q3edge
