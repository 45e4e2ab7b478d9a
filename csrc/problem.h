// What a call is given, and what the ways to serve it share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "lanes.h"
#include "order.h"

constexpr float TINY = std::numeric_limits<float>::denorm_min();
constexpr float LOWEST = -std::numeric_limits<float>::infinity();
constexpr int64_t SMALL = 1 << 21;  // products below which a second thread costs more than it brings

struct Problem {
    const float *x, *w;
    const uint8_t* mask;  // (O, M), 0 where a connection is pruned and may not be routed; or null
    int64_t B, O, M, K, threads;

    int64_t tiles() const { return (B + LANES - 1) / LANES; }
    int64_t lanes(int64_t t) const { return std::min(LANES, B - t * LANES); }
    const float* input(int64_t b) const { return x + b * M; }
    Row row(int64_t c) const { return {w + c * M, mask ? mask + c * M : nullptr, M}; }
};

// Where a product does not count, however low: no product is at or below it.
constexpr float floor_of(bool exactly) { return exactly ? LOWEST : 0; }

// In place of the last indices of a tile: what it routes besides the certain changes no sum, and is for the backward pass to find.
constexpr int32_t LATER = -3;

// What a tile of inputs routes of a class: the sums, the K-th products, and the last index routed among their equals (M: all).
struct Found {
    Floats sum, tau;
    int32_t last[LANES];
};

// Among products equal to tau the lowest indices are routed: the last of `wanted` such.
inline int32_t last_index(const Problem& problem, int64_t c, int64_t b, float tau, int64_t wanted) {
    const Row row = problem.row(c);
    const float* x = problem.input(b);
    for (int64_t i = 0; i < row.M; i++)
        if (row.may_route(i) && x[i] * row.weight[i] == tau && --wanted == 0) return static_cast<int32_t>(i);
    return -1;
}

// Puts a product where it belongs among the sorted keys from place k on; returns what falls out behind the last.
template <int k, int K, int parts> ALWAYS_INLINE WholesOf<parts> sift(WholesOf<parts> (&keys)[K], WholesOf<parts> product) {
    if constexpr (k == K) return product;
    else {
        const auto kept = larger(product, keys[k]), rest = smaller(product, keys[k]);
        keys[k] = kept;
        return sift<k + 1>(keys, rest);
    }
}
