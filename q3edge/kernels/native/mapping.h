// Files of packed matrices in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace q3edge {

// A file in memory: its own pages, which processes share and the system may take back; its beginning, or all of it, can
// be a copy in pages of 2 MB, which a core finds faster, and which is empty until `load`.
class Mapping {
 public:
  // Map the whole of a file for reading; copied: of so many of its first bytes a copy, where the system has such pages.
  // Null: it cannot be.
  static std::shared_ptr<const Mapping> open(const char* path, size_t copied);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // Have a part of the file in memory; false: it could not be read. Threads may load different parts.
  bool load(size_t offset, size_t size) const;

 private:
  Mapping(uint8_t* data, size_t size, uint8_t* memory, size_t memory_size, size_t copied, int file)
      : data_(data), size_(size), memory_(memory), memory_size_(memory_size), copied_(copied), file_(file) {}

  uint8_t* data_;
  size_t size_;
  uint8_t* memory_;  // what is mapped: data_, and what is left of whole pages around it
  size_t memory_size_;
  size_t copied_;    // bytes that are a copy
  int file_;         // that they are of; -1: there are none
};

// The mapping that operators find as they are created, one at a time in a process; it lives as long as any of them.
// false: there is no such file, and no mapping.
bool open_mapping(const char* path, size_t copied);
std::shared_ptr<const Mapping> the_mapping();
void close_mapping();

// Checksum of bytes, which is not 0: it tells damage by accident, and reads as fast as memory does.
uint64_t checksum(const uint8_t* bytes, size_t size);

}  // namespace q3edge
