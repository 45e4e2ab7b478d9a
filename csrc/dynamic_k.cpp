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
#include <exception>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "lanes.h"

namespace {

constexpr int BUCKETS = 256;
constexpr int SHIFT = 19;             // a bucket holds magnitudes alike in these upper bits: 16 buckets a power of 2
constexpr int64_t STEP = 4;           // visits between two looks at the bound
constexpr int64_t BLOCK = 8;          // classes that go through a tile of inputs while it is in the cache
constexpr int64_t INSERTED = 12;      // up to this K the largest products are kept sorted; above it they are counted
constexpr int64_t SMALL = 1 << 21;    // products below which a second thread costs more than it brings
constexpr float GUESS = 0.8f;         // of the K-th product of the class before: where the count for the next one begins
enum Outcome { DONE = 0, OUT_OF_MEMORY = 1, NOT_FINITE = 2 };
constexpr float TINY = std::numeric_limits<float>::denorm_min();
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

// Runs work(thread, first, last) on parts of [0, count): the same parts for the same number of threads.
template <typename Work> void split(int64_t count, int64_t threads, Work work) {
    threads = std::max<int64_t>(1, std::min(threads, count));
    std::vector<std::exception_ptr> wrong(threads);
    auto part = [&](int64_t t) {
        try {
            work(t, count * t / threads, count * (t + 1) / threads);
        } catch (...) {
            wrong[t] = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(threads);
    int64_t started = 1;
    try {
        for (; started < threads; started++) others.emplace_back(part, started);
    } catch (const std::system_error&) {  // no more threads to be had: this one does the other parts
    }
    part(0);
    for (int64_t t = started; t < threads; t++) part(t);
    for (auto& other : others) other.join();
    for (auto& each : wrong)
        if (each) std::rethrow_exception(each);
}

// The bits of a float's magnitude: they order as magnitudes do, infinity and NaN last.
inline int32_t magnitude_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffff;
}

inline float from_bits(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The largest magnitude of some numbers; NaN or infinity where one is.
inline float largest_magnitude(const float* values, int64_t count) {
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) most = std::max(most, magnitude_bits(values[i]));
    return from_bits(most);
}

// Inputs (B, M) as tiles of 16: tile t holds M vectors, whose lanes are inputs 16 t, 16 t + 1, ...; missing ones are 0.
struct Tiles {
    int64_t count, M;
    std::vector<Floats> x, highest, lowest;
    std::vector<float> magnitude;  // the largest of each tile

    Tiles(const float* rows, int64_t B, int64_t M, int64_t threads) : count((B + LANES - 1) / LANES), M(M) {
        x.resize(count * M);
        highest.resize(count);
        lowest.resize(count);
        magnitude.resize(count);
        split(count, threads, [&](int64_t, int64_t first, int64_t last) {
            for (int64_t t = first; t < last; t++) pack(rows + t * LANES * M, std::min(LANES, B - t * LANES), t);
        });
    }

    float peak() const { return largest_magnitude(magnitude.data(), count); }

private:
    void pack(const float* rows, int64_t lanes, int64_t t) {
        Floats* tile = &x[t * M];
        for (int64_t start = 0; start < M; start += LANES)  // as many inputs as lanes, so that both sides stay in the cache
            for (int64_t b = 0; b < lanes; b++)
                for (int64_t i = start; i < std::min(start + LANES, M); i++) set_lane(tile[i], b, rows[b * M + i]);
        Floats high = every(0), low = every(0);
        for (int64_t i = 0; i < M; i++) {
            high = larger(high, tile[i]);
            low = smaller(low, tile[i]);
        }
        highest[t] = high;
        lowest[t] = low;
        magnitude[t] = largest_magnitude(rows, lanes * M);
    }
};

struct Problem {
    const float *x, *w;
    const uint8_t* mask;  // (O, M), 0 where a connection is pruned and may not be routed; or null
    int64_t B, O, M, K, threads;
    bool exactly;
};

// A class's weights in the order of their visits: the positive ones, the negative ones, both about the largest first, and
// those that are 0, where they can be routed. "About": by bucket of magnitude, and within a bucket as they come.
struct Class {
    int64_t positive = 0, negative = 0, zeros = 0;  // where each part ends
    std::vector<float> weight;
    std::vector<int32_t> index;
    float most = 0;  // the largest magnitude

    explicit Class(int64_t M) : weight(M), index(M), bucket(M), picked(M) {}

    void order(const Problem& problem, int64_t c, bool both) {
        const float* w = problem.w + c * problem.M;
        const uint8_t* mask = problem.mask ? problem.mask + c * problem.M : nullptr;
        most = largest_magnitude(w, problem.M);
        first = magnitude_bits(most) >> SHIFT;
        zeros = negative = positive = part(w, mask, problem.M, 0, 1);
        if (both) zeros = negative = part(w, mask, problem.M, positive, -1);
        if (!problem.exactly) return;
        for (int64_t i = 0; i < problem.M; i++)
            if (w[i] == 0 && (!mask || mask[i])) {
                weight[zeros] = 0;
                index[zeros++] = static_cast<int32_t>(i);
            }
    }

    // No weight of its part, from place j on, is larger in magnitude.
    float bound(int64_t j) const {
        const int32_t all = (1 << SHIFT) - 1, of_last = ((first - BUCKETS + 1) * (1 << SHIFT)) | all;
        return from_bits(std::max(magnitude_bits(weight[j]) | all, of_last));
    }

private:
    int32_t first = 0;
    std::vector<uint8_t> bucket;
    std::vector<int32_t> picked;

    // Puts the weights of one sign at places from `start` on, and returns their end.
    int64_t part(const float* w, const uint8_t* mask, int64_t M, int64_t start, float sign) {
        int64_t count = 0;
        int32_t places[BUCKETS] = {};
        for (int64_t i = 0; i < M; i++) {
            const bool wanted = sign * w[i] > 0 && (!mask || mask[i]);
            const int32_t which = std::min(first - (magnitude_bits(w[i]) >> SHIFT), BUCKETS - 1);
            picked[count] = static_cast<int32_t>(i);
            bucket[count] = static_cast<uint8_t>(which);
            places[which] += wanted;
            count += wanted;
        }
        int32_t sum = static_cast<int32_t>(start);
        for (auto& place : places) {
            const int32_t size = place;
            place = sum;
            sum += size;
        }
        for (int64_t j = 0; j < count; j++) {
            const int32_t place = places[bucket[j]]++;
            index[place] = picked[j];
            weight[place] = w[picked[j]];
        }
        return start + count;
    }
};

// Calls look(place, number) for the places [from, to) of one sign, a few at a time, until no product can be at least guard(),
// which may rise. `peak` is the largest input of that sign, lane by lane.
template <bool exactly, typename Guard, typename Look>
inline void sweep(const Class& its, int64_t from, int64_t to, Floats peak, float sign, Guard guard, Look look) {
    for (int64_t j = from; j < to; j += STEP) {
        Floats reach = peak * every(sign * its.bound(j)), least = guard();
        // Below 0 there is no such bound: of products that are negative, small weights have the largest.
        if (exactly) reach = select(least > every(0), reach, least);
        if (!any(reach >= least)) return;
        if (j + STEP <= to) {
            look(j, std::integral_constant<int64_t, STEP>{});
        } else {
            for (; j < to; j++) look(j, std::integral_constant<int64_t, 1>{});
        }
    }
}

template <bool exactly, typename Guard, typename Look>
inline void visit(const Class& its, const Tiles& tiles, int64_t t, Guard guard, Look look) {
    sweep<exactly>(its, 0, its.positive, tiles.highest[t], 1, guard, look);
    sweep<exactly>(its, its.positive, its.negative, tiles.lowest[t], -1, guard, look);
    if (!exactly || !any(every(0) >= guard())) return;
    for (int64_t j = its.negative; j < its.zeros; j++) look(j, std::integral_constant<int64_t, 1>{});
}

// What a lane routes: the sum of it, the K-th product, and the last index routed among its equals (M: all of them).
struct Found {
    Floats sum, tau;
    int32_t last[LANES];
};

// Among products equal to tau the lowest indices are routed: the last of `wanted` such.
int32_t last_index(const Problem& problem, int64_t c, const Floats* tile, int64_t b, float tau, int64_t wanted) {
    const float* w = problem.w + c * problem.M;
    const uint8_t* mask = problem.mask ? problem.mask + c * problem.M : nullptr;
    for (int64_t i = 0; i < problem.M; i++)
        if ((!mask || mask[i]) && lane(tile[i], b) * w[i] == tau && --wanted == 0) return static_cast<int32_t>(i);
    return -1;
}

// The K largest products of each lane stay sorted: no branch but the early stop.
template <int K, bool exactly> Found insert(const Problem& problem, const Class& its, const Tiles& tiles, int64_t c, int64_t t) {
    const Floats* tile = &tiles.x[t * tiles.M];
    const float *weight = its.weight.data();
    const int32_t *index = its.index.data();
    Floats top[K];
#pragma GCC unroll 16
    for (int k = 0; k < K; k++) top[k] = every(exactly ? LOWEST : 0);
    Floats lost = top[0];
    const auto guard = [&] { return exactly ? top[K - 1] : larger(top[K - 1], every(TINY)); };
    visit<exactly>(
        its, tiles, t, guard,
        [&](int64_t j, auto number) {
Floats products[number()];
#pragma GCC unroll 16
            for (int64_t n = 0; n < number(); n++) products[n] = tile[index[j + n]] * every(weight[j + n]);
            Floats most = products[0];
#pragma GCC unroll 16
            for (int64_t n = 1; n < number(); n++) most = larger(most, products[n]);
            if (!any(most >= guard())) return;
#pragma GCC unroll 16
            for (int64_t n = 0; n < number(); n++) {
                Floats product = products[n];
#pragma GCC unroll 16
                for (int k = 0; k < K; k++) {
                    Floats kept = larger(product, top[k]);
                    product = smaller(product, top[k]);
                    top[k] = kept;
                }
                lost = larger(lost, product);
            }
        });
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
Floats number_above(const std::vector<Floats>& products, int64_t count, Floats trial) {
    Floats number[4] = {every(0), every(0), every(0), every(0)};  // four, since each addition waits for the one before
    int64_t j = 0;
    for (; j + 4 <= count; j += 4)
#pragma GCC unroll 4
        for (int64_t n = 0; n < 4; n++) number[n] = add_where(products[j + n] > trial, number[n], every(1));
    for (; j < count; j++) number[0] = add_where(products[j] > trial, number[0], every(1));
    return (number[0] + number[1]) + (number[2] + number[3]);
}

// Any K: each lane's products above a trial value are counted until K are. The first trial is `guess`, a value a little below
// where the K-th product is expected: where K products are above it, visits may stop early.
template <bool exactly>
Found count(const Problem& problem, const Class& its, const Tiles& tiles, int64_t c, int64_t t, Floats guess,
            std::vector<Floats>& products) {
    const Floats* tile = &tiles.x[t * tiles.M];
    const Floats K = every(static_cast<float>(problem.K)), one = every(1), floor = every(exactly ? LOWEST : 0);
    guess = larger(guess, floor);
    int64_t size = 0;
    Floats high = floor, low = every(-LOWEST), above_guess = every(0);
    visit<exactly>(
        its, tiles, t, [&] { return select(above_guess >= K, guess, every(exactly ? LOWEST : TINY)); },
        [&](int64_t j, auto number) {
#pragma GCC unroll 16
            for (int64_t n = 0; n < number(); n++) {
                Floats product = tile[its.index[j + n]] * every(its.weight[j + n]);
                products[size++] = product;
                above_guess = add_where(product > guess, above_guess, one);
                high = larger(high, product);
                low = smaller(low, product);
            }
        });
    // More than K are above `low`, fewer above `high`; a lane is done where K are above `trial`, or no more at all.
    low = exactly ? low - larger(low, every(0) - low) * every(0.5f) - every(TINY) : floor;
    Floats above_low = number_above(products, size, low), above_high = every(0);
    const Mask few = K >= above_low;
    Mask done = few, tied = few & ~few;
    Floats trial = select(few, low, guess), number = above_guess;
    for (int round = 0;; round++) {
        if (round > 0) number = number_above(products, size, trial);
        const Mask open = ~(done | tied), more = open & (number > K), fewer = open & (K > number);
        done = done | (open & (number == K));
        low = select(more, larger(trial, low), low);
        above_low = select(more, number, above_low);
        high = select(fewer, smaller(trial, high), high);
        above_high = select(fewer, number, above_high);
        const Floats half = low * every(0.5f) + high * every(0.5f);
        tied = tied | (~done & ((low >= half) | (half >= high)));
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
Found insert_any(std::integer_sequence<int, below...>, const Problem& problem, const Class& its, const Tiles& tiles, int64_t c,
                 int64_t t) {
    constexpr Found (*with[])(const Problem&, const Class&, const Tiles&, int64_t, int64_t) = {insert<below + 1, exactly>...};
    return with[problem.K - 1](problem, its, tiles, c, t);
}

int64_t threads_for(const Problem& problem) { return problem.B * problem.O * problem.M < SMALL ? 1 : problem.threads; }

bool some_negative(const Tiles& tiles) {
    return std::any_of(tiles.lowest.begin(), tiles.lowest.end(), [](const Floats& low) { return any(every(-TINY) >= low); });
}

template <typename Value> void store(Value* to, const void* lanes, int64_t count) {
    std::memcpy(to, lanes, count * sizeof(Value));
}

template <bool exactly> int forward(const Problem& problem, float* y_OB, float* tau_OB, int32_t* last_OB) {
    const int64_t threads = threads_for(problem);
    Tiles tiles(problem.x, problem.B, problem.M, threads);
    const bool both = exactly || some_negative(tiles);
    const double peak = tiles.peak();
    if (!std::isfinite(peak)) return NOT_FINITE;
    std::atomic<bool> finite{true};
    split(problem.O, threads, [&](int64_t, int64_t first, int64_t last) {
        std::vector<Class> block(BLOCK, Class(problem.M));
        std::vector<Floats> products(problem.K > INSERTED ? problem.M : 0);
        std::vector<Floats> guess(tiles.count, every(exactly ? LOWEST : 0));
        for (int64_t start = first; start < last; start += BLOCK) {
            const int64_t end = std::min(start + BLOCK, last);
            for (int64_t c = start; c < end; c++) {
                block[c - start].order(problem, c, both);
                // Whether every sum of K products stays finite; those of anything but finite numbers do not.
                const double most = block[c - start].most * peak * static_cast<double>(problem.K);
                if (!(most <= static_cast<double>(std::numeric_limits<float>::max()))) finite = false;
            }
            if (!finite) return;
            for (int64_t t = 0; t < tiles.count; t++)
                for (int64_t c = start; c < end; c++) {
                    const Class& its = block[c - start];
                    Found found;
                    if (problem.K <= INSERTED) {
                        found = insert_any<exactly>(std::make_integer_sequence<int, INSERTED>{}, problem, its, tiles, c, t);
                    } else {
                        found = count<exactly>(problem, its, tiles, c, t, guess[t], products);
                        guess[t] = select(found.tau > every(0), found.tau * every(GUESS), found.tau);
                    }
                    const int64_t at = c * problem.B + t * LANES, lanes = std::min(LANES, problem.B - t * LANES);
                    store(y_OB + at, &found.sum, lanes);
                    store(tau_OB + at, &found.tau, lanes);
                    store(last_OB + at, &found.last, lanes);
                }
        }
    });
    return finite ? DONE : NOT_FINITE;
}

// The outputs of a tile in the backward pass: gradients, and what is routed.
struct Kept {
    Floats gy, tau, last;
    bool ties;  // whether `last` has to be asked

    Kept(const Problem& problem, int64_t c, int64_t t, const float* gy_OB, const float* tau_OB, const int32_t* last_OB) {
        const int64_t at = c * problem.B + t * LANES, lanes = std::min(LANES, problem.B - t * LANES);
        gy = every(0);
        tau = every(-LOWEST);  // lanes without an input route nothing
        last = every(0);
        ties = false;
        std::memcpy(&gy, gy_OB + at, lanes * sizeof(float));
        std::memcpy(&tau, tau_OB + at, lanes * sizeof(float));
        for (int64_t b = 0; b < lanes; b++) {
            set_lane(last, b, static_cast<float>(last_OB[at + b]));
            ties |= last_OB[at + b] < problem.M;
        }
    }
};

// Adds what one class and tile bring to the gradients; `seen` places of `of_weight` are in use.
template <bool exactly, bool ties>
void add_gradients(const Class& its, const Tiles& tiles, int64_t t, const Kept& kept, Floats* of_weight, int64_t& seen,
                   Floats* of_x) {
    const Floats* tile = &tiles.x[t * tiles.M];
    const float *weight = its.weight.data();
    const int32_t *index = its.index.data();
    const Floats guard = exactly ? kept.tau : larger(kept.tau, every(TINY)), gy = kept.gy, tau = kept.tau, last = kept.last;
    visit<exactly>(
        its, tiles, t, [&] { return guard; },
        [&](int64_t j, auto number) {
            for (; seen < j + number(); seen++) of_weight[seen] = every(0);
#pragma GCC unroll 16
            for (int64_t n = 0; n < number(); n++) {
                const int32_t i = index[j + n];
                const Floats x = tile[i], w = every(weight[j + n]), product = x * w;
                Mask routed = product >= guard;
                if (ties) routed = routed & ((product > tau) | (last >= every(static_cast<float>(i))));
                const Floats its_gy = select(routed, gy, every(0));
                of_weight[j + n] = multiply_add(its_gy, x, of_weight[j + n]);
                of_x[i] = multiply_add(its_gy, w, of_x[i]);
            }
        });
}

template <bool exactly>
void backward(const Problem& problem, const float* gy_OB, const float* tau_OB, const int32_t* last_OB, float* gx, float* gw) {
    const int64_t threads = std::min(threads_for(problem), problem.O), M = problem.M;
    Tiles tiles(problem.x, problem.B, M, threads);
    const bool both = exactly || some_negative(tiles);
    // One sum of the inputs' gradients a thread, so that no two write the same place.
    std::vector<std::vector<Floats>> parts(threads);
    split(problem.O, threads, [&](int64_t thread, int64_t first, int64_t last) {
        std::vector<Class> block(BLOCK, Class(M));
        std::vector<std::vector<Floats>> of_weight(BLOCK, std::vector<Floats>(M));
        parts[thread].assign(tiles.count * M, every(0));
        for (int64_t start = first; start < last; start += BLOCK) {
            const int64_t end = std::min(start + BLOCK, last);
            int64_t seen[BLOCK] = {};
            for (int64_t c = start; c < end; c++) block[c - start].order(problem, c, both);
            for (int64_t t = 0; t < tiles.count; t++)
                for (int64_t c = start; c < end; c++) {
                    const int64_t at = c - start;
                    const Kept kept(problem, c, t, gy_OB, tau_OB, last_OB);
                    auto* add = kept.ties ? add_gradients<exactly, true> : add_gradients<exactly, false>;
                    add(block[at], tiles, t, kept, of_weight[at].data(), seen[at], &parts[thread][t * M]);
                }
            for (int64_t c = start; gw && c < end; c++) {
                float* row = gw + c * M;
                std::memset(row, 0, M * sizeof(float));
                for (int64_t j = 0; j < seen[c - start]; j++) {
                    float sum = 0;
                    for (int64_t b = 0; b < LANES; b++) sum += lane(of_weight[c - start][j], b);
                    row[block[c - start].index[j]] = sum;
                }
            }
        }
    });
    if (!gx) return;
    split(tiles.count, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t t = first; t < last; t++)
            for (int64_t i = 0; i < M; i++) {
                Floats sum = every(0);
                for (const auto& part : parts) sum = sum + part[t * M + i];
                for (int64_t b = 0; b < std::min(LANES, problem.B - t * LANES); b++) gx[(t * LANES + b) * M + i] = lane(sum, b);
            }
    });
}

}  // namespace

// All arrays are dense: x (B, M), w (O, M), mask (O, M) or null, y, tau, last and gy (O, B), gx (B, M), gw (O, M) or null.
extern "C" {

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
