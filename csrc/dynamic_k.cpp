// The Dynamic-K sum and its gradients on a CPU (Algorithm 2; SPEC sections 1 and 8), without the B*O*M products.
//
// Sixteen inputs, the lanes of a tile, advance together through the weights of a class, largest first. A lane that cannot
// find a larger product any more (the next weight times the lane's largest input is below its K-th product) is done; when all
// are, so is the tile. Only each lane's K-th product (tau) and the last index routed among its equals are kept: the backward
// pass finds the routed set again from them. Where a number is not finite, or a sum could overflow, it says so and stops:
// those are the caller's.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "lanes.h"
#include "order.h"
#include "threads.h"

namespace {

constexpr int64_t STEP = 4;           // visits between two looks at the bound
constexpr int64_t BLOCK = 8;          // classes that go through a tile of inputs while it is in the cache
constexpr int64_t INSERTED = 26;      // up to this K the largest products are kept sorted; above it they are counted
constexpr int64_t SMALL = 1 << 21;    // products below which a second thread costs more than it brings
constexpr float GUESS = 0.8f;         // of the K-th product of the class before: where the count for the next one begins
constexpr int PLAIN_ROUNDS = 3;       // of counting, before the products beside the trial value are looked at as well
enum Outcome { DONE = 0, OUT_OF_MEMORY = 1, NOT_FINITE = 2 };
constexpr float TINY = std::numeric_limits<float>::denorm_min();
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

// Inputs (B, M) as tiles of 16: tile t holds M vectors, whose lanes are inputs 16 t, 16 t + 1, ...; missing ones are 0.
struct Tiles {
    int64_t count, M;
    std::unique_ptr<Floats[]> x, highest, lowest;
    std::unique_ptr<float[]> magnitude;  // the largest of each tile

    Tiles(const float* rows, int64_t B, int64_t M, int64_t threads)
        : count((B + LANES - 1) / LANES), M(M), x(unfilled<Floats>(count * M)), highest(unfilled<Floats>(count)),
          lowest(unfilled<Floats>(count)), magnitude(unfilled<float>(count)) {
        split(count, threads, [&](int64_t, int64_t first, int64_t last) {
            for (int64_t t = first; t < last; t++) pack(rows + t * LANES * M, std::min(LANES, B - t * LANES), t);
        });
    }

    float peak() const { return largest_magnitude(magnitude.get(), count); }

    bool some_negative() const {
        return std::any_of(&lowest[0], &lowest[count], [](const Floats& low) { return any(every(-TINY) >= low); });
    }

private:
    void pack(const float* rows, int64_t lanes, int64_t t) {
        rows_to_lanes(rows, M, M, lanes, &x[t * M]);
        highest[t] = lowest[t] = every(0);
        for (int64_t b = 0; b < lanes; b++) {
            float high = 0, low = 0;
            for (int64_t i = 0; i < M; i++) {
                high = std::max(high, rows[b * M + i]);
                low = std::min(low, rows[b * M + i]);
            }
            set_lane(highest[t], b, high);
            set_lane(lowest[t], b, low);
        }
        magnitude[t] = largest_magnitude(rows, lanes * M);
    }
};

struct Problem {
    const float *x, *w;
    const uint8_t* mask;  // (O, M), 0 where a connection is pruned and may not be routed; or null
    int64_t B, O, M, K, threads;
    bool exactly;

