// Rows serve large K. All products of an input and a class are formed, a register of units at a time, in the order of memory.
//
// Forward: a line is drawn a little below the value that the K-th product is expected to have, and the products above it are gathered.
// If they are K or more, the K-th is among them, and is found by counting. Backward: the products are formed again, for four inputs and
// four classes at a time.
#pragma once

#include <memory>
#include <vector>

#include "problem.h"

namespace rows {

constexpr int64_t TOGETHER = 4;         // so many classes are computed together for an input: their weights stay in the cache
constexpr int NEAR = 4;                // so many products below a trial value are found in one pass
constexpr float AIM = 1.5f;            // a trial value is chosen so that about K - AIM products are above it
constexpr float MISSED = 0.01f;        // this part of the lanes may find fewer than K products above the line, and then looks again
constexpr float AGAIN = 0.6f;          // they look again with the line at this part
constexpr float CAUTION = 0.02f;       // how fast the line follows what was found
constexpr float MEMORY = 0.125f;       // the weight of the last class in the expected K-th product
constexpr int64_t QUAD = 4;            // the backward pass takes so many inputs and so many classes at a time, in registers
constexpr int64_t SPAN = 128;          // the backward pass works on so many units before it takes the next inputs

// The weights of some classes, with NaN where a connection is pruned: NaN is never above a line, so it is not routed.
class Weights {
public:
    Weights(const Problem& problem, int64_t classes)
        : problem(problem), copies(unfilled<float>(problem.mask ? classes * problem.M : 0)) {}

