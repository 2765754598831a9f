#include "pack.h"

#include <cstring>

namespace q3edge {
namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Nearest-to-zero float16; `exact` tells whether it is the same number.
uint16_t half_of(float value, bool& exact) {
  const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude == 0) {
    exact = true;
    return sign;
  }
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  const uint32_t fraction = (magnitude & 0x7fffff) | 0x800000;
  if (exponent > 15 || exponent < -24) {  // too large (or no number), or too small
    exact = false;
    return sign;
  }
  const int dropped = exponent >= -14 ? 13 : -1 - exponent;  // a subnormal has fewer bits
  exact = (fraction & ((uint32_t{1} << dropped) - 1)) == 0;
  const uint32_t kept = fraction >> dropped;
  const uint32_t half = exponent >= -14 ? (static_cast<uint32_t>(exponent + 15) << 10) + (kept - 0x400) : kept;
  return static_cast<uint16_t>(sign | half);
}

void put_little_endian(uint8_t* to, uint32_t value) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(value >> 8 * i);
}

// Eight nibbles, in bytes from the lowest on, as four bytes that have the first four below and the others above.
uint32_t paired(uint32_t nibbles) {
  uint32_t first = nibbles & 0xffff, second = nibbles >> 16;
  first = (first | first << 8) & 0x00ff00ff;
  second = (second | second << 8) & 0x00ff00ff;
  return ((first | first << 4) & 0x0f0f0f0f) | ((second << 4 | second << 8) & 0xf0f0f0f0);
}

// Where the parts of a group lie in a tile.
struct Place {
  size_t scales, zero_points, codes;
};

Place place_of(const MatrixShape& shape, size_t group) {
  const size_t first = group / kSpan * kSpan, at = group - first, left = shape.groups() - first;
  const size_t count = left < kSpan ? left : kSpan, begin = first / kSpan * shape.span_bytes(kSpan);
  return {begin + at * kTileRows * shape.scale_bytes(), begin + shape.zero_points_offset(count) + at * kTileRows,
          begin + shape.codes_offset(count) + at * shape.group_bytes()};
}

// Put a group's codes of one row in their places: of eight 4-bit codes, those that come second share the bytes of the
// first four. What is computed and what is scattered are loops of their own, as compilers can only vectorize the first.
void pack_codes(const MatrixShape& shape, const uint8_t* from, uint8_t* to) {
  constexpr size_t kPart = 32;  // words of four bytes
  for (size_t words = shape.group * shape.bits / 32; words > 0;) {
    const size_t count = words < kPart ? words : kPart;
    uint32_t part[kPart];
    std::memcpy(part, from, 4 * count);
    if (shape.bits == 4)
      for (size_t i = 0; i < count; ++i) part[i] = paired(part[i]);
    for (size_t i = 0; i < count; ++i) std::memcpy(to + 4 * kTileRows * i, part + i, 4);
    from += 4 * count;
    to += 4 * kTileRows * count;
    words -= count;
  }
}

void put_scale(const MatrixShape& shape, float scale, uint8_t* to) {
  if (shape.float32_scales) {
    put_little_endian(to, bits_of(scale));
  } else {
    bool exact;
    const uint16_t half = half_of(scale, exact);
    to[0] = static_cast<uint8_t>(half);
    to[1] = static_cast<uint8_t>(half >> 8);
  }
}

}  // namespace

bool are_float16(const float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    bool exact;
    half_of(values[i], exact);
    if (!exact) return false;
  }
  return true;
}

void pack(const MatrixShape& shape, const Unpacked& from, size_t begin, size_t end, uint8_t* out) {
  const size_t groups = shape.groups(), row_bytes = shape.width * shape.bits / 8;
  const size_t zero_point_bytes = (groups * shape.bits + 7) / 8;
  for (size_t tile = begin; tile < end; ++tile) {
    uint8_t* to = out + tile * shape.tile_bytes();
    std::memset(to, 0, shape.tile_bytes());
    const size_t first = tile * kTileRows, left = shape.rows - first, count = left < kTileRows ? left : kTileRows;
    for (size_t group = 0; group < groups; ++group) {
      const Place place = place_of(shape, group);
      for (size_t r = 0; r < count; ++r) {
        const size_t row = first + r;
        pack_codes(shape, from.codes + row * row_bytes + group * shape.group * shape.bits / 8, to + place.codes + 4 * r);
        put_scale(shape, from.scales[row * groups + group], to + place.scales + r * shape.scale_bytes());
        if (from.zero_points == nullptr) continue;
        const uint8_t* points = from.zero_points + row * zero_point_bytes;
        to[place.zero_points + r] =
            shape.bits == 8 ? points[group] : static_cast<uint8_t>(points[group / 2] >> 4 * (group % 2) & 15);
      }
    }
  }
}

}  // namespace q3edge