    Row row(int64_t c) const { return {w + c * M, mask ? mask + c * M : nullptr, M}; }
};

// Calls look(list, place, number) for the places of a list, a few at a time, until no product can be at least guard(), which may
// rise. `peak` is the largest input of that sign, lane by lane.
template <bool exactly, typename Guard, typename Look>
inline void sweep(List& list, Floats peak, float sign, Guard guard, Look look) {
    const auto over = [&](float bound) {
        Floats reach = peak * every(sign * bound), least = guard();
        // Below 0 there is no such bound: of products that are negative, small weights have the largest.
        if (exactly) reach = select(least > every(0), reach, least);
        return !any(reach >= least);
    };
    for (int64_t j = 0;;) {
        for (; j + STEP <= list.count; j += STEP) {
            if (over(list.bound[j])) return;
            look(list, j, std::integral_constant<int64_t, STEP>{});
        }
        if (j < list.count && over(list.bound[j])) return;
        for (; j < list.count; j++) look(list, j, std::integral_constant<int64_t, 1>{});
        if (!(list.left > 0) || over(list.left)) return;
        list.grow();
    }
}

// Calls look(list, place, number) for the weights of a class whose products can be at least guard().
template <bool exactly, typename Guard, typename Look>
inline void visit(Class& its, const Tiles& tiles, int64_t t, Guard guard, Look look) {
    sweep<exactly>(its.positive, tiles.highest[t], 1, guard, look);
    sweep<exactly>(its.negative, tiles.lowest[t], -1, guard, look);
    if (!exactly || !any(every(0) >= guard())) return;
    for (int64_t j = 0; j < its.zero.count; j++) look(its.zero, j, std::integral_constant<int64_t, 1>{});
}

// What a lane routes: the sum of it, the K-th product, and the last index routed among its equals (M: all of them).
struct Found {
    Floats sum, tau;
    int32_t last[LANES];
};

// Among products equal to tau the lowest indices are routed: the last of `wanted` such.
int32_t last_index(const Problem& problem, int64_t c, const Floats* tile, int64_t b, float tau, int64_t wanted) {
    const Row row = problem.row(c);
    for (int64_t i = 0; i < row.M; i++)
        if (row.may_route(i) && lane(tile[i], b) * row.weight[i] == tau && --wanted == 0) return static_cast<int32_t>(i);
    return -1;
}

// Puts a product where it belongs among the sorted keys from place k on; returns what falls out behind the last.
template <int k, int K> inline Wholes sift(Wholes (&keys)[K], Wholes product) {
    if constexpr (k == K) return product;
    else {
        const Wholes kept = larger(product, keys[k]), rest = smaller(product, keys[k]);
        keys[k] = kept;
        return sift<k + 1>(keys, rest);
    }
}

// The K largest products of each lane stay sorted: no branch but the early stop.
template <int K, bool exactly> Found insert(const Problem& problem, Class& its, const Tiles& tiles, int64_t c, int64_t t) {
    const Floats* tile = &tiles.x[t * tiles.M];
    Wholes keys[K];
#pragma GCC unroll 32
    for (int k = 0; k < K; k++) keys[k] = key<exactly>(every(exactly ? LOWEST : 0));
    Wholes lost_key = keys[0];
    const auto guard = [&] {
        const Floats last = value<exactly>(keys[K - 1]);
        return exactly ? last : larger(last, every(TINY));
    };
    visit<exactly>(
        its, tiles, t, guard,
        [&](const List& list, int64_t j, auto number) {
            Wholes products[number()];
            for (int64_t n = 0; n < number(); n++)
                products[n] = key<exactly>(tile[list.index[j + n]] * every(list.weight[j + n]));
            Wholes most = products[0];
            for (int64_t n = 1; n < number(); n++) most = larger(most, products[n]);
            if (!any(value<exactly>(most) >= guard())) return;
            for (int64_t n = 0; n < number(); n++) lost_key = larger(lost_key, sift<0>(keys, products[n]));
        });
    Floats top[K];
    for (int k = 0; k < K; k++) top[k] = value<exactly>(keys[k]);
    const Floats lost = value<exactly>(lost_key);
    Found found{every(0), top[K - 1], {}};
    for (int k = 0; k < K; k++) found.sum = found.sum + (exactly ? select(top[k] > every(LOWEST), top[k], every(0)) : top[k]);
    std::fill_n(found.last, LANES, static_cast<int32_t>(problem.M));
    const Floats floor = every(exactly ? LOWEST : 0);
    const Mask tied = (lost == found.tau) & (found.tau > floor);
    if (!any(tied)) return found;
    for (int64_t b = 0; b < LANES; b++) {
        const float tau = lane(found.tau, b);
        if (lane(lost, b) != tau || !(tau > lane(floor, b))) continue;
        int64_t wanted = 0;
        for (int k = 0; k < K; k++) wanted += lane(top[k], b) == tau;
        found.last[b] = last_index(problem, c, tile, b, tau, wanted);
    }
    return found;
}

// How many products of each lane are above a trial value.
Floats number_above(const Floats* products, int64_t count, Floats trial) {
    Floats number[4] = {every(0), every(0), every(0), every(0)};  // four, since each addition waits for the one before
    int64_t j = 0;
    for (; j + 4 <= count; j += 4)
#pragma GCC unroll 4
        for (int64_t n = 0; n < 4; n++) number[n] = add_where(products[j + n] > trial, number[n], every(1));
    for (; j < count; j++) number[0] = add_where(products[j] > trial, number[0], every(1));
    return (number[0] + number[1]) + (number[2] + number[3]);
}

// The same, with the least product above the trial value and the largest that is not.
Floats number_above(const Floats* products, int64_t count, Floats trial, Floats& above, Floats& below) {
    Floats number = every(0);
    above = every(-LOWEST);
    below = every(LOWEST);
    for (int64_t j = 0; j < count; j++) {
        const Mask in = products[j] > trial;
        number = add_where(in, number, every(1));
        above = select(in, smaller(above, products[j]), above);
        below = select(in, below, larger(below, products[j]));
    }
    return number;
}

// Any K: each lane's products above a trial value are counted until K are. The first trial is `guess`, a value a little below
// where the K-th product is expected: where K products are above it, visits may stop early.
template <bool exactly>
Found count(const Problem& problem, Class& its, const Tiles& tiles, int64_t c, int64_t t, Floats guess, Floats* products) {
    const Floats* tile = &tiles.x[t * tiles.M];
    const Floats K = every(static_cast<float>(problem.K)), one = every(1), floor = every(exactly ? LOWEST : 0);
    guess = larger(guess, floor);
    int64_t size = 0;
    Floats high = floor, low = every(-LOWEST), above_guess = every(0);
    visit<exactly>(
        its, tiles, t, [&] { return select(above_guess >= K, guess, every(exactly ? LOWEST : TINY)); },
        [&](const List& list, int64_t j, auto number) {
            for (int64_t n = 0; n < number(); n++) {
                Floats product = tile[list.index[j + n]] * every(list.weight[j + n]);
                products[size++] = product;
                above_guess = add_where(product > guess, above_guess, one);
                high = larger(high, product);
                low = smaller(low, product);
            }
        });
    // More than K are above `low`, fewer above `high`; a lane is done where K are above `trial`, or no more at all. Where that
    // takes long, products may lie orders of magnitude apart: then `high` goes down to a product, over any gap.
    low = exactly ? low - larger(low, every(0) - low) * every(0.5f) - every(TINY) : floor;
    Floats above_low = number_above(products, size, low), above_high = every(0);
    const Mask few = K >= above_low;
    Mask done = few, tied = few & ~few;
    Floats trial = select(few, low, guess), number = above_guess;
    for (int round = 0;; round++) {
        Floats above = high, below = high;
        if (round > PLAIN_ROUNDS) number = number_above(products, size, trial, above, below);
        else if (round > 0) number = number_above(products, size, trial);
        below = smaller(below, trial);
        const Mask open = ~(done | tied), more = open & (number > K), fewer = open & (K > number);
        done = done | (open & (number == K));
        low = select(more, larger(trial, low), low);
        above_low = select(more, number, above_low);
        high = select(fewer, smaller(below, high), high);
        above_high = select(fewer, number, above_high);
        const Floats half = low * every(0.5f) + high * every(0.5f);
        tied = tied | (~done & ((low >= half) | (half >= high)));
        if (round > PLAIN_ROUNDS) tied = tied | (more & (above == high));
        if (!any(~(done | tied))) break;
        Floats share = (above_low - K) / (above_low - above_high);
        share = smaller(larger(share, every(0.05f)), every(0.95f));
        Floats next = round % 3 == 2 ? half : low + (high - low) * share;
        next = select((next > low) & (high > next), next, half);
        trial = select(done | tied, trial, next);
    }
    Found found{every(0), floor, {}};
    const Floats line = select(tied, high, trial);  // what is above is routed; of a tied lane's, also some of what equals `high`
    Floats least = every(-LOWEST);
    for (int64_t j = 0; j < size; j++) {
        const Mask in = products[j] > line;
        found.sum = add_where(in, found.sum, products[j]);
        least = select(in, smaller(least, products[j]), least);
    }
    found.tau = select(tied, high, select(few, floor, least));
    std::fill_n(found.last, LANES, static_cast<int32_t>(problem.M));
    if (!any(tied)) return found;
    const Floats marked = select(tied, one, every(0));
    for (int64_t b = 0; b < LANES; b++) {
        if (lane(marked, b) == 0) continue;
        const int64_t wants = problem.K - static_cast<int64_t>(lane(above_high, b));
        set_lane(found.sum, b, lane(found.sum, b) + static_cast<float>(wants) * lane(high, b));
        found.last[b] = last_index(problem, c, tile, b, lane(high, b), wants);
    }
    return found;
}

template <bool exactly, int... below>
Found insert_any(std::integer_sequence<int, below...>, const Problem& problem, Class& its, const Tiles& tiles, int64_t c,
                 int64_t t) {
    constexpr Found (*with[])(const Problem&, Class&, const Tiles&, int64_t, int64_t) = {insert<below + 1, exactly>...};
    return with[problem.K - 1](problem, its, tiles, c, t);
}

int64_t threads_for(const Problem& problem) { return problem.B * problem.O * problem.M < SMALL ? 1 : problem.threads; }

// Outputs of a block of classes for one tile, between the lanes here and the caller's rows (B, O).
struct Outputs {
    Floats of[BLOCK];