    // The weights of class c; a copy of them is kept at this place.
    const float* of(int64_t c, int64_t place) {
        const int64_t M = problem.M;
        const float* w = problem.w + c * M;
        if (!problem.mask) return w;
        float* copy = &copies[place * M];
        for (int64_t i = 0; i < M; i++) copy[i] = problem.mask[c * M + i] ? w[i] : std::numeric_limits<float>::quiet_NaN();
        return copy;
    }

private:
    const Problem& problem;
    std::unique_ptr<float[]> copies;
};

// Gathers the products above a line and returns how many they are. It may write up to a register beyond them.
inline int64_t gather(const float* x, const float* w, int64_t M, float line, float* to) {
    const Part lines = all_lanes(line);
    float* const start = to;
    int64_t i = 0;
    for (; i + WIDTH <= M; i += WIDTH) {
        const Part products = load_part(x + i) * load_part(w + i);
        to += append(above(products, lines), products, to);
    }
    if (i < M) {
        const Part products = load_part(x + i, M - i, 0) * load_part(w + i, M - i, std::numeric_limits<float>::quiet_NaN());
        to += append(above(products, lines), products, to);
    }
    return to - start;
}

// How many products of each lane are above a trial value.
inline Floats number_above(const Floats* products, int64_t count, Floats trial) {
    Floats number[4] = {every(0), every(0), every(0), every(0)};  // four, since each addition waits for the one before
    int64_t j = 0;
    for (; j + 4 <= count; j += 4)
#pragma GCC unroll 4
        for (int64_t n = 0; n < 4; n++) number[n] = add_where(products[j + n] > trial, number[n], every(1));
    for (; j < count; j++) number[0] = add_where(products[j] > trial, number[0], every(1));
    return (number[0] + number[1]) + (number[2] + number[3]);
}

// The products of one class and a tile of inputs, in lanes: each lane has all its products above its line, then -infinity.
struct Gathered {
    const Floats* products;
    int64_t size;
    Floats line, number;
};

// Finds what is routed, for a few classes at a time. From each class it learns where to draw the line for the next.
template <bool exactly> class Search {
public:
    Search(const Problem& problem, int64_t together)
        : problem(problem), stride(problem.M + WIDTH), products(unfilled<float>(together * LANES * stride + LANES)),
          columns(unfilled<Floats>(problem.M + LANES)), usual(problem.tiles(), every(0)), spacing(problem.tiles(), every(0)) {}

    // Calls keep(n, found) for each of some classes; the n-th has the weights w[n]. There are at most as many as `together` said.
    template <typename Keep> void find(int64_t first_c, int64_t classes, const float* const* w, int64_t t, Keep keep) {
        const float floor = floor_of(exactly);
        const Floats expected = select(usual[t] > every(0), usual[t] * every(margin), every(floor));
        float line[TOGETHER][LANES];
        int64_t counts[TOGETHER][LANES] = {}, missed = 0;
        for (int64_t n = 0; n < classes; n++) store(expected, line[n]);
        for (int64_t b = 0; b < problem.lanes(t); b++)
            for (int64_t n = 0; n < classes; n++)
                counts[n][b] = gather_enough(t * LANES + b, w[n], line[n][b], &products[(n * LANES + b) * stride], missed);
        learn_margin(problem.lanes(t) * classes, missed);
        for (int64_t n = 0; n < classes; n++) {
            const Found found = settle(columns_of(n, counts[n], line[n]), first_c + n, t);
            const Floats before = usual[t], next = before + (found.tau - before) * every(MEMORY);
            usual[t] = select(found.tau > every(0), select(before > every(0), next, found.tau), before);
            keep(n, found);
        }
    }

private:
    const Problem& problem;
    const int64_t stride;
    std::unique_ptr<float[]> products;    // a row for each class and lane
    std::unique_ptr<Floats[]> columns;    // those of one class, in lanes
    std::vector<Floats> usual, spacing;   // for each tile: roughly its K-th products, and the distance from one product to the next
    float margin = 0.8f;                  // the line is drawn at this part of the usual K-th product

    void learn_margin(int64_t looked, int64_t missed) {
        const float change = 1 + CAUTION * (MISSED * static_cast<float>(looked) - static_cast<float>(missed));
        margin = std::min(1.0f, margin * std::max(0.5f, change));
    }

    // Gathers at least K products, or all that there are; lowers the line if it has to.
    int64_t gather_enough(int64_t b, const float* w, float& line, float* to, int64_t& missed) {
        const float floor = floor_of(exactly), *x = problem.input(b);
        int64_t count = gather(x, w, problem.M, line, to);
        if (count < problem.K && line > floor) missed++;
        for (int again = 0; count < problem.K && line > floor; again++) {
            line = again ? floor : line * AGAIN;
            count = gather(x, w, problem.M, line, to);
        }
        return count;
    }

    Gathered columns_of(int64_t n, const int64_t* counts, const float* line) {
        const auto [least, most] = std::minmax_element(counts, counts + LANES);
        float each[LANES];
        std::copy_n(counts, LANES, each);
        const Floats number = load(each);
        const int64_t whole = (*most + LANES - 1) / LANES * LANES;  // nobody reads what is behind the last
        rows_to_lanes(&products[n * LANES * stride], stride, whole, LANES, columns.get());
        for (int64_t j = *least; j < *most; j++)
            columns[j] = select(number > every(static_cast<float>(j)), columns[j], every(LOWEST));
        return {columns.get(), *most, load(line), number};
    }

    // Finds each lane's K-th product. It counts the products above trial values until K are above one, or only a few less.
    Found settle(const Gathered& its, int64_t c, int64_t t) {
        const Floats* const products = its.products;
        const Floats K = every(static_cast<float>(problem.K)), floor = every(floor_of(exactly));
        // More than K products are above `low`, and fewer than K above `high`. Nothing is above the first `high`.
        Floats low = its.line, above_low = its.number, high = every(LOWEST), above_high = every(0);
        for (int64_t j = 0; j < its.size; j++) high = larger(high, products[j]);
        const Mask few = K > above_low;
        Mask exact = few | (above_low == K);  // exactly the products above `line` are routed
        Floats line = select(few, floor, low);
        for (int round = 0;; round++) {
            // The middle in the order of floats: products may differ by orders of magnitude.
            const Floats half = value<exactly>(middle(key<exactly>(low), key<exactly>(high)));
            const Mask open = ~(exact | (every(NEAR) >= K - above_high) | (low >= half) | (half >= high));
            if (!any(open)) break;
            const Floats surplus = above_low - K + every(AIM), share = surplus / (above_low - above_high);
            Floats trial = select(above_high > every(0), low + (high - low) * share, low + surplus * spacing[t]);
            if (round % 3 == 2) trial = half;
            trial = select((trial > low) & (high > trial), trial, half);
            const Floats number = number_above(products, its.size, trial);
            const Mask more = open & (number > K), fewer = open & (K > number), same = open & (number == K);
            exact = exact | same;
            line = select(same, trial, line);
            low = select(more, trial, low);
            above_low = select(more, number, above_low);
            high = select(fewer, trial, high);
            above_high = select(fewer, number, above_high);
        }
        Mask tied = few & ~few;
        Floats tau = floor;
        if (any(~exact)) {
            const Floats wanted = K - above_high;
            tau = next_below(its, high, wanted, tied);
            tied = (tied | (wanted > every(NEAR))) & ~exact;  // all products between `low` and `high` are equal
            line = select(exact, line, select(tied, tau, just_below(tau)));
        }
        Floats sum = every(0), least = every(-LOWEST);
        for (int64_t j = 0; j < its.size; j++) {
            const Mask in = products[j] > line;
            sum = add_where(in, sum, products[j]);
            least = select(in, smaller(least, products[j]), least);
        }
        tau = select(exact, select(few, floor, least), tau);
        learn_spacing(its, tau, t);
        Found found{sum, tau, {}};
        std::fill_n(found.last, LANES, static_cast<int32_t>(problem.M));
        if (any(tied)) settle_ties(its, c, t, tied, found);
        return found;
    }

    static Floats just_below(Floats tau) {
        const Floats below = value<exactly>(key<exactly>(tau) - every_whole(1));
        return exactly ? select(tau == every(0), every(-TINY), below) : below;  // not -0
    }

    // Each lane's `wanted`-th largest product of those that are at most `high`; `wanted` is at most NEAR. `tied`: the next one is equal.
    static Floats next_below(const Gathered& its, Floats high, Floats wanted, Mask& tied) {
        Wholes keys[NEAR + 1];
        for (auto& each : keys) each = key<exactly>(every(floor_of(exactly)));
        for (int64_t j = 0; j < its.size; j++) {
            const Floats product = its.products[j];
            sift<0>(keys, key<exactly>(select(product > high, every(floor_of(exactly)), product)));
        }
        Floats tau = high;
        tied = tau > tau;
        for (int n = 0; n < NEAR; n++) {
            const Mask it = wanted == every(static_cast<float>(n + 1));
            const Floats its_value = value<exactly>(keys[n]);
            tau = select(it, its_value, tau);
            tied = tied | (it & (value<exactly>(keys[n + 1]) == its_value));
        }
        return tau;
    }

    // Among products equal to tau only the first ones are routed; none of them is in the sum yet.
    void settle_ties(const Gathered& its, int64_t c, int64_t t, Mask tied, Found& found) {
        const Floats above = number_above(its.products, its.size, found.tau);
        for (uint32_t left = bits(tied); left; left &= left - 1) {
            const int64_t b = __builtin_ctz(left), wants = problem.K - static_cast<int64_t>(lane(above, b));
            set_lane(found.sum, b, lane(found.sum, b) + static_cast<float>(wants) * lane(found.tau, b));
            found.last[b] = last_index(problem, c, t * LANES + b, lane(found.tau, b), wants);
        }
    }

    void learn_spacing(const Gathered& its, Floats tau, int64_t t) {
        const Floats surplus = its.number - every(static_cast<float>(problem.K));
        const Floats found = (tau - its.line) / larger(surplus, every(1)), before = spacing[t];
        const Floats next = select(before > every(0), before + (found - before) * every(MEMORY), found);
        spacing[t] = select((its.line > every(0)) & (surplus > every(0)), next, before);
    }
};

// A copy of SPAN units of some rows. Rows whose distance in memory is a power of 2 would push each other out of the cache.
struct Copy {
    static constexpr int64_t STRIDE = SPAN + LANES;
    std::unique_ptr<Floats[]> values;
    explicit Copy(int64_t rows) : values(unfilled<Floats>(rows * STRIDE / LANES)) {}
    float* row(int64_t r) { return reinterpret_cast<float*>(values.get()) + r * STRIDE; }

