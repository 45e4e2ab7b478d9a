// What a call is given, and what tiles and rows both need.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "lanes.h"
#include "order.h"

constexpr float TINY = std::numeric_limits<float>::denorm_min();
constexpr float LOWEST = -std::numeric_limits<float>::infinity();
constexpr int64_t SMALL = 1 << 21;  // with fewer products than this a second thread costs more than it saves

struct Problem {
    const float *x, *w;
    const uint8_t* mask;  // (O, M), 0 where a connection is pruned and may not be routed; or null
    int64_t B, O, M, K, threads;

    int64_t tiles() const { return (B + LANES - 1) / LANES; }
    int64_t lanes(int64_t t) const { return std::min(LANES, B - t * LANES); }
    const float* input(int64_t b) const { return x + b * M; }
    Row row(int64_t c) const { return {w + c * M, mask ? mask + c * M : nullptr, M}; }
};

// A product is routed only if it is above this. Under `exactly` every product is.
constexpr float floor_of(bool exactly) { return exactly ? LOWEST : 0; }

// Stands in place of the last indices of a tile: what else it routes, besides the certain weights, changes no sum. The backward pass
// finds it.
constexpr int32_t LATER = -3;

// What a tile of inputs routes of a class: the sums, the K-th products, and the last index that is routed among the products equal to
// the K-th (M: all of them are).
struct Found {
    Floats sum, tau;
    int32_t last[LANES];
};

// The index of the `wanted`-th product that is equal to tau. Among equal products the lowest indices are routed.
inline int32_t last_index(const Problem& problem, int64_t c, int64_t b, float tau, int64_t wanted) {
    const Row row = problem.row(c);
    const float* x = problem.input(b);
    for (int64_t i = 0; i < row.M; i++)
        if (row.may_route(i) && x[i] * row.weight[i] == tau && --wanted == 0) return static_cast<int32_t>(i);
    return -1;
}

// Puts a product in its place among the sorted keys, from place k on, and returns the one that falls out at the end.
template <int k, int K, int parts> ALWAYS_INLINE WholesOf<parts> sift(WholesOf<parts> (&keys)[K], WholesOf<parts> product) {
    if constexpr (k == K) return product;
    else {
        const auto kept = larger(product, keys[k]), rest = smaller(product, keys[k]);
        keys[k] = kept;
        return sift<k + 1>(keys, rest);
    }
}
