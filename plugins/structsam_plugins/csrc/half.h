// fp16 storage with fp32 arithmetic: CUDA's own type on a GPU, its bits on a CPU.
#pragma once

#include "launch.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#else
#include <cstdint>
#include <cstring>
#endif

namespace structsam {

STRUCTSAM_BOTH float to_float(float value) { return value; }

#ifdef __CUDACC__

using Half = __half;

STRUCTSAM_BOTH float to_float(Half value) { return __half2float(value); }

template <class T>
STRUCTSAM_BOTH T rounded(float value) {
    return __float2half_rn(value);
}

#else

struct Half {
    uint16_t bits;
};

inline float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float to_float(Half value) {
    uint32_t const sign = (value.bits & 0x8000u) << 16, rest = value.bits & 0x7fffu;
    if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);  // infinity and NaN
    // With its exponent in fp32's field, a half is 2^112 times too small; fp32 holds every one exactly.
    return from_bits(sign | bits_of(from_bits(rest << 13) * 0x1p112f));
}

template <class T>
inline T rounded(float value) {
    uint32_t const bits = bits_of(value), size = bits & 0x7fffffffu;
    uint16_t const sign = static_cast<uint16_t>((bits & 0x80000000u) >> 16);
    uint32_t half;
    if (size > 0x7f800000u) {  // NaN
        half = 0x7e00u;
    } else if (size >= 0x477ff000u) {  // 65520 and more round to infinity
        half = 0x7c00u;
    } else if (size < 0x38800000u) {  // subnormal: adding 1/2 rounds at 2^-24, half's last place there
        half = bits_of(from_bits(size) + 0.5f) - 0x3f000000u;
    } else {  // to nearest, ties to even
        half = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    }
    return T{static_cast<uint16_t>(sign | half)};
}

#endif

template <>
STRUCTSAM_BOTH float rounded<float>(float value) {
    return value;
}

/// 16 bytes of a row, moved by a thread at once.
template <class T>
struct alignas(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T values[SIZE];
};

}  // namespace structsam
