// Work on some lanes only: those that a mask marks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"

// For every mask over a part: the lanes that it marks, in order.
template <int masks> struct Fronts {
    alignas(16) uint8_t lane[masks][8]{};

    constexpr Fronts() {
        for (int m = 0; m < masks; m++)
            for (int b = 0, place = 0; b < 8; b++)
                if (m >> b & 1) lane[m][place++] = static_cast<uint8_t>(b);
    }
};

// Moves the lanes that the mask marks to the front, in order. What stands behind them has no meaning.
#if defined(__AVX512F__)
inline Part to_front(PartMask m, Part values) {
    // The result goes into the register of the input. With another register, some processors wait for its old content.
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

// Writes the lanes that the mask marks, in order, and returns how many they are. It always writes a whole register.
inline int64_t append(PartMask m, Part values, float* to) {
    store_part(to_front(m, values), to);
    return __builtin_popcount(bits(m));
}

inline int64_t append(Mask m, Floats values, float* to) {
    int64_t number = 0;
    for (int i = 0; i < PARTS; i++) number += append(m.part[i], values.part[i], to + number);
    return number;
}

// Stands for all lanes.
struct All {
    static constexpr int parts = PARTS;
    const Floats& of(const Floats& values) const { return values; }
    int64_t operator[](int64_t n) const { return n; }
};

// The lanes that a mask marks, where one register can hold them. The register's other places show a lane that is not marked.
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
