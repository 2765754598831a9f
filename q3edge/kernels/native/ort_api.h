// The part of onnxruntime's C API that a library of operators needs (onnxruntime_c_api.h, API version 17).
//
// The API is a table of functions that only grows at its end: a function is known by its place. onnxruntime's own header
// comes with none of its packages.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

struct Api;
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct ShapeInfo;

constexpr uint32_t kVersion = 17;

struct ApiBase {
  const Api*(*get_api)(uint32_t version);
  const char*(*version)();
};

enum ErrorCode { kFail = 1, kInvalidArgument = 2 };
enum Type { kUndefined = 0, kFloat = 1, kInt8 = 3, kInt32 = 6, kInt64 = 7 };
enum Characteristic { kRequired = 0, kOptional = 1 };

// OrtCustomOp up to version 17.
struct Operator {
  uint32_t version;
  void* create;  // of versions before 16
  const char*(*name)(const Operator*);
  const char*(*provider)(const Operator*);
  Type(*input_type)(const Operator*, size_t);
  size_t(*input_count)(const Operator*);
  Type(*output_type)(const Operator*, size_t);
  size_t(*output_count)(const Operator*);
  void* compute;  // of versions before 16
  void(*destroy)(void* kernel);
  Characteristic(*input_characteristic)(const Operator*, size_t);
  Characteristic(*output_characteristic)(const Operator*, size_t);
  int(*input_memory)(const Operator*, size_t);
  int(*variadic_input_minimum)(const Operator*);
  int(*variadic_input_homogeneity)(const Operator*);
  int(*variadic_output_minimum)(const Operator*);
  int(*variadic_output_homogeneity)(const Operator*);
  Status*(*create_v2)(const Operator*, const Api*, const KernelInfo*, void** kernel);
  Status*(*compute_v2)(void* kernel, KernelContext*);
  Status*(*infer_shape)(const Operator*, void* context);
  int(*start_version)(const Operator*);
  int(*end_version)(const Operator*);
};

struct Api {
  void* functions[275];

  template <typename Function>
  Function at(size_t place) const {
    return reinterpret_cast<Function>(functions[place]);
  }

  Status* error(ErrorCode code, const char* message) const {
    return at<Status*(*)(int, const char*)>(0)(code, message);
  }
  Status* create_domain(const char* name, CustomOpDomain** out) const {
    return at<Status*(*)(const char*, CustomOpDomain**)>(26)(name, out);
  }
  Status* add_operator(CustomOpDomain* domain, const Operator* op) const {
    return at<Status*(*)(CustomOpDomain*, const Operator*)>(27)(domain, op);
  }
  Status* add_domain(SessionOptions* options, CustomOpDomain* domain) const {
    return at<Status*(*)(SessionOptions*, CustomOpDomain*)>(28)(options, domain);
  }
  Status* data(const Value* value, void** out) const {
    return at<Status*(*)(const Value*, void**)>(51)(value, out);
  }
  Status* rank(const ShapeInfo* info, size_t* out) const {
    return at<Status*(*)(const ShapeInfo*, size_t*)>(61)(info, out);
  }
  Status* dimensions(const ShapeInfo* info, int64_t* out, size_t count) const {
    return at<Status*(*)(const ShapeInfo*, int64_t*, size_t)>(62)(info, out, count);
  }
  Status* element_type(const ShapeInfo* info, Type* out) const {
    return at<Status*(*)(const ShapeInfo*, Type*)>(60)(info, out);
  }
  Status* shape_info(const Value* value, ShapeInfo** out) const {
    return at<Status*(*)(const Value*, ShapeInfo**)>(65)(value, out);
  }
  Status* attribute(const KernelInfo* info, const char* name, float* out) const {
    return at<Status*(*)(const KernelInfo*, const char*, float*)>(85)(info, name, out);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* out) const {
    return at<Status*(*)(const KernelInfo*, const char*, int64_t*)>(86)(info, name, out);
  }
  Status* input_count(const KernelContext* context, size_t* out) const {
    return at<Status*(*)(const KernelContext*, size_t*)>(88)(context, out);
  }
  Status* input(const KernelContext* context, size_t index, const Value** out) const {
    return at<Status*(*)(const KernelContext*, size_t, const Value**)>(90)(context, index, out);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* shape, size_t rank, Value** out) const {
    return at<Status*(*)(KernelContext*, size_t, const int64_t*, size_t, Value**)>(91)(context, index, shape,
                                                                                              rank, out);
  }
  void release(Status* status) const { at<void(*)(Status*)>(93)(status); }
  void release(ShapeInfo* info) const { at<void(*)(ShapeInfo*)>(99)(info); }
  Status* parallel_for(const KernelContext* context, void (*body)(void*, size_t), size_t count, size_t batches,
                       void* data) const {
    return at<Status*(*)(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(
        context, body, count, batches, data);
  }
};

}  // namespace ort