    void write(const Problem& problem, int64_t t, int64_t start, int64_t end, float* y_BO) const {
        lanes_to_rows(of, end - start, std::min(LANES, problem.B - t * LANES), y_BO + t * LANES * problem.O + start, problem.O);
    }

    void read(const Problem& problem, int64_t t, int64_t start, int64_t end, const float* gy_BO) {
        rows_to_lanes(gy_BO + t * LANES * problem.O + start, problem.O, end - start, std::min(LANES, problem.B - t * LANES), of);
    }
};

template <bool exactly> int forward(const Problem& problem, float* y_BO, float* tau_OB, int32_t* last_OB) {
    const int64_t threads = threads_for(problem);
    Tiles tiles(problem.x, problem.B, problem.M, threads);
    const bool both = exactly || tiles.some_negative();
    const double peak = tiles.peak();
    if (!std::isfinite(peak)) return NOT_FINITE;
    std::atomic<bool> finite{true};
    split(problem.O, threads, [&](int64_t, int64_t first, int64_t last) {
        std::vector<Class> block(BLOCK);
        const auto products = unfilled<Floats>(problem.K > INSERTED ? problem.M : 0);
        std::vector<Floats> guess(tiles.count, every(exactly ? LOWEST : 0));
        Outputs y;
        for (int64_t start = first; start < last; start += BLOCK) {
            const int64_t end = std::min(start + BLOCK, last);
            for (int64_t c = start; c < end; c++) {
                // Whether every sum of K products stays finite; those of anything but finite numbers do not.
                const double most = largest_magnitude(problem.row(c).weight, problem.M) * peak * static_cast<double>(problem.K);
                if (!(most <= static_cast<double>(std::numeric_limits<float>::max()))) finite = false;
                block[c - start].start(problem.row(c), both, exactly);
            }
            if (!finite) return;
            for (int64_t t = 0; t < tiles.count; t++) {
                for (int64_t c = start; c < end; c++) {
                    Class& its = block[c - start];
                    Found found;
                    if (problem.K <= INSERTED) {
                        found = insert_any<exactly>(std::make_integer_sequence<int, INSERTED>{}, problem, its, tiles, c, t);
                    } else {
                        found = count<exactly>(problem, its, tiles, c, t, guess[t], products.get());
                        guess[t] = select(found.tau > every(0), found.tau * every(GUESS), found.tau);
                    }
                    y.of[c - start] = found.sum;
                    const int64_t at = c * problem.B + t * LANES, lanes = std::min(LANES, problem.B - t * LANES);
                    std::memcpy(tau_OB + at, &found.tau, lanes * sizeof(float));
                    std::memcpy(last_OB + at, found.last, lanes * sizeof(int32_t));
                }
                y.write(problem, t, start, end, y_BO);
            }
        }
    });
    return finite ? DONE : NOT_FINITE;
}

// What is routed of a class and a tile, as the forward pass left it.
struct Kept {
    Floats tau, last;
    bool ties;  // whether `last` has to be asked

