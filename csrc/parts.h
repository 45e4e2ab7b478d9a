// What one register holds: 16 floats of AVX-512, 8 of AVX, 4 elsewhere; and masks over them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE4_2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int64_t LANES = 32;  // each weight is read once for more inputs, and the 32 registers suffice
#else
constexpr int64_t LANES = 16;
#endif

// What is sorted stays in registers only if the loops around it are compiled as one function.
#define INLINED __attribute__((always_inline))
#define ALWAYS_INLINE INLINED inline

// A part is what one register holds. The code that uses these works for any treatment of NaN, and for any order of 0 and -0.
#if defined(__AVX512F__)
using Part = __m512;
using PartMask = __mmask16;
inline Part all_lanes(float value) { return _mm512_set1_ps(value); }
inline Part larger(Part a, Part b) { return _mm512_max_ps(a, b); }
inline Part smaller(Part a, Part b) { return _mm512_min_ps(a, b); }
inline PartMask at_least(Part a, Part b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline PartMask above(Part a, Part b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline PartMask equal(Part a, Part b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Part select(PartMask m, Part a, Part b) { return _mm512_mask_blend_ps(m, b, a); }
inline Part add_where(PartMask m, Part a, Part b) { return _mm512_mask_add_ps(a, m, a, b); }
inline Part multiply_add(Part a, Part b, Part c) { return _mm512_fmadd_ps(a, b, c); }
inline Part multiply_add_where(PartMask m, Part a, Part b, Part c) { return _mm512_mask3_fmadd_ps(a, b, c, m); }
inline bool any(PartMask m) { return m != 0; }
inline uint32_t bits(PartMask m) { return m; }
#elif defined(__AVX2__)
using Part = __m256;
typedef int32_t PartMask __attribute__((vector_size(32)));
inline Part all_lanes(float value) { return _mm256_set1_ps(value); }
inline Part larger(Part a, Part b) { return _mm256_max_ps(a, b); }
inline Part smaller(Part a, Part b) { return _mm256_min_ps(a, b); }
inline PartMask at_least(Part a, Part b) { return (PartMask)_mm256_cmp_ps(a, b, _CMP_GE_OQ); }
inline PartMask above(Part a, Part b) { return (PartMask)_mm256_cmp_ps(a, b, _CMP_GT_OQ); }
inline PartMask equal(Part a, Part b) { return (PartMask)_mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline Part select(PartMask m, Part a, Part b) { return _mm256_blendv_ps(b, a, (Part)m); }
inline Part where(PartMask m, Part a) { return (Part)((PartMask)a & m); }
inline Part add_where(PartMask m, Part a, Part b) { return a + where(m, b); }
inline Part multiply_add(Part a, Part b, Part c) { return _mm256_fmadd_ps(a, b, c); }
inline Part multiply_add_where(PartMask m, Part a, Part b, Part c) { return _mm256_fmadd_ps(where(m, a), where(m, b), c); }
inline uint32_t bits(PartMask m) { return static_cast<uint32_t>(_mm256_movemask_ps((Part)m)); }
inline bool any(PartMask m) { return bits(m) != 0; }
#else
typedef float Part __attribute__((vector_size(16)));
typedef int32_t PartMask __attribute__((vector_size(16)));
inline Part all_lanes(float value) { return Part{value, value, value, value}; }
inline PartMask at_least(Part a, Part b) { return a >= b; }
inline PartMask above(Part a, Part b) { return a > b; }
inline PartMask equal(Part a, Part b) { return a == b; }
inline Part add_where(PartMask m, Part a, Part b) { return a + (Part)((PartMask)b & m); }
inline Part multiply_add(Part a, Part b, Part c) { return a * b + c; }
inline Part multiply_add_where(PartMask m, Part a, Part b, Part c) { return add_where(m, c, a * b); }
#if defined(__SSE4_2__)
inline Part larger(Part a, Part b) { return _mm_max_ps(a, b); }
inline Part smaller(Part a, Part b) { return _mm_min_ps(a, b); }
inline Part select(PartMask m, Part a, Part b) { return _mm_blendv_ps(b, a, (Part)m); }
inline uint32_t bits(PartMask m) { return static_cast<uint32_t>(_mm_movemask_ps((Part)m)); }
#else
inline Part select(PartMask m, Part a, Part b) { return (Part)(((PartMask)a & m) | ((PartMask)b & ~m)); }
inline Part larger(Part a, Part b) { return select(a > b, a, b); }
inline Part smaller(Part a, Part b) { return select(a > b, b, a); }
inline uint32_t bits(PartMask m) { return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8); }
#endif
inline bool any(PartMask m) { return bits(m) != 0; }
#endif

constexpr int PARTS = LANES * sizeof(float) / sizeof(Part);
constexpr int WIDTH = LANES / PARTS;

inline Part load_part(const float* from) {
    Part part;
    std::memcpy(&part, from, sizeof part);
    return part;
}

inline void store_part(Part part, float* to) { std::memcpy(to, &part, sizeof part); }

// Loads the first `number` floats of a register; the others get `rest`.
inline Part load_part(const float* from, int64_t number, float rest) {
    Part part = all_lanes(rest);
    std::memcpy(&part, from, number * sizeof *from);
    return part;
}
