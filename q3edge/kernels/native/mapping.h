// Files of packed matrices, mapped into memory and known by a number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace q3edge {

class Mapping {
 public:
  // Map the whole of a file for reading; null: it cannot be. In pages of 2 MB where the system gives such.
  static std::shared_ptr<const Mapping> open(const char* path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  Mapping(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  const uint8_t* data_;
  size_t size_;
};

// Keep a mapping until it is given back: its number, above 0, which is never used again. 0: there is no such file.
int64_t keep_mapping(const char* path);
std::shared_ptr<const Mapping> kept_mapping(int64_t number);
void give_back_mapping(int64_t number);

// Checksum of bytes, which is not 0: it tells damage by accident, and reads as fast as memory does.
uint64_t checksum(const uint8_t* bytes, size_t size);

}  // namespace q3edge
