#include "mapping.h"

#include <cstring>
#include <mutex>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace q3edge {
namespace {

struct Kept {
  std::mutex mutex;
  std::shared_ptr<const Mapping> mapping;

  // Put a mapping in the place of another, which is unmapped outside of the lock.
  void exchange(std::shared_ptr<const Mapping> with) {
    const std::lock_guard<std::mutex> lock(mutex);
    mapping.swap(with);
  }
};

Kept& kept() {
  static auto* const found = new Kept;  // never destroyed: sessions may outlive static objects
  return *found;
}

}  // namespace

std::shared_ptr<const Mapping> Mapping::open(const char* path, size_t copied) {
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return nullptr;
  struct stat found;
  if (fstat(file, &found) != 0 || found.st_size <= 0) {
    close(file);
    return nullptr;
  }
  const auto size = static_cast<size_t>(found.st_size);
#if defined(MADV_HUGEPAGE)
  constexpr size_t kHuge = size_t{2} << 20;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  copied = copied < size ? (copied + page - 1) / page * page : size;
  if (copied > size) copied = size;
  if (copied >= kHuge) {
    const size_t room = size + kHuge;
    void* memory = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) {
      const auto address = reinterpret_cast<uintptr_t>(memory);
      auto* data = reinterpret_cast<uint8_t*>((address + kHuge - 1) / kHuge * kHuge);
      madvise(data, copied, MADV_HUGEPAGE);
      if (copied == size || mmap(data + copied, size - copied, PROT_READ, MAP_SHARED | MAP_FIXED, file,
                                 static_cast<off_t>(copied)) != MAP_FAILED)
        return std::shared_ptr<const Mapping>(
            new Mapping(data, size, static_cast<uint8_t*>(memory), room, copied, file));
      munmap(memory, room);
    }
  }
#endif
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (data == MAP_FAILED) return nullptr;
  auto* bytes = static_cast<uint8_t*>(data);
  return std::shared_ptr<const Mapping>(new Mapping(bytes, size, bytes, size, 0, -1));
}

Mapping::~Mapping() {
  munmap(memory_, memory_size_);
  if (file_ >= 0) close(file_);
}

bool Mapping::load(size_t offset, size_t size) const {
  if (offset > size_ || size > size_ - offset) return false;
  for (const size_t end = offset + size < copied_ ? offset + size : copied_; offset < end;) {
    const ssize_t count = pread(file_, data_ + offset, end - offset, static_cast<off_t>(offset));
    if (count <= 0) return false;
    offset += static_cast<size_t>(count);
  }
  return true;
}

bool open_mapping(const char* path, size_t copied) {
  std::shared_ptr<const Mapping> mapping = Mapping::open(path, copied);
  const bool found = mapping != nullptr;
  kept().exchange(std::move(mapping));
  return found;
}

std::shared_ptr<const Mapping> the_mapping() {
  const std::lock_guard<std::mutex> lock(kept().mutex);
  return kept().mapping;
}

void close_mapping() { kept().exchange(nullptr); }

// FNV-1a (Fowler, Noll, Vo) over words of eight lanes in turn, and then over the lanes and the rest.
uint64_t checksum(const uint8_t* bytes, size_t size) {
  constexpr uint64_t kPrime = 0x100000001b3;
  constexpr size_t kLanes = 8;
  uint64_t lanes[kLanes];
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = 0xcbf29ce484222325 + i;
  size_t done = 0;
  for (; done + 8 * kLanes <= size; done += 8 * kLanes)
    for (size_t i = 0; i < kLanes; ++i) {
      uint64_t word;
      std::memcpy(&word, bytes + done + 8 * i, sizeof word);
      lanes[i] = (lanes[i] ^ word) * kPrime;
      lanes[i] ^= lanes[i] >> 32;
    }
  uint64_t found = size;
  for (const uint64_t lane : lanes) found = (found ^ lane) * kPrime;
  for (; done < size; ++done) found = (found ^ bytes[done]) * kPrime;
  return found == 0 ? 1 : found;
}

}  // namespace q3edge
