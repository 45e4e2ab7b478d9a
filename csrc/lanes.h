// Sixteen floats that advance together: one register of AVX-512, two of AVX, four of 128 bits; and masks over them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE4_2__)
#include <immintrin.h>
#endif

constexpr int64_t LANES = 16;

// A part is what one register holds. Neither NaN nor the order of 0 and -0 matters to what uses these.
#if defined(__AVX512F__)
using Part = __m512;
using PartMask = __mmask16;
inline Part larger(Part a, Part b) { return _mm512_max_ps(a, b); }
inline Part smaller(Part a, Part b) { return _mm512_min_ps(a, b); }
inline PartMask at_least(Part a, Part b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline PartMask above(Part a, Part b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline PartMask equal(Part a, Part b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Part select(PartMask m, Part a, Part b) { return _mm512_mask_blend_ps(m, b, a); }
inline Part add_where(PartMask m, Part a, Part b) { return _mm512_mask_add_ps(a, m, a, b); }
inline Part multiply_add(Part a, Part b, Part c) { return _mm512_fmadd_ps(a, b, c); }
inline bool any(PartMask m) { return m != 0; }
#elif defined(__AVX2__)
using Part = __m256;
typedef int32_t PartMask __attribute__((vector_size(32)));
inline Part larger(Part a, Part b) { return _mm256_max_ps(a, b); }
inline Part smaller(Part a, Part b) { return _mm256_min_ps(a, b); }
inline PartMask at_least(Part a, Part b) { return (PartMask)_mm256_cmp_ps(a, b, _CMP_GE_OQ); }
inline PartMask above(Part a, Part b) { return (PartMask)_mm256_cmp_ps(a, b, _CMP_GT_OQ); }
inline PartMask equal(Part a, Part b) { return (PartMask)_mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline Part select(PartMask m, Part a, Part b) { return _mm256_blendv_ps(b, a, (Part)m); }
inline Part add_where(PartMask m, Part a, Part b) { return a + (Part)((PartMask)b & m); }
inline Part multiply_add(Part a, Part b, Part c) { return _mm256_fmadd_ps(a, b, c); }
inline bool any(PartMask m) { return _mm256_movemask_ps((Part)m) != 0; }
#else
typedef float Part __attribute__((vector_size(16)));
typedef int32_t PartMask __attribute__((vector_size(16)));
inline PartMask at_least(Part a, Part b) { return a >= b; }
inline PartMask above(Part a, Part b) { return a > b; }
inline PartMask equal(Part a, Part b) { return a == b; }
inline Part add_where(PartMask m, Part a, Part b) { return a + (Part)((PartMask)b & m); }
inline Part multiply_add(Part a, Part b, Part c) { return a * b + c; }
#if defined(__SSE4_2__)
inline Part larger(Part a, Part b) { return _mm_max_ps(a, b); }
inline Part smaller(Part a, Part b) { return _mm_min_ps(a, b); }
inline Part select(PartMask m, Part a, Part b) { return _mm_blendv_ps(b, a, (Part)m); }
inline bool any(PartMask m) { return _mm_movemask_ps((Part)m) != 0; }
#else
inline Part select(PartMask m, Part a, Part b) { return (Part)(((PartMask)a & m) | ((PartMask)b & ~m)); }
inline Part larger(Part a, Part b) { return select(a > b, a, b); }
inline Part smaller(Part a, Part b) { return select(a > b, b, a); }
inline bool any(PartMask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
#endif
#endif

constexpr int PARTS = LANES * sizeof(float) / sizeof(Part);

struct Mask {
    PartMask part[PARTS];
};

struct Floats {
    Part part[PARTS];
};

// result.part[i] = EXPRESSION of i, for every part
#define BY_PARTS(Type, EXPRESSION)                             \
    {                                                          \
        Type result;                                           \
        _Pragma("GCC unroll 4") for (int i = 0; i < PARTS; i++) result.part[i] = EXPRESSION; \
        return result;                                         \
    }

inline Floats every(float value) BY_PARTS(Floats, Part{} + value)
inline Floats operator+(Floats a, Floats b) BY_PARTS(Floats, a.part[i] + b.part[i])
inline Floats operator-(Floats a, Floats b) BY_PARTS(Floats, a.part[i] - b.part[i])
inline Floats operator*(Floats a, Floats b) BY_PARTS(Floats, a.part[i] * b.part[i])
inline Floats operator/(Floats a, Floats b) BY_PARTS(Floats, a.part[i] / b.part[i])
inline Floats larger(Floats a, Floats b) BY_PARTS(Floats, larger(a.part[i], b.part[i]))
inline Floats smaller(Floats a, Floats b) BY_PARTS(Floats, smaller(a.part[i], b.part[i]))
inline Floats select(Mask m, Floats a, Floats b) BY_PARTS(Floats, select(m.part[i], a.part[i], b.part[i]))
inline Floats add_where(Mask m, Floats a, Floats b) BY_PARTS(Floats, add_where(m.part[i], a.part[i], b.part[i]))
inline Floats multiply_add(Floats a, Floats b, Floats c) BY_PARTS(Floats, multiply_add(a.part[i], b.part[i], c.part[i]))
inline Mask operator>=(Floats a, Floats b) BY_PARTS(Mask, at_least(a.part[i], b.part[i]))
inline Mask operator>(Floats a, Floats b) BY_PARTS(Mask, above(a.part[i], b.part[i]))
inline Mask operator==(Floats a, Floats b) BY_PARTS(Mask, equal(a.part[i], b.part[i]))
inline Mask operator|(Mask a, Mask b) BY_PARTS(Mask, static_cast<PartMask>(a.part[i] | b.part[i]))
inline Mask operator&(Mask a, Mask b) BY_PARTS(Mask, static_cast<PartMask>(a.part[i] & b.part[i]))
inline Mask operator~(Mask a) BY_PARTS(Mask, static_cast<PartMask>(~a.part[i]))
#undef BY_PARTS

inline bool any(Mask m) {
    PartMask some = m.part[0];
    for (int i = 1; i < PARTS; i++) some |= m.part[i];
    return any(some);
}

inline float lane(const Floats& values, int64_t at) {
    float value;
    std::memcpy(&value, reinterpret_cast<const char*>(&values) + at * sizeof value, sizeof value);
    return value;
}

inline void set_lane(Floats& values, int64_t at, float value) {
    std::memcpy(reinterpret_cast<char*>(&values) + at * sizeof value, &value, sizeof value);
}
