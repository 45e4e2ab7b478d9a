// The Dynamic-K sum and its gradients on a CPU (Algorithm 2; docs/definitions.md, "Dynamic-K"), without the B*O*M products.
//
// There are two ways. Tiles (tiles.h) serve small K, and weights most of which have decayed; rows (rows.h) serve all else. For each
// output only two numbers are kept: its K-th largest product (tau), and the last index that is routed among the products equal to
// tau. From these the backward pass finds the routed set again. Where a number is not finite, or a sum could overflow, the call
// returns NOT_SERVED, and the caller computes it another way.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "lanes.h"
#include "order.h"
#include "problem.h"
#include "rows.h"
#include "threads.h"
#include "tiles.h"
namespace {

constexpr int64_t BLOCK = 16;         // classes that are computed for a tile of inputs while it is in the cache
constexpr int64_t SMALL_K = 12;       // up to this K, tiles serve all classes
constexpr int64_t DENSE = 8;          // K is a large part of M if it is at least M / DENSE
constexpr int64_t LOOKED_AT = 8;      // so many classes are tested to see whether weights have decayed
enum Outcome { DONE = 0, OUT_OF_MEMORY = 1, NOT_SERVED = 2 };
constexpr int32_t PLAIN = -2;  // stands in place of a last index where the forward pass was not served

// The outputs of a block of classes for one tile, in lanes. The caller has them in rows, (B, O).
struct Outputs {
    Floats of[BLOCK];

    void write(const Problem& problem, int64_t t, int64_t start, int64_t end, float* y_BO) const {
        lanes_to_rows(of, end - start, problem.lanes(t), y_BO + t * LANES * problem.O + start, problem.O);
    }

    void read(const Problem& problem, int64_t t, int64_t start, int64_t end, const float* gy_BO) {
        rows_to_lanes(gy_BO + t * LANES * problem.O + start, problem.O, end - start, problem.lanes(t), of);
    }
};

// Whether every sum of K products of a class stays finite. False if a number is not finite.
bool sums_stay_finite(const Problem& problem, int64_t c, double peak) {
    const double most = largest_magnitude(problem.row(c).weight, problem.M) * peak * static_cast<double>(problem.K);
    return most <= static_cast<double>(std::numeric_limits<float>::max());
}

// Where the forward pass writes its results: the sums (B, O), with the bias (O,) added unless it is null; the K-th products and the last
// indices (O, B), both null if no backward pass follows.
struct Results {
    const float* bias;
    float *y_BO, *tau_OB;
    int32_t* last_OB;