    // Copies `number` units of one row; the others get `rest`.
    void read(int64_t r, const float* from, int64_t number, float rest) {
        std::copy_n(from, number, row(r));
        std::fill_n(row(r) + number, SPAN - number, rest);
    }

    void fill(int64_t rows, float value) {
        for (int64_t r = 0; r < rows; r++) std::fill_n(row(r), SPAN, value);
    }
};

// The backward pass for some inputs and some classes. It adds to gx (B, M) and gw (O, M); null if not wanted.
class Gradients {
public:
    Gradients(const Problem& problem, bool exactly, const float* gy_BO, const float* tau_OB, const int32_t* last_OB, float* gx,
              float* gw)
        : problem(problem), exactly(exactly), gy_BO(gy_BO), tau_OB(tau_OB), last_OB(last_OB), gx(gx), gw(gw), x(INPUTS),
          of_x(INPUTS), w(QUAD), of_w(QUAD) {}

    void add(int64_t first_b, int64_t last_b, int64_t first_c, int64_t last_c) {
        const int64_t M = problem.M;
        for (int64_t b = first_b; b < last_b; b += INPUTS)
            for (int64_t i = 0; i < M; i += SPAN) {
                const int64_t inputs = std::min(INPUTS, last_b - b), units = std::min(SPAN, M - i);
                for (int64_t n = 0; n < inputs; n++) x.read(n, problem.input(b + n) + i, units, 0);
                of_x.fill(inputs, 0);
                for (int64_t c = first_c; c < last_c; c += QUAD) add_quad(b, inputs, c, std::min(QUAD, last_c - c), i, units);
                for (int64_t n = 0; gx && n < inputs; n++) add_to(gx + (b + n) * M + i, of_x.row(n), units);
            }
    }

private:
    static constexpr int64_t INPUTS = 128;  // so many inputs stay in the cache while the classes are computed
    const Problem& problem;
    const bool exactly;
    const float *gy_BO, *tau_OB;
    const int32_t* last_OB;
    float *gx, *gw;
    Copy x, of_x, w, of_w;
    // What is routed of QUAD classes and all inputs: products of at least `least`; where there are ties, `tau` and `last` decide.
    float least[QUAD][INPUTS], gy[QUAD][INPUTS], tau[QUAD][INPUTS], last[QUAD][INPUTS];