    Kept(const Problem& problem, int64_t c, int64_t t, const float* tau_OB, const int32_t* last_OB) {
        const int64_t at = c * problem.B + t * LANES, lanes = std::min(LANES, problem.B - t * LANES);
        tau = every(-LOWEST);  // lanes without an input route nothing
        last = every(0);
        ties = false;
        std::memcpy(&tau, tau_OB + at, lanes * sizeof(float));
        for (int64_t b = 0; b < lanes; b++) ties |= last_OB[at + b] < problem.M;
        for (int64_t b = 0; ties && b < lanes; b++) set_lane(last, b, static_cast<float>(last_OB[at + b]));
    }
};

// Adds what one class and tile bring to the gradients.
template <bool exactly, bool ties>
void add_gradients(Class& its, const Tiles& tiles, int64_t t, const Kept& kept, Floats gy, Floats* of_x) {
    const Floats* tile = &tiles.x[t * tiles.M];
    const Floats guard = exactly ? kept.tau : larger(kept.tau, every(TINY)), tau = kept.tau, last = kept.last;
    visit<exactly>(
        its, tiles, t, [&] { return guard; },
        [&](List& list, int64_t j, auto number) {
            Mask routed[number()], some{};
            for (int64_t n = 0; n < number(); n++) {
                const int32_t i = list.index[j + n];
                const Floats product = tile[i] * every(list.weight[j + n]);
                routed[n] = product >= guard;
                if (ties) routed[n] = routed[n] & ((product > tau) | (last >= every(static_cast<float>(i))));
                some = some | routed[n];
            }
            if (!any(some)) return;
            Floats* of_weight = list.gradients(j + number());
            for (int64_t n = 0; n < number(); n++) {
                const int32_t i = list.index[j + n];
                const Floats its_gy = select(routed[n], gy, every(0));
                of_weight[j + n] = multiply_add(its_gy, tile[i], of_weight[j + n]);
                of_x[i] = multiply_add(its_gy, every(list.weight[j + n]), of_x[i]);
            }
        });
}

// The sums over the lanes, to where the weights are.
void write_gradients(List& list, float* gw) {
    const Floats* of_weight = list.gradients(0);
    for (int64_t j = 0; j < list.graded; j++) {
        float sum = 0;
        for (int64_t b = 0; b < LANES; b++) sum += lane(of_weight[j], b);
        gw[list.index[j]] = sum;
    }
}

template <bool exactly>
void backward(const Problem& problem, const float* gy_BO, const float* tau_OB, const int32_t* last_OB, float* gx, float* gw) {
    const int64_t threads = std::min(threads_for(problem), problem.O), M = problem.M;
    Tiles tiles(problem.x, problem.B, M, threads);
    const bool both = exactly || tiles.some_negative();
    // One sum of the inputs' gradients a thread, so that no two write the same place.
    std::vector<std::unique_ptr<Floats[]>> parts(threads);
    split(problem.O, threads, [&](int64_t part, int64_t first, int64_t last) {
        std::vector<Class> block(BLOCK);
        parts[part] = unfilled<Floats>(tiles.count * M);
        std::fill_n(parts[part].get(), tiles.count * M, every(0));
        Outputs gy;
        for (int64_t start = first; start < last; start += BLOCK) {
            const int64_t end = std::min(start + BLOCK, last);
            for (int64_t c = start; c < end; c++) block[c - start].start(problem.row(c), both, exactly);
            for (int64_t t = 0; t < tiles.count; t++) {
                gy.read(problem, t, start, end, gy_BO);
                for (int64_t c = start; c < end; c++) {
                    const Kept kept(problem, c, t, tau_OB, last_OB);
                    auto* add = kept.ties ? add_gradients<exactly, true> : add_gradients<exactly, false>;
                    add(block[c - start], tiles, t, kept, gy.of[c - start], &parts[part][t * M]);
                }
            }
            for (int64_t c = start; gw && c < end; c++) {
                std::fill_n(gw + c * M, M, 0.0f);
                Class& its = block[c - start];
                for (List* list : {&its.positive, &its.negative, &its.zero}) write_gradients(*list, gw + c * M);
            }
        }
    });
    if (!gx) return;
    split(tiles.count, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t t = first; t < last; t++) {
            Floats* sum = &parts[0][t * M];
            for (size_t part = 1; part < parts.size(); part++)
                for (int64_t i = 0; i < M; i++) sum[i] = sum[i] + parts[part][t * M + i];
            lanes_to_rows(sum, M, std::min(LANES, problem.B - t * LANES), gx + t * LANES * M, M);
        }
    });
}

}  // namespace