    // Writes what the backward pass needs of an output, and returns the output.
    Floats keep(const Problem& problem, int64_t c, int64_t t, const Found& found) const {
        const int64_t at = c * problem.B + t * LANES;
        if (const int64_t lanes = problem.lanes(t); tau_OB && lanes < LANES) {
            std::memcpy(tau_OB + at, &found.tau, lanes * sizeof(float));
            std::memcpy(last_OB + at, found.last, lanes * sizeof(int32_t));
        } else if (tau_OB) {
            store(found.tau, tau_OB + at);
            std::memcpy(last_OB + at, found.last, sizeof found.last);
        }
        return bias ? found.sum + every(bias[c]) : found.sum;
    }
};

// Where a large part of each row is routed, the backward pass is faster by rows, whichever way served the forward pass.
bool backward_takes_rows(const Problem& problem) { return problem.K > SMALL_K && problem.K * DENSE >= problem.M; }

// By tiles. A class that has many weights of about the same size goes by rows all the same if K is large.
template <bool exactly> int forward_by_tiles(const Problem& problem, const Results& results) {
    const tiles::Tiles tiles(problem);
    const bool both = exactly || tiles.some_negative();
    const double peak = tiles.peak();
    if (!std::isfinite(peak)) return NOT_SERVED;
    const int64_t later = !results.tau_OB ? problem.K : backward_takes_rows(problem) ? tiles::NEVER : tiles::SOUGHT;
    std::atomic<bool> finite{true};
    split(problem.O, problem.threads, [&](int64_t, int64_t first, int64_t last) {
        std::vector<Class> block(BLOCK);
        Picked picked(problem.M);
        std::unique_ptr<rows::Search<exactly>> search;
        rows::Weights weights(problem, 1);
        Outputs y;
        for (int64_t start = first; start < last; start += BLOCK) {
            const int64_t end = std::min(start + BLOCK, last);
            for (int64_t c = start; c < end; c++) {
                if (!sums_stay_finite(problem, c, peak)) finite = false;
                block[c - start].start(problem.row(c), both, exactly, picked);
                if (finite && !both) block[c - start].find_gap(problem.K);
            }
            if (!finite) return;
            for (int64_t t = 0; t < tiles.count; t++) {
                for (int64_t c = start; c < end; c++) {
                    Found found;
                    if (!tiles::find<exactly>(problem, block[c - start], tiles, c, t, later, found)) {
                        if (!search) search = std::make_unique<rows::Search<exactly>>(problem, 1);
                        const float* w = weights.of(c, 0);
                        search->find(c, 1, &w, t, [&](int64_t, const Found& by_rows) { found = by_rows; });
                    }
                    y.of[c - start] = results.keep(problem, c, t, found);
                }
                y.write(problem, t, start, end, results.y_BO);
            }
        }
    });
    return finite ? DONE : NOT_SERVED;
}

// By rows, which form all products: for large K.
template <bool exactly> int forward_by_rows(const Problem& problem, const Results& results) {
    const double peak = largest_magnitude(problem.x, problem.B * problem.M);
    if (!std::isfinite(peak)) return NOT_SERVED;
    std::atomic<bool> finite{true};
    split(problem.O, problem.threads, [&](int64_t, int64_t first, int64_t last) {
        rows::Search<exactly> search(problem, rows::TOGETHER);
        rows::Weights weights(problem, BLOCK);
        const float* w[BLOCK];
        Outputs y;
        for (int64_t start = first; start < last; start += BLOCK) {
            const int64_t end = std::min(start + BLOCK, last);
            for (int64_t c = start; c < end; c++) {
                if (!sums_stay_finite(problem, c, peak)) finite = false;
                w[c - start] = weights.of(c, c - start);
            }
            if (!finite) return;
            for (int64_t t = 0; t < problem.tiles(); t++) {
                for (int64_t c = start; c < end; c += rows::TOGETHER)
                    search.find(c, std::min(rows::TOGETHER, end - c), &w[c - start], t, [&](int64_t n, const Found& found) {
                        y.of[c - start + n] = results.keep(problem, c + n, t, found);
                    });
                y.write(problem, t, start, end, results.y_BO);
            }
        }
    });
    return finite ? DONE : NOT_SERVED;
}

// Each thread's gradients of the inputs, in lanes, and their sum. The first thread writes its own straight into the result if they fit.
class Parts {
public:
    Parts(const Problem& problem, int64_t threads, float* gx)
        : problem(problem), gx(gx), size(problem.tiles() * problem.M),
          fits(gx && problem.B % LANES == 0 && reinterpret_cast<uintptr_t>(gx) % alignof(Floats) == 0), part(threads),
          own((threads - fits) * size) {
        for (int64_t thread = 0; thread < threads; thread++)
            part[thread] = fits && thread == 0 ? reinterpret_cast<Floats*>(gx) : own.get() + (thread - fits) * size;
    }

    Floats* start(int64_t thread) {
        std::fill_n(part[thread], size, every(0));
        return part[thread];
    }

