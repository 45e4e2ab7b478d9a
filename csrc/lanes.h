// A group of floats that are computed together, and masks over them: 32 floats with AVX-512 (two registers), 16 elsewhere (two
// registers of AVX, or four of 128 bits).
#pragma once

#include <cstdint>
#include <cstring>

#include "parts.h"

// Copied part by part, so that a copy stays in registers. Compilers copy a whole struct through memory, and later loads wait for it.
#define COPIED_BY_PARTS(Type, Its)                                                                       \
    template <int parts> struct Type {                                                                   \
        Its part[parts];                                                                                 \
        Type() = default;                                                                                \
        ALWAYS_INLINE Type(const Type& other) { *this = other; }                                         \
        ALWAYS_INLINE Type& operator=(const Type& other) {                                               \
            _Pragma("GCC unroll 4") for (int i = 0; i < parts; i++) part[i] = other.part[i];             \
            return *this;                                                                                \
        }                                                                                                \
    };
COPIED_BY_PARTS(MaskOf, PartMask)
COPIED_BY_PARTS(FloatsOf, Part)

// Whole numbers that stand for floats where only the order counts: processors compare them faster than floats.
typedef int32_t Whole __attribute__((vector_size(sizeof(Part))));
inline Whole larger(Whole a, Whole b) { return a > b ? a : b; }
inline Whole smaller(Whole a, Whole b) { return a > b ? b : a; }

COPIED_BY_PARTS(WholesOf, Whole)
#undef COPIED_BY_PARTS

// All lanes of a tile.
using Mask = MaskOf<PARTS>;
using Floats = FloatsOf<PARTS>;
using Wholes = WholesOf<PARTS>;

// result.part[i] = EXPRESSION of i, for every part
#define BY_PARTS(Type, EXPRESSION)                                                           \
    {                                                                                        \
        Type<parts> result;                                                                  \
        _Pragma("GCC unroll 4") for (int i = 0; i < parts; i++) result.part[i] = EXPRESSION; \
        return result;                                                                       \
    }
#define OF_PARTS template <int parts> inline

