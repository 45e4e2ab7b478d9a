// From rows to lanes and back: squares of numbers are transposed. And sums over lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.h"

typedef float Four __attribute__((vector_size(16)));

inline void transpose(Four& a, Four& b, Four& c, Four& d) {
    // Written out by element: compilers name shuffles differently, but all find the right instructions for this.
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

// Four sums, each over every fourth lane.
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
// Transposes a 16 x 16 square: first pairs of numbers, then groups of four, then whole groups between registers.
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
// The same for an 8 x 8 square.
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

// tile[i] = the i-th number of each row, one row a lane; a row begins `stride` numbers after the one before.
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
