// Floats that advance together: 32 in two registers of AVX-512, 16 in two of AVX or four of 128 bits; and masks over them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE4_2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int64_t LANES = 32;  // what is done once for each weight serves more inputs, and all fits into 32 registers
#else
constexpr int64_t LANES = 16;
#endif

// What is sorted stays in registers only where the loops around it are part of the same function.
#define INLINED __attribute__((always_inline))
#define ALWAYS_INLINE INLINED inline

// A part is what one register holds. Neither NaN nor the order of 0 and -0 matters to what uses these.
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

// Copied part by part, from register to register: compilers copy whole structs through memory, in pieces for which loads wait.
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

// Whole numbers, for the order of floats alone: processors order them faster than floats.
typedef int32_t Whole __attribute__((vector_size(sizeof(Part))));
inline Whole larger(Whole a, Whole b) { return a > b ? a : b; }
inline Whole smaller(Whole a, Whole b) { return a > b ? b : a; }

COPIED_BY_PARTS(WholesOf, Whole)
#undef COPIED_BY_PARTS

// Of all lanes of a tile.
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

// Numbers that order as the floats do: their bits, if those below 0 (and -0) need not be told apart, and otherwise with those
// of negative floats turned round (-0 made 0). `value` brings the floats back.
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

// Bit b is lane b's.
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

// first, first + 1, ..., a lane each
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

// The first `number` of what a register holds; `rest` for the others.
inline Part load_part(const float* from, int64_t number, float rest) {
    Part part = all_lanes(rest);
    std::memcpy(&part, from, number * sizeof *from);
    return part;
}

// The same of all lanes.
inline Floats load(const float* from, int64_t number, float rest) {
    Floats values = every(rest);
    std::memcpy(reinterpret_cast<float*>(&values), from, number * sizeof *from);
    return values;
}

// For every mask of a part's lanes, which lanes it has, one behind the other.
template <int masks> struct Fronts {
    alignas(16) uint8_t lane[masks][8]{};

    constexpr Fronts() {
        for (int m = 0; m < masks; m++)
            for (int b = 0, place = 0; b < 8; b++)
                if (m >> b & 1) lane[m][place++] = static_cast<uint8_t>(b);
    }
};

// Those of the mask's lanes one behind the other, and anything behind them.
#if defined(__AVX512F__)
inline Part to_front(PartMask m, Part values) {
    // Into the register that it comes from: into another one, some processors wait for what that held before.
    asm("vcompressps %0, %0 %{%1%}%{z%}" : "+v"(values) : "Yk"(m));
    return values;
}
#elif defined(__AVX2__)
constexpr Fronts<256> FRONTS;

inline Part to_front(PartMask m, Part values) {
    const __m128i from = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(FRONTS.lane[bits(m)]));
    return _mm256_permutevar8x32_ps(values, _mm256_cvtepu8_epi32(from));
}
#else
constexpr Fronts<16> FRONTS;

inline Part to_front(PartMask m, Part values) {
    const uint8_t* from = FRONTS.lane[bits(m)];
    return Part{values[from[0]], values[from[1]], values[from[2]], values[from[3]]};
}
#endif

// Writes those of the mask's lanes one behind the other, and anything to the rest of a register; returns how many they are.
inline int64_t append(PartMask m, Part values, float* to) {
    store_part(to_front(m, values), to);
    return __builtin_popcount(bits(m));
}

inline int64_t append(Mask m, Floats values, float* to) {
    int64_t number = 0;
    for (int i = 0; i < PARTS; i++) number += append(m.part[i], values.part[i], to + number);
    return number;
}

// All lanes.
struct All {
    static constexpr int parts = PARTS;
    const Floats& of(const Floats& values) const { return values; }
    int64_t operator[](int64_t n) const { return n; }
};

// The lanes of a mask that has no more than fit into one register, and in the register's other places a lane that it has not.
class Chosen {
public:
    static constexpr int parts = 1;

    explicit Chosen(Mask m) {
        const int64_t number = append(m, floats_of(from(0)), reinterpret_cast<float*>(lanes));
        std::fill(lanes + number, lanes + WIDTH, __builtin_ctz(~bits(m)));
    }

    FloatsOf<1> of(const Floats& values) const {
        FloatsOf<1> chosen;
#if defined(__AVX512F__)
        chosen.part[0] = _mm512_permutex2var_ps(values.part[0], _mm512_load_si512(lanes), values.part[1]);
#elif defined(__AVX2__)
        const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
        const Part first = _mm256_permutevar8x32_ps(values.part[0], from), second = _mm256_permutevar8x32_ps(values.part[1], from);
        chosen.part[0] = select((Whole)from >= WIDTH, second, first);
#else
        chosen.part[0] = Part{lane(values, lanes[0]), lane(values, lanes[1]), lane(values, lanes[2]), lane(values, lanes[3])};
#endif
        return chosen;
    }

    int64_t operator[](int64_t n) const { return lanes[n]; }

private:
    alignas(Part) int32_t lanes[LANES + WIDTH];
};

typedef float Four __attribute__((vector_size(16)));

inline void transpose(Four& a, Four& b, Four& c, Four& d) {
    // Written out, for compilers have no common name for a shuffle; they find the instructions.
    const Four first{a[0], b[0], c[0], d[0]}, second{a[1], b[1], c[1], d[1]}, third{a[2], b[2], c[2], d[2]};
    d = Four{a[3], b[3], c[3], d[3]};
    a = first;
    b = second;
    c = third;
}