template <int parts = PARTS> inline FloatsOf<parts> every(float value) BY_PARTS(FloatsOf, all_lanes(value))
OF_PARTS FloatsOf<parts> operator+(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(FloatsOf, a.part[i] + b.part[i])
OF_PARTS FloatsOf<parts> operator-(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(FloatsOf, a.part[i] - b.part[i])
OF_PARTS FloatsOf<parts> operator*(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(FloatsOf, a.part[i] * b.part[i])
OF_PARTS FloatsOf<parts> operator/(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(FloatsOf, a.part[i] / b.part[i])
OF_PARTS FloatsOf<parts> larger(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(FloatsOf, larger(a.part[i], b.part[i]))
OF_PARTS FloatsOf<parts> smaller(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(FloatsOf, smaller(a.part[i], b.part[i]))
OF_PARTS FloatsOf<parts> select(MaskOf<parts> m, FloatsOf<parts> a, FloatsOf<parts> b)
    BY_PARTS(FloatsOf, select(m.part[i], a.part[i], b.part[i]))
OF_PARTS FloatsOf<parts> add_where(MaskOf<parts> m, FloatsOf<parts> a, FloatsOf<parts> b)
    BY_PARTS(FloatsOf, add_where(m.part[i], a.part[i], b.part[i]))
OF_PARTS FloatsOf<parts> multiply_add(FloatsOf<parts> a, FloatsOf<parts> b, FloatsOf<parts> c)
    BY_PARTS(FloatsOf, multiply_add(a.part[i], b.part[i], c.part[i]))
OF_PARTS MaskOf<parts> operator>=(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(MaskOf, at_least(a.part[i], b.part[i]))
OF_PARTS MaskOf<parts> operator>(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(MaskOf, above(a.part[i], b.part[i]))
OF_PARTS MaskOf<parts> operator==(FloatsOf<parts> a, FloatsOf<parts> b) BY_PARTS(MaskOf, equal(a.part[i], b.part[i]))
OF_PARTS MaskOf<parts> operator|(MaskOf<parts> a, MaskOf<parts> b) BY_PARTS(MaskOf, static_cast<PartMask>(a.part[i] | b.part[i]))
OF_PARTS MaskOf<parts> operator&(MaskOf<parts> a, MaskOf<parts> b) BY_PARTS(MaskOf, static_cast<PartMask>(a.part[i] & b.part[i]))
OF_PARTS MaskOf<parts> operator~(MaskOf<parts> a) BY_PARTS(MaskOf, static_cast<PartMask>(~a.part[i]))
OF_PARTS WholesOf<parts> larger(WholesOf<parts> a, WholesOf<parts> b) BY_PARTS(WholesOf, larger(a.part[i], b.part[i]))
OF_PARTS WholesOf<parts> smaller(WholesOf<parts> a, WholesOf<parts> b) BY_PARTS(WholesOf, smaller(a.part[i], b.part[i]))

// Whole numbers in the same order as the floats. They are the floats' bits; under `exactly`, where the order of negative floats
// counts too, the bits of negative floats are reversed, and -0 becomes 0. `value` gives the floats back.
OF_PARTS WholesOf<parts> bits_of(FloatsOf<parts> a) BY_PARTS(WholesOf, (Whole)a.part[i])
OF_PARTS FloatsOf<parts> floats_of(WholesOf<parts> a) BY_PARTS(FloatsOf, (Part)a.part[i])
OF_PARTS WholesOf<parts> turned(WholesOf<parts> a) BY_PARTS(WholesOf, a.part[i] ^ ((a.part[i] >> 31) & 0x7fffffff))
template <bool exactly, int parts> inline WholesOf<parts> key(FloatsOf<parts> a) {
    return exactly ? turned(bits_of(a + every<parts>(0))) : bits_of(a);
}
template <bool exactly, int parts> inline FloatsOf<parts> value(WholesOf<parts> a) { return floats_of(exactly ? turned(a) : a); }
OF_PARTS WholesOf<parts> magnitudes(FloatsOf<parts> a) BY_PARTS(WholesOf, (Whole)a.part[i] & 0x7fffffff)
OF_PARTS WholesOf<parts> middle(WholesOf<parts> a, WholesOf<parts> b)
    BY_PARTS(WholesOf, (a.part[i] & b.part[i]) + ((a.part[i] ^ b.part[i]) >> 1))
template <int below, int parts> inline WholesOf<parts> upper_bits(WholesOf<parts> a) BY_PARTS(WholesOf, a.part[i] >> below)
OF_PARTS WholesOf<parts> operator|(WholesOf<parts> a, WholesOf<parts> b) BY_PARTS(WholesOf, a.part[i] | b.part[i])
OF_PARTS WholesOf<parts> operator&(WholesOf<parts> a, WholesOf<parts> b) BY_PARTS(WholesOf, a.part[i] & b.part[i])
OF_PARTS WholesOf<parts> operator+(WholesOf<parts> a, WholesOf<parts> b) BY_PARTS(WholesOf, a.part[i] + b.part[i])
OF_PARTS WholesOf<parts> operator-(WholesOf<parts> a, WholesOf<parts> b) BY_PARTS(WholesOf, a.part[i] - b.part[i])
template <int parts = PARTS> inline WholesOf<parts> every_whole(int32_t value) BY_PARTS(WholesOf, Whole{} + value)
#undef OF_PARTS
#undef BY_PARTS

template <int parts> inline bool any(MaskOf<parts> m) {
    PartMask some = m.part[0];
    for (int i = 1; i < parts; i++) some |= m.part[i];
    return any(some);
}

// Bit b stands for lane b.
template <int parts> inline uint32_t bits(MaskOf<parts> m) {
    uint32_t all = 0;
    for (int i = 0; i < parts; i++) all |= bits(m.part[i]) << (i * WIDTH);
    return all;
}

inline float lane(const Floats& values, int64_t at) {
    float value;
    std::memcpy(&value, reinterpret_cast<const char*>(&values) + at * sizeof value, sizeof value);
    return value;
}

template <int parts> inline int32_t lane(const WholesOf<parts>& values, int64_t at) {
    int32_t value;
    std::memcpy(&value, reinterpret_cast<const char*>(&values) + at * sizeof value, sizeof value);
    return value;
}

inline void set_lane(Floats& values, int64_t at, float value) {
    std::memcpy(reinterpret_cast<char*>(&values) + at * sizeof value, &value, sizeof value);
}

// first, first + 1, ...: one in each lane
inline Wholes from(int32_t first) {
    Wholes values;
    for (int32_t n = 0; n < LANES; n++) {
        const int32_t value = first + n;
        std::memcpy(reinterpret_cast<char*>(&values) + n * sizeof value, &value, sizeof value);
    }
    return values;
}

inline Floats load(const float* from) {
    Floats values;
    for (int i = 0; i < PARTS; i++) values.part[i] = load_part(from + i * WIDTH);
    return values;
}

inline void store(const Floats& values, float* to) {
    for (int i = 0; i < PARTS; i++) store_part(values.part[i], to + i * WIDTH);
}

// Loads the first `number` lanes; the others get `rest`.
inline Floats load(const float* from, int64_t number, float rest) {
    Floats values = every(rest);
    std::memcpy(reinterpret_cast<float*>(&values), from, number * sizeof *from);
    return values;
}