    static void add_to(float* sum, const float* part, int64_t number) {
        for (int64_t i = 0; i < number; i++) sum[i] += part[i];
    }

    void add_quad(int64_t first_b, int64_t inputs, int64_t first_c, int64_t classes, int64_t i, int64_t units) {
        const bool ties = read_kept(first_b, inputs, first_c, classes);
        for (int64_t n = 0; n < QUAD; n++) read_weights(n, first_c + std::min(n, classes - 1), i, units);
        of_w.fill(QUAD, 0);
        for (int64_t b = 0; b < inputs; b += QUAD) ties ? add_pairs<true>(b, i) : add_pairs<false>(b, i);
        for (int64_t n = 0; gw && n < classes; n++) add_to(gw + (first_c + n) * problem.M + i, of_w.row(n), units);
    }

    // NaN where a connection is pruned, and beyond the end: NaN is never routed.
    void read_weights(int64_t n, int64_t c, int64_t i, int64_t units) {
        const int64_t at = c * problem.M + i;
        w.read(n, problem.w + at, units, std::numeric_limits<float>::quiet_NaN());
        for (int64_t m = 0; problem.mask && m < units; m++)
            if (!problem.mask[at + m]) w.row(n)[m] = std::numeric_limits<float>::quiet_NaN();
    }

    // Pairs beyond the last input or the last class route nothing.
    bool read_kept(int64_t first_b, int64_t inputs, int64_t first_c, int64_t classes) {
        bool ties = false;
        for (int64_t n = 0; n < QUAD; n++) {
            std::fill_n(least[n], INPUTS, std::numeric_limits<float>::quiet_NaN());
            std::fill_n(tau[n], INPUTS, -LOWEST);
            std::fill_n(last[n], INPUTS, 0.0f);
            std::fill_n(gy[n], INPUTS, 0.0f);
            if (n >= classes) continue;
            const int64_t at = (first_c + n) * problem.B + first_b;
            for (int64_t b = 0; b < inputs; b++) {
                tau[n][b] = tau_OB[at + b];
                least[n][b] = exactly ? tau[n][b] : std::max(tau[n][b], TINY);
                last[n][b] = static_cast<float>(last_OB[at + b]);
                ties |= last_OB[at + b] < problem.M;
                gy[n][b] = gy_BO[(first_b + b) * problem.O + first_c + n];
            }
        }
        return ties;
    }

    // Adds QUAD inputs from b on, with QUAD classes, to the gradients of SPAN units from i on. It takes as many units at a time as one
    // register holds: all registers are in use then.
    template <bool ties> void add_pairs(int64_t b, int64_t i) {
        float first[WIDTH];
        for (int64_t n = 0; n < WIDTH; n++) first[n] = static_cast<float>(i + n);
        Part at = load_part(first);
        for (int64_t j = 0; j < SPAN; j += WIDTH) {
            Part x_here[QUAD], w_here[QUAD], to_x[QUAD], to_w[QUAD];
#pragma GCC unroll 4
            for (int64_t n = 0; n < QUAD; n++) {
                x_here[n] = load_part(x.row(b + n) + j);
                w_here[n] = load_part(w.row(n) + j);
                to_x[n] = load_part(of_x.row(b + n) + j);
                to_w[n] = load_part(of_w.row(n) + j);
            }
#pragma GCC unroll 4
            for (int64_t n = 0; n < QUAD; n++)
#pragma GCC unroll 4
                for (int64_t r = 0; r < QUAD; r++) {
                    const Part product = x_here[r] * w_here[n], its_gy = all_lanes(gy[n][b + r]);
                    PartMask routed = at_least(product, all_lanes(least[n][b + r]));
                    if (ties) routed &= above(product, all_lanes(tau[n][b + r])) | at_least(all_lanes(last[n][b + r]), at);
                    to_x[r] = multiply_add_where(routed, its_gy, w_here[n], to_x[r]);
                    to_w[n] = multiply_add_where(routed, its_gy, x_here[r], to_w[n]);
                }
#pragma GCC unroll 4
            for (int64_t n = 0; n < QUAD; n++) {
                store_part(to_x[n], of_x.row(b + n) + j);
                store_part(to_w[n], of_w.row(n) + j);
            }
            at = at + all_lanes(WIDTH);
        }
    }
};

}  // namespace rows