inline Four load_four(const void* from) {
    Four values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

inline float largest_lane(const Floats& values) {
    Four most = load_four(&values);
    for (int64_t b = 4; b < LANES; b += 4) {
        const Four next = load_four(reinterpret_cast<const float*>(&values) + b);
        most = next > most ? next : most;
    }
    const float first = most[0] > most[1] ? most[0] : most[1], last = most[2] > most[3] ? most[2] : most[3];
    return first > last ? first : last;
}

// Four sums, of every fourth lane each.
inline Four quarters(const Floats& values) {
    Part sum = values.part[0];
    for (int i = 1; i < PARTS; i++) sum = sum + values.part[i];
#if defined(__AVX512F__)
    const __m256 half = _mm512_castps512_ps256(sum) + _mm512_extractf32x8_ps(sum, 1);
    return _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
#elif defined(__AVX2__)
    return _mm256_castps256_ps128(sum) + _mm256_extractf128_ps(sum, 1);
#else
    return sum;
#endif
}

// to[n] += the sum over the lanes of values[n]
inline void add_sums(const Floats (&values)[4], float* to) {
    Four a = quarters(values[0]), b = quarters(values[1]), c = quarters(values[2]), d = quarters(values[3]);
    transpose(a, b, c, d);
    const Four sums = load_four(to) + ((a + b) + (c + d));
    std::memcpy(to, &sums, sizeof sums);
}

inline void add_sums(const Floats (&values)[1], float* to) {
    const Four sums = quarters(values[0]);
    *to += (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

#if defined(__AVX512F__)
// Rows of a 16 x 16 square become columns: pairs of numbers first, then fours, then the fours among the registers.
inline void transpose(Part (&v)[16]) {
    Part pairs[16], fours[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        fours[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        fours[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const Part a = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0x88), b = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0xdd);
        const Part c = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0x88);
        const Part d = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// The same of an 8 x 8 square.
inline void transpose(Part (&v)[8]) {
    Part fours[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        const Part a = _mm256_unpacklo_ps(v[i], v[i + 1]), b = _mm256_unpackhi_ps(v[i], v[i + 1]);
        const Part c = _mm256_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
        fours[i] = _mm256_shuffle_ps(a, c, 0x44);
        fours[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        fours[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        fours[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}
#endif

// tile[i] = the i-th number of 16 rows, lane by lane; `stride` numbers lie between the rows.
inline void rows_to_lanes(const float* rows, int64_t stride, int64_t count, int64_t lanes, Floats* tile) {
    int64_t i = 0;
#if defined(__AVX2__)
    for (; lanes == LANES && i + WIDTH <= count; i += WIDTH)
        for (int64_t part = 0; part < PARTS; part++) {
            Part v[WIDTH];
#pragma GCC unroll 16
            for (int64_t b = 0; b < WIDTH; b++) v[b] = load_part(rows + (part * WIDTH + b) * stride + i);
            transpose(v);
#pragma GCC unroll 16
            for (int64_t n = 0; n < WIDTH; n++) tile[i + n].part[part] = v[n];
        }
#endif
    for (; lanes == LANES && i + 4 <= count; i += 4)
        for (int64_t b = 0; b < LANES; b += 4) {
            const float* at = rows + b * stride + i;
            Four v[4] = {load_four(at), load_four(at + stride), load_four(at + 2 * stride), load_four(at + 3 * stride)};
            transpose(v[0], v[1], v[2], v[3]);
            for (int64_t n = 0; n < 4; n++) std::memcpy(reinterpret_cast<float*>(tile + i + n) + b, &v[n], sizeof v[n]);
        }
    for (; i < count; i++) {
        tile[i] = every(0);
        for (int64_t b = 0; b < lanes; b++) set_lane(tile[i], b, rows[b * stride + i]);
    }
}

inline void lanes_to_rows(const Floats* tile, int64_t count, int64_t lanes, float* rows, int64_t stride) {
    int64_t i = 0;
#if defined(__AVX2__)
    for (; lanes == LANES && i + WIDTH <= count; i += WIDTH)
        for (int64_t part = 0; part < PARTS; part++) {
            Part v[WIDTH];
#pragma GCC unroll 16
            for (int64_t n = 0; n < WIDTH; n++) v[n] = tile[i + n].part[part];
            transpose(v);
#pragma GCC unroll 16
            for (int64_t b = 0; b < WIDTH; b++) store_part(v[b], rows + (part * WIDTH + b) * stride + i);
        }
#endif
    for (; lanes == LANES && i + 4 <= count; i += 4)
        for (int64_t b = 0; b < LANES; b += 4) {
            Four v[4];
            for (int64_t n = 0; n < 4; n++) v[n] = load_four(reinterpret_cast<const float*>(tile + i + n) + b);
            transpose(v[0], v[1], v[2], v[3]);
            for (int64_t n = 0; n < 4; n++) std::memcpy(rows + (b + n) * stride + i, &v[n], sizeof v[n]);
        }
    for (; i < count; i++)
        for (int64_t b = 0; b < lanes; b++) rows[b * stride + i] = lane(tile[i], b);
}