// All arrays are dense: x (B, M), w (O, M), mask (O, M) or null, y and gy (B, O), tau and last (O, B), gx (B, M) and gw (O, M) or null.
extern "C" {

// GOMP_parallel of the OpenMP library that PyTorch uses, or null for threads of our own.
void dynamick_set_parallel(Parallel parallel) { openmp = parallel; }

int dynamick_forward(const float* x, const float* w, const uint8_t* mask, int64_t B, int64_t O, int64_t M, int64_t K, int exactly,
                     int64_t threads, float* y, float* tau, int32_t* last) {
    try {
        Problem problem{x, w, mask, B, O, M, std::min(K, M), threads, exactly != 0};
        return exactly ? forward<true>(problem, y, tau, last) : forward<false>(problem, y, tau, last);
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

int dynamick_backward(const float* x, const float* w, const uint8_t* mask, int64_t B, int64_t O, int64_t M, int exactly, int64_t threads,
                      const float* gy, const float* tau, const int32_t* last, float* gx, float* gw) {
    try {
        Problem problem{x, w, mask, B, O, M, 0, threads, exactly != 0};
        exactly ? backward<true>(problem, gy, tau, last, gx, gw) : backward<false>(problem, gy, tau, last, gx, gw);
        return DONE;
    } catch (...) {
        return OUT_OF_MEMORY;
    }
}

}  // extern "C"