    void write_sum() {
        const int64_t M = problem.M;
        split(problem.tiles(), problem.threads, [&](int64_t, int64_t first, int64_t last) {
            const auto sum = unfilled<Floats>(M);
            for (int64_t t = first; t < last; t++) {
                std::copy_n(part[0] + t * M, M, sum.get());
                for (size_t thread = 1; thread < part.size(); thread++)
                    for (int64_t i = 0; i < M; i++) sum[i] = sum[i] + part[thread][t * M + i];
                lanes_to_rows(sum.get(), M, problem.lanes(t), gx + t * LANES * M, M);
            }
        });
    }

private:
    const Problem& problem;
    float* gx;
    const int64_t size;
    const bool fits;
    std::vector<Floats*> part;
    Space<1> own;
};

template <bool exactly>
void backward_by_tiles(const Problem& problem, const float* gy_BO, const float* tau_OB, const int32_t* last_OB, float* gx, float* gw) {
    const int64_t threads = std::min(problem.threads, problem.O), M = problem.M;
    const tiles::Tiles tiles(problem);
    const bool both = exactly || tiles.some_negative();
    Parts parts(problem, threads, gx);
    split(problem.O, threads, [&](int64_t part, int64_t first, int64_t last) {
        std::vector<Class> block(BLOCK);
        Picked picked(problem.M);
        Floats* of_x = parts.start(part);
        Outputs gy;
        for (int64_t start = first; start < last; start += BLOCK) {
            const int64_t end = std::min(start + BLOCK, last);
            for (int64_t c = start; c < end; c++) {
                block[c - start].start(problem.row(c), both, exactly, picked);
                if (!both) block[c - start].find_gap(problem.K);
            }
            for (int64_t t = 0; t < tiles.count; t++) {
                gy.read(problem, t, start, end, gy_BO);
                for (int64_t c = start; c < end; c++) {
                    Class& its = block[c - start];
                    tiles::add_gradients<exactly>(problem, its, tiles, c, t, tau_OB, last_OB, gy.of[c - start], of_x + t * M);
                }
            }
            for (int64_t c = start; gw && c < end; c++) {
                std::fill_n(gw + c * M, M, 0.0f);
                Class& its = block[c - start];
                for (List* list : {&its.positive, &its.negative, &its.zero})
                    for (int64_t j = 0; j < list->count; j++) gw[c * M + list->index[j]] = list->gradient[j];
            }
        }
    });
    if (gx) parts.write_sum();
}

// No two threads write to the same place: in each round every thread has inputs and classes of its own.
void backward_by_rows(const Problem& problem, bool exactly, const float* gy_BO, const float* tau_OB, const int32_t* last_OB, float* gx, float* gw) {
    const int64_t parts = std::min(problem.threads, std::min(problem.B, problem.O)), B = problem.B, O = problem.O, M = problem.M;
    for (int64_t round = 0; round < parts; round++)
        split(parts, parts, [&](int64_t part, int64_t, int64_t) {
            const int64_t other = (part + round) % parts;
            const int64_t first_b = B * other / parts, last_b = B * (other + 1) / parts;
            const int64_t first_c = O * part / parts, last_c = O * (part + 1) / parts;
            if (gx && round == 0) std::fill(gx + first_b * M, gx + last_b * M, 0.0f);
            if (gw && round == 0) std::fill(gw + first_c * M, gw + last_c * M, 0.0f);
            rows::Gradients(problem, exactly, gy_BO, tau_OB, last_OB, gx, gw).add(first_b, last_b, first_c, last_c);
        });
}

// Tiles serve small K. They serve large K too if most classes keep at most K weights and the others have decayed; a few classes are tested.
bool takes_tiles(const Problem& problem, bool exactly) {
    if (problem.K <= SMALL_K || exactly) return problem.K <= SMALL_K;
    Class its;
    Picked picked(problem.M);
    int64_t kept = 0;
    for (int64_t n = 0; n < LOOKED_AT; n++) {
        its.start(problem.row(problem.O * n / LOOKED_AT), false, false, picked);
        its.find_gap(problem.K);
        kept += its.certain > 0;
    }
    return 2 * kept > LOOKED_AT;
}

}  // namespace

// All arrays are dense: x (B, M), w (O, M), y and gy (B, O), tau and last (O, B), gx (B, M), gw (O, M), mask (O, M), bias (O,). These may
// be null: mask and bias; both tau and last, if no backward pass follows; gx and gw, if they are not wanted.
// Only these functions are visible from outside. A process may load libraries of several levels, and each must use its own functions.
#pragma GCC visibility push(default)
extern "C" {

// Takes GOMP_parallel of the OpenMP library that PyTorch uses; null: the kernel starts its own threads.
void dynamick_set_parallel(Parallel parallel) { openmp = parallel; }

int dynamick_forward(const float* x, const float* w, const uint8_t* mask, int64_t B, int64_t O, int64_t M, int64_t K, int exactly,
                     int64_t threads, const float* bias, float* y, float* tau, int32_t* last) {
    try {
        const Problem problem{x, w, mask, B, O, M, std::min(K, M), B * O * M < SMALL ? 1 : threads};
        const Results results{bias, y, tau, last};
        if (takes_tiles(problem, exactly))
            return exactly ? forward_by_tiles<true>(problem, results) : forward_by_tiles<false>(problem, results);
        return exactly ? forward_by_rows<true>(problem, results) : forward_by_rows<false>(problem, results);
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

int dynamick_backward(const float* x, const float* w, const uint8_t* mask, int64_t B, int64_t O, int64_t M, int64_t K, int exactly,
                      int64_t threads, const float* gy, const float* tau, const int32_t* last, float* gx, float* gw) {
    if (*last == PLAIN) return NOT_SERVED;
    try {
        const Problem problem{x, w, mask, B, O, M, std::min(K, M), B * O * M < SMALL ? 1 : threads};
        if (backward_takes_rows(problem) || !takes_tiles(problem, exactly)) backward_by_rows(problem, exactly, gy, tau, last, gx, gw);
        else if (exactly) backward_by_tiles<true>(problem, gy, tau, last, gx, gw);
        else backward_by_tiles<false>(problem, gy, tau, last, gx, gw);
        return DONE;
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

}  // extern "C"
#pragma GCC visibility pop
